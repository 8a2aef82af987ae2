"""The report sections of a failed test: how each of its sandboxes was started, and what it said."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_gvisor.escape import escape, escape_but_colour

if TYPE_CHECKING:
    from pytest_gvisor.harness import Gvisor
    from pytest_gvisor.launch.runner import Record

_TAIL = 4000
_SHOWN_RUNS = 5
_STRACE_LINES = 40


def complete(report: pytest.TestReport, item: pytest.Item, harnesses: Sequence[Gvisor]) -> None:
    """Add the sections to a report of a failed phase, and escape everything in it."""
    if report.failed:
        for harness in harnesses:
            found = sections(
                harness.records,
                nodeid=item.nodeid,
                platform=harness.platform.value,
                debug=harness.settings.debug,
            )
            report.sections += list(found)
    escape_report(report)


def sections(
    records: Sequence[Record], *, nodeid: str, platform: str, debug: bool
) -> Iterator[tuple[str, str]]:
    """Title and text of each section, for the last runs of a test."""
    for record in records[-_SHOWN_RUNS:]:
        title = "gvisor: " + escape(shlex.join(record.args)[:100] or "(nothing was started)")
        yield f"{title}: command", _command(record, nodeid, platform)
        if record.completed is not None and record.completed.stderr:
            yield f"{title}: stderr", quoted(record.completed.stderr[-_TAIL:])
        if record.runsc_records:
            yield f"{title}: runsc's error record", quoted("\n".join(record.runsc_records))
        if record.panic:
            yield f"{title}: panic log", quoted(record.panic[-_TAIL:])
        if debug:
            yield from _debug(title, record)


def _command(record: Record, nodeid: str, platform: str) -> str:
    again = ["python", "-m", "pytest", nodeid, "--gvisor-platform", platform]
    kept = f"kept in {record.kept}; repeat it with {record.kept}/replay.sh"
    lines = [
        f"ran: {record.command or '(runsc was not reached)'}",
        f"ended: {repr(record.completed) if record.completed else record.error}",
        f"again: {shlex.join([*again, '--gvisor-keep', 'failed'])}",
        *([kept] if record.kept else []),
    ]
    return escape("\n".join(lines))


def _debug(title: str, record: Record) -> Iterator[tuple[str, str]]:
    from pytest_gvisor.launch.logs import relevant  # noqa: PLC0415 -- only for a failed test

    lines = record.debug_logs.get("boot", "").splitlines()
    strace = [line for line in lines if "strace.go" in line]
    boot = "\n".join(line for line in lines if "strace.go" not in line)
    if boot:
        yield f"{title}: boot log", quoted("\n".join(relevant(boot)))
    if strace:
        yield f"{title}: strace", quoted("\n".join(strace[-_STRACE_LINES:]))


def quoted(text: str) -> str:
    """Untrusted text, escaped, each line behind a mark: none can pass for a line of pytest's."""
    return "\n".join("| " + line for line in escape(text).split("\n"))


def escape_report(report: pytest.TestReport) -> None:
    """Escape everything that a report of a test shows, in place: it may hold workloads' output."""
    report.sections = [
        (escape(title), (escape_but_colour if "log" in title else escape)(text))
        for title, text in report.sections
    ]
    longrepr = report.longrepr
    if isinstance(longrepr, str):
        report.longrepr = escape(longrepr)
    elif isinstance(longrepr, tuple):
        path, line, reason = longrepr
        report.longrepr = (path, line, escape(reason))
    elif longrepr is not None:
        _escape_repr(longrepr, seen=set())


def _escape_repr(thing: object, seen: set[int]) -> None:
    """Escape every string in a tree of pytest's exception representations (``_pytest._code``).

    The classes are private, their attributes differ by release: so all that hold text are visited.
    """
    if id(thing) in seen or not hasattr(thing, "__dict__"):
        return
    seen.add(id(thing))
    for name, value in vars(thing).items():
        fresh = _escaped_value(value, seen)
        if fresh is not value:
            object.__setattr__(thing, name, fresh)  # some of the classes are frozen


def _escaped_value(value: object, seen: set[int]) -> object:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list | tuple):
        return type(value)([_escaped_value(part, seen) for part in value])
    _escape_repr(value, seen)
    return value
