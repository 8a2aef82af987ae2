"""The parts of `make test`: notes each one's failed tests, and shows all in the last summary.

A CI job's page shows the end of its log alone, and a part may have failed an hour before. This
pytest plugin does nothing without the variables of scripts/test.
"""

import os

import pytest

from pytest_gvisor.base.escape import escape

FAILED = "TESTS_FAILED"
"""The file to which a part's pytest adds a line for each failed test."""

ENDED = "TESTS_PARTS"
"""The lines to show: how each part before this pytest ended, and its failed tests."""

_LONGEST = 200


def cause(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the first line of a failure's message: escaped, and of bounded length."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = report.longreprtext if crash is None else crash.message
    lines = [line for line in text.splitlines() if line.strip()] or ["no message"]
    # A message begins with its cause. A traceback as text ends with it.
    return escape(lines[-1 if crash is None else 0])[:_LONGEST]


class Parts:
    """The end of this pytest: a file for its failed tests, and lines to show."""

    def __init__(self, file: str | None, lines: list[str]) -> None:
        self.file = file
        self.lines = lines

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Note this pytest's failed tests, and show the parts that ended before."""
        stats = terminalreporter.stats
        failed = [*stats.get("failed", ()), *stats.get("error", ())]
        if self.file and failed:
            with open(self.file, "a", encoding="utf-8") as file:
                file.writelines(f"{report.nodeid} - {cause(report)}\n" for report in failed)
        for line in self.lines:
            bad = line.startswith(" ") or "FAILED" in line
            terminalreporter.write_line(line, red=bad, green=not bad)


def pytest_configure(config: pytest.Config) -> None:
    """Take the variables away: a pytest that a test starts is no part."""
    file, lines = os.environ.pop(FAILED, None), os.environ.pop(ENDED, "").splitlines()
    config.pluginmanager.register(Parts(file, lines))
