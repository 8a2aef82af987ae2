"""The short form of a report: for passed phases without anything else to say."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.guest.tests import passed
from pytest_gvisor.guest.wire import encoding
from pytest_gvisor.inside.wire import reports
from pytest_gvisor.inside.wire.session_bounds import SessionBounds
from tests.unit.inside.wire.test_reports import ITEM


def report_of(when: str = "call", **changes: Any) -> pytest.TestReport:
    """A passed phase's report, apart from the changes."""
    usual: dict[str, Any] = {
        "nodeid": ITEM.nodeid, "location": ("test_it.py", 3, "test_it"), "outcome": "passed",
        "keywords": dict.fromkeys(ITEM.keywords, 1), "longrepr": None, "when": when,
        "duration": 0.1 + 0.2, "start": 1.7e9 + 0.1, "stop": 1.7e9 + 0.3,
    }  # fmt: skip
    return pytest.TestReport(**{**usual, **changes})


def begun(*, usual: bool = True) -> passed.Shortener:
    """A maker of short forms that has begun with the test."""
    shortener = passed.Shortener(usual=usual)
    shortener.begin(ITEM)
    return shortener


def sent(kind: str, **fields: Any) -> Any:
    """The fields as they arrive at the host."""
    return json.loads(encoding.encoded(kind, fields).decode("utf-8", "surrogatepass"))


def full(config: pytest.Config, report: pytest.TestReport) -> pytest.TestReport:
    """The report as the host makes it of all its fields."""
    data = config.hook.pytest_report_to_serializable(config=config, report=report)
    message = sent("report", data=data, plain=isinstance(report.longrepr, str))
    return reports.revive(config, message, ITEM, SessionBounds(config))


@pytest.mark.parametrize(
    "changes",
    [{}, {"location": ("a.py", None, "x")}, {"duration": -1.0}, {"duration": 3, "start": 0}],
)
def test_a_short_form_makes_the_report_that_its_fields_make(
    pytestconfig: pytest.Config, changes: dict[str, Any]
) -> None:
    """Each attribute of each phase has the same value, and the same type."""
    shortener = begun()
    for when in ("setup", "call", "teardown"):
        report = report_of(when, **changes)
        short = sent("passed", passed=shortener.short(report))["passed"]
        made, other = reports.revive_passed(short, ITEM), full(pytestconfig, report)
        del vars(other)["$report_type"]  # pytest leaves it there when it reads a report
        assert vars(made) == vars(other)
        assert list(map(type, vars(made).values())) == list(map(type, vars(other).values()))


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "failed"}, {"outcome": "skipped"}, {"outcome": "rerun"}, {"longrepr": "boom"},
        {"sections": [("Captured stdout call", "")]}, {"user_properties": [("a", 1)]},
        {"wasxfail": "so"}, {"rerun": 0}, {"mine": None}, {"keywords": {"test_it": 1, "slow": 1}},
    ],
)  # fmt: skip
def test_a_report_with_more_to_say_has_no_short_form(changes: dict[str, Any]) -> None:
    """All that a short form leaves unsaid is the same in each, or known to the host."""
    assert begun().short(report_of(**changes)) is None


def test_a_subtest_has_no_short_form() -> None:
    """A plugin's own kind of report has a class of its own."""

    class SubtestReport(pytest.TestReport):
        pass

    report = report_of()
    report.__class__ = SubtestReport
    assert begun().short(report) is None


@pytest.mark.parametrize(
    ("modules", "usual"),
    [
        (["_pytest.reports", "_pytest.subtests"], True),
        (["_pytest.reports", "pytest_subtests.plugin"], True),
        (["_pytest.reports", "conftest"], False),
        (["_pytest.reports", None], False),
    ],
)
@pytest.mark.parametrize("direction", ["to", "from"])
def test_a_project_that_makes_reports_itself_gets_whole_ones(
    modules: list[str | None], usual: bool, direction: str
) -> None:
    """Its hook is asked for each report, whether it makes the data or reads it."""
    found = [
        SimpleNamespace(plugin=SimpleNamespace(__name__=name) if name else object())
        for name in modules
    ]
    names = [f"pytest_report_{one}_serializable" for one in ("to", "from")]
    hook = SimpleNamespace(**{name: SimpleNamespace(get_hookimpls=list) for name in names})
    setattr(
        hook,
        f"pytest_report_{direction}_serializable",
        SimpleNamespace(get_hookimpls=lambda: found),
    )
    assert passed.is_usual(hook) is usual
    shortener = begun(usual=passed.is_usual(hook))
    assert (shortener.short(report_of()) is not None) is usual
