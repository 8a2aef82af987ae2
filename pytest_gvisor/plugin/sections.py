"""The report sections of a failed test: each sandbox's command and output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_gvisor.base.escape import safe, safe_but_colour
from pytest_gvisor.plugin import again
from pytest_gvisor.plugin.placement import UNTRUSTED
from pytest_gvisor.report.run_texts import sections

if TYPE_CHECKING:
    from pytest_gvisor.harness.gvisor import Gvisor


def add_sections(report: pytest.TestReport, item: pytest.Item, harnesses: Sequence[Gvisor]) -> None:
    """Add the sections to a report of a failed phase, and escape everything in it."""
    if report.failed:
        commands: dict[str, None] = {}
        for harness in harnesses:
            settings = harness.settings
            report.sections += list(sections(harness.records, debug=settings.debug))
            if harness.records:
                words = again.command(item, settings, harness.platform, "--gvisor-keep", "failed")
                commands[words] = None
        if commands:
            report.sections.append(again.section(*commands))
    # Whether pytest itself puts colours into reports, for instance into diffs of assertions.
    terminal = item.config.pluginmanager.has_plugin("terminalreporter")
    colour = terminal and bool(item.config.get_terminal_writer().hasmarkup)
    escape_report(report, painted=safe_but_colour if colour else safe)
    vars(report)[UNTRUSTED] = colour


def escape_again(report: pytest.TestReport) -> None:
    """Escape a report once more when it is logged.

    pytest makes that of a subtest from one of its test's, and keeps the attributes of it. It adds
    the captured output, the logs and the subtest's message and arguments.
    """
    colour = vars(report).pop(UNTRUSTED)
    escape_report(report, painted=safe_but_colour if colour else safe)


def escape_report(
    report: pytest.TestReport,
    *,
    painted: Callable[[str], str] = safe,
    output: Callable[[str], str] = safe,
) -> None:
    """Escape all texts of a report in place: workloads may have written them.

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
            object.__setattr__(context, name, _escape_words(given))
    longrepr = report.longrepr
    if isinstance(longrepr, str):
        report.longrepr = painted(longrepr)
    elif isinstance(longrepr, tuple):
        path, line, reason = longrepr
        report.longrepr = (safe(path), line, safe(reason))
    elif longrepr is not None:
        _Rewriter(painted).rewrite(longrepr)


def _escape_words(given: object) -> object:
    if isinstance(given, Mapping):
        return {safe(str(name)): _escape_words(value) for name, value in given.items()}
    return safe(given) if isinstance(given, str) else given


class _Rewriter:
    """A visitor of pytest's exception representations (``_pytest._code``) that changes strings.

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
            fresh = self._change_value(value)
            if fresh is not value:
                object.__setattr__(thing, name, fresh)  # some of the classes are frozen

    def _change_value(self, value: object) -> object:
        if isinstance(value, str):
            return self._change(value)
        if isinstance(value, list | tuple):
            return type(value)([self._change_value(part) for part in value])
        self.rewrite(value)
        return value
