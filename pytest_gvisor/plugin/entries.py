"""One test on one platform, from pytest's reports of its phases to a cell of the matrix."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_gvisor.base.escape import escape, uncoloured
from pytest_gvisor.report.model import MAX_NUMBER, Cell, Run, State
from pytest_gvisor.report.run_texts import head, tail

MAX_OUTPUT = 16_000
MAX_TRACEBACKS = 4 * MAX_OUTPUT
"""Characters of a test's tracebacks after which no more are kept."""

MAX_MESSAGE = 500
_MORE = "[… and more failures …]"


@dataclass(kw_only=True, slots=True)
class CellInMaking:
    """A test on one platform in one process, by its reports so far."""

    row: str
    platform: str
    state: State = State.NOT_RUN
    command: str = ""
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    duration: float = 0.0
    starts_ms: list[float] = dataclasses.field(default_factory=list)
    used: dict[str, Any] = dataclasses.field(default_factory=dict)
    message: str = ""
    lacking: bool = False
    tracebacks: list[str] = dataclasses.field(default_factory=list)
    captured: str = ""
    runs: list[dict[str, str]] = dataclasses.field(default_factory=list)
    dropped: bool = False
    """Whether details were left out, for the report's size."""

    void: bool = False
    """Whether the try that is under way does not count, and another one will follow."""

    failed: bool = False
    """Whether pytest counts a failure of its own, which no other try takes back."""

    def take(self, report: pytest.TestReport) -> None:
        """Take the report of one phase."""
        self.duration += report.duration
        self.void &= not report.failed  # the try has come, and has killed its worker of xdist
        self.failed |= report.failed and not hasattr(report, "context")  # not of a subtest
        state = state_of(report, cause="cause" in self.data)
        if state is None:
            return
        # A failure stays one, whatever a later phase, a later subtest or another run says.
        if self.state not in {State.FAILED, State.ERROR} and state.rank < self.state.rank:
            self.state = state
            self.message = "" if state is State.PASSED else message_of(report)
            self.lacking = "cause" in self.data

    def add_traceback(self, text: str) -> None:
        """Keep a traceback if there is room: any number of subtests may fail."""
        if sum(map(len, self.tracebacks)) < MAX_TRACEBACKS:
            self.tracebacks.append(tail(text, MAX_OUTPUT))
        elif self.tracebacks[-1] != _MORE:
            self.tracebacks.append(_MORE)

    @property
    def size(self) -> int:
        """Return the number of characters in the details."""
        runs = sum(len(text) for run in self.runs for text in run.values())
        return len(self.captured) + sum(map(len, self.tracebacks)) + runs

    def drop_details(self) -> None:
        """Forget the details."""
        self.captured = ""
        self.tracebacks, self.runs = [], []
        self.dropped = True

    def cell(self, nodeid: str) -> Cell:
        """Return the entry as a cell of the report."""
        return Cell(
            platform=self.platform,
            state=State.NOT_RUN if self.void else self.state,
            nodeid=escape(nodeid),
            runsc=escape(self.data.get("runsc", [""])[0]),
            release=self.data.get("release", ""),
            network=self.data.get("network", ""),
            duration=round(min(self.duration, MAX_NUMBER), 4),
            starts_ms=tuple(self.starts_ms),
            **self.used,
            message=escape(self.message),
            output=escape("\n".join([*self.tracebacks, self.captured]).strip("\n")),
            runs=tuple(Run(**{k: escape(v) for k, v in run.items()}) for run in self.runs),
            command=escape(self.command),
            lacking=self.lacking,
        )


def worker_of(report: pytest.TestReport) -> str:
    """Return the worker that sent a report, or was lost in the test; empty without workers."""
    node: Any = getattr(report, "node", None)
    return "" if node is None else str(node.gateway.id)


def state_of(report: pytest.TestReport, *, cause: bool) -> State | None:
    """Return the test's state by the report of one phase; None if the report decides nothing."""
    expected = hasattr(report, "wasxfail")
    # A subtest's report, which names its arguments, adds nothing but its failure.
    subtest = hasattr(report, "context")
    if report.failed:
        return State.FAILED if report.when == "call" else State.ERROR
    if subtest:
        return None
    if report.skipped:
        return State.UNAVAILABLE if cause else State.XFAILED if expected else State.SKIPPED
    if report.passed and report.when == "call":
        return State.XPASSED if expected else State.PASSED
    return None


def message_of(report: pytest.TestReport) -> str:
    """Return a few lines on why a test has not simply passed."""
    if wasxfail := getattr(report, "wasxfail", ""):
        return head(str(wasxfail), MAX_MESSAGE)
    longrepr = report.longrepr
    if isinstance(longrepr, tuple):
        return head(str(longrepr[2]).removeprefix("Skipped: "), MAX_MESSAGE)
    crash = getattr(longrepr, "reprcrash", None)
    text = getattr(crash, "message", None)
    if text is None:
        lines = [line for line in str(longrepr or "").splitlines() if line.strip()]
        text = lines[0] if lines else ""
    return head(uncoloured(str(text)), MAX_MESSAGE)
