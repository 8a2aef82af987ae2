"""The report sections of a failed test: how each of its sandboxes was started, and what it said."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_gvisor.escape import escape
from pytest_gvisor.report.again import command
from pytest_gvisor.state import UNTRUSTED

if TYPE_CHECKING:
    from pytest_gvisor.harness import Gvisor
    from pytest_gvisor.launch.request import Record

_TAIL = 4000
_SHOWN_RUNS = 5
_LONGEST_COMMAND = 20_000


def complete(report: pytest.TestReport, item: pytest.Item, harnesses: Sequence[Gvisor]) -> None:
    """Add the sections to a report of a failed phase, and escape everything in it."""
    if report.failed:
        for harness in harnesses:
            settings = harness.settings
            again = command(item, settings, harness.platform, "--gvisor-keep", "failed")
            found = sections(harness.records, again=again, debug=settings.debug)
            report.sections += list(found)
    colour = _in_colour(item.config)
    escape_report(report, painted=_painted(colour))
    vars(report)[UNTRUSTED] = colour


def escape_again(report: pytest.TestReport) -> None:
    """Escape everything once more when a report is logged.

    pytest makes that of a subtest from one of its test's, of which it keeps the attributes, and
    adds the captured output, the logs and the subtest's message and arguments.
    """
    escape_report(report, painted=_painted(vars(report).pop(UNTRUSTED)))


def _painted(colour: bool) -> Callable[[str], str]:
    return safe_but_colour if colour else safe


def _in_colour(config: pytest.Config) -> bool:
    """Whether pytest itself puts colours into reports, as it does into the diff of an assertion."""
    if not config.pluginmanager.has_plugin("terminalreporter"):
        return False
    return bool(config.get_terminal_writer().hasmarkup)


def sections(records: Sequence[Record], *, again: str, debug: bool) -> Iterator[tuple[str, str]]:
    """Title and text of each section, for the last runs of a test."""
    for record in records[-_SHOWN_RUNS:]:
        words = shlex.join(record.args)[:100] or "(nothing was started)"
        title = "gvisor: " + escape(words).replace("\n", "\\n")
        yield f"{title}: command", _command(record, again)
        if record.completed is not None and record.completed.stderr:
            yield f"{title}: stderr", quoted(record.completed.stderr[-_TAIL:])
        if record.runsc_records:
            yield f"{title}: runsc's error record", quoted("\n".join(record.runsc_records))
        if record.panic:
            yield f"{title}: panic log", quoted(record.panic)
        if debug:
            yield from _debug(title, record)


def _command(record: Record, again: str) -> str:
    kept = f"kept in {record.kept}; repeat it with {record.kept}/replay.sh"
    lines = [
        f"ran: {_bounded(record.command) or '(runsc was not reached)'}",
        f"ended: {_bounded(repr(record.completed)) if record.completed else record.error}",
        f"again: {again}",
        *(f"noted: {note}" for note in record.notes),
        *([kept] if record.kept else []),
    ]
    return escape("\n".join(lines))


def _bounded(text: str) -> str:
    """A command that can be pasted, unless it is longer than anybody would."""
    cut = len(text) - _LONGEST_COMMAND
    if cut <= 0:
        return text
    return f"{text[:_LONGEST_COMMAND]}… ({cut} more characters; --gvisor-keep has a replay.sh)"


def _debug(title: str, record: Record) -> Iterator[tuple[str, str]]:
    from pytest_gvisor.launch.logs import debugged  # noqa: PLC0415 -- only for a failed test

    boot, strace = debugged(record.debug_logs.get("boot", ""))
    if boot:
        yield f"{title}: boot log", quoted("\n".join(boot))
    if strace:
        yield f"{title}: strace", quoted("\n".join(strace))


def quoted(text: str) -> str:
    """Untrusted text, escaped, each line behind a mark: none can pass for a line of pytest's."""
    return "\n".join("| " + line for line in escape(text).split("\n"))


# A workload could also write pytest's last line, which people and programs trust.
_SUMMARY = re.compile(
    r"(?m)^([ =]*)(?=(?:no tests ran|[0-9]+ (?:passed|failed|errors?|skipped|deselected|xfailed"
    r"|xpassed|warnings?)\b).* in [0-9])(.)"
)
# What pytest and pygments write, apart from black: it cannot hide text, nor move the cursor.
_COLOUR = re.compile(r"\x1b\[(?:0|0?1|0?4|39;49;00|3[1-7]|9[0-7])m")


def safe(text: str) -> str:
    """Untrusted text for a report: escaped, and no line of it passes for pytest's summary."""
    return _SUMMARY.sub(lambda found: f"{found[1]}\\x{ord(found[2]):02x}", escape(text))


def uncoloured(text: str) -> str:
    """Text without the colours that pytest may have put into it."""
    return _COLOUR.sub("", text)


def safe_but_colour(text: str) -> str:
    """`safe`, except that colours stay: for text that pytest itself has coloured."""
    parts = []
    position = 0
    for found in _COLOUR.finditer(text):
        parts += [safe(text[position : found.start()]), found[0]]
        position = found.end()
    return "".join([*parts, safe(text[position:])])


def escape_report(
    report: pytest.TestReport,
    *,
    painted: Callable[[str], str] = safe,
    output: Callable[[str], str] = safe,
) -> None:
    """Escape everything that a report of a test shows, in place: it may hold workloads' output.

    ``painted`` is for the report's own text, which pytest may have coloured, ``output`` for what
    was captured.
    """
    report.sections = [
        (safe(title), (painted if "log" in title else output)(text))
        for title, text in report.sections
    ]
    report.user_properties = [
        (safe(str(name)), safe(value) if isinstance(value, str) else value)
        for name, value in report.user_properties
    ]
    if hasattr(report, "wasxfail"):
        report.wasxfail = safe(report.wasxfail)
    context = getattr(report, "context", None)  # a subtest's
    for name in ("msg", "kwargs"):
        if (given := getattr(context, name, None)) is not None:
            # What holds them is frozen, and has slots.
            object.__setattr__(context, name, _safe_words(given))
    longrepr = report.longrepr
    if isinstance(longrepr, str):
        report.longrepr = painted(longrepr)
    elif isinstance(longrepr, tuple):
        path, line, reason = longrepr
        report.longrepr = (safe(path), line, safe(reason))
    elif longrepr is not None:
        _Rewriter(painted).rewrite(longrepr)


def _safe_words(given: object) -> object:
    if isinstance(given, Mapping):
        return {safe(str(name)): _safe_words(value) for name, value in given.items()}
    return safe(given) if isinstance(given, str) else given


class _Rewriter:
    """Changes every string in a tree of pytest's exception representations (``_pytest._code``).

    The classes are private, their attributes differ by release: so all that hold text are visited.
    """

    def __init__(self, change: Callable[[str], str]) -> None:
        self._change = change
        self._seen: set[int] = set()

    def rewrite(self, thing: object) -> None:
        """Change the strings that ``thing`` holds, in place."""
        if id(thing) in self._seen or not hasattr(thing, "__dict__"):
            return
        self._seen.add(id(thing))
        for name, value in vars(thing).items():
            fresh = self._changed(value)
            if fresh is not value:
                object.__setattr__(thing, name, fresh)  # some of the classes are frozen

    def _changed(self, value: object) -> object:
        if isinstance(value, str):
            return self._change(value)
        if isinstance(value, list | tuple):
            return type(value)([self._changed(part) for part in value])
        self.rewrite(value)
        return value
