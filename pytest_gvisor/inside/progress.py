"""The progress of one test inside: which of its phases have a report."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

PHASES = ("setup", "call", "teardown")
_FINAL = frozenset({"passed", "failed", "skipped"})
"""The outcomes that end a phase. A plugin's own, such as ``retried``, decide nothing."""


@dataclass(kw_only=True)
class Progress:
    """The progress of one test by the messages that have arrived."""

    calls: bool = True
    """Whether a test that is set up is called too: not so with ``--setup-only``."""

    phase: str = "setup"
    reported: set[str] = dataclasses.field(default_factory=set)
    failed: bool = False
    is_set_up: bool = False

    def add(self, report: pytest.TestReport) -> None:
        """Take a report; a subtest's does not end a phase."""
        if type(report) is not pytest.TestReport or report.when is None:
            return
        # A plugin's own outcome, such as a rerun's, is followed by the report of another try.
        if report.outcome in _FINAL:
            self.reported.add(report.when)
        else:
            self.reported.discard(report.when)
        self.failed |= report.failed
        if report.when == "setup":
            self.is_set_up = report.passed

    def missing(self) -> str | None:
        """Return the first phase without its report; None if the test is complete."""
        expected = [phase for phase in PHASES if phase != "call" or (self.calls and self.is_set_up)]
        return next((phase for phase in expected if phase not in self.reported), None)
