"""The terminal plugin of the pytest inside, whose lines nobody sees."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.guest.terminal import _Counter


class Pytest:
    """Takes the place of a configuration and of pytest's terminal plugin."""

    _tests_ran = False

    def __init__(self) -> None:
        self.hook = SimpleNamespace(pytest_report_teststatus=self.status)
        self.asked: list[str] = []
        self.counted: list[str] = []

    def status(self, report: Any, config: Any) -> tuple[str, str, str]:
        """Return what a plugin says of a report."""
        assert config is self
        self.asked.append(report.when)
        return "mine", "m", "MINE"

    def _add_stats(self, category: str, reports: list[Any]) -> None:
        self.counted += [category for _report in reports]


@pytest.mark.parametrize(
    ("usual", "outcome", "asked"),
    [
        (True, "passed", ["call"]),
        (True, "skipped", ["setup", "call", "teardown"]),
        (True, "failed", ["setup", "call", "teardown"]),
        (False, "passed", ["setup", "call", "teardown"]),
    ],
)
def test_plugins_are_asked_where_they_have_something_to_say(
    usual: bool, outcome: str, asked: list[str]
) -> None:
    """pytest itself asks for each phase, and makes a line of the answer."""
    inside = Pytest()
    counter = _Counter(inside, inside, usual=usual)
    phases = ("setup", "call", "teardown")
    for when in phases:
        report = pytest.TestReport("a", ("", 0, ""), {}, outcome, None, when)  # type: ignore[arg-type]
        counter.pytest_runtest_logreport(report)
    assert inside.asked == asked
    assert inside.counted == ["mine" if when in asked else "" for when in phases]
    assert inside._tests_ran
