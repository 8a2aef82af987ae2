"""Reports of passed phases from untrusted short forms."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.base.errors import ProtocolError
from pytest_gvisor.inside.wire.reports import revive_passed
from tests.unit.inside.wire.test_reports import ITEM

FORM: dict[str, Any] = {"when": "setup", "times": [0.5, 1.0, 1.5]}


@pytest.mark.parametrize(
    "short",
    [
        None, [], 7, "passed", {}, {"times": [1, 2, 3]},
        {**FORM, "when": "later"}, {**FORM, "when": []}, {**FORM, "times": [1, 2]},
        {**FORM, "times": "123"}, {**FORM, "times": [1, 2, 3, 4]}, {**FORM, "times": [1, 2, None]},
        {**FORM, "times": [math.inf, 1, 2]}, {**FORM, "times": [1, 2, 10**400]},
        {**FORM, "times": {"a": 1, "b": 2, "c": 3}}, {"when": "setup"}, {"when": None, "times": []},
    ],
)  # fmt: skip
def test_a_form_of_another_shape_is_no_report(short: object) -> None:
    """The error ends the sandbox, and its cause is bounded."""
    with pytest.raises(ProtocolError) as caught:
        revive_passed(short, ITEM)
    assert len(str(caught.value)) < 400


def test_what_tells_the_test_is_the_host_s() -> None:
    """A short form that names another test has no effect."""
    other = {"nodeid": "x", "location": ["test_other.py", 1, "x"], "keywords": ["x"]}
    report = revive_passed({**FORM, **other}, ITEM)
    assert (report.nodeid, report.location) == (ITEM.nodeid, ITEM.location)
    assert [*report.keywords] == [*ITEM.keywords]


def test_reports_share_nothing_that_a_plugin_may_change() -> None:
    """Reports of pytest's own share nothing either."""
    first, second = (revive_passed(FORM, ITEM) for _ in range(2))
    for name in ("keywords", "sections", "user_properties"):
        assert getattr(first, name) is not getattr(second, name)


def test_reports_share_the_parsed_node_id(request: pytest.FixtureRequest) -> None:
    """A second parse takes memory. An `id` of a project's own is no node id."""
    reports = [revive_passed(FORM, request.node) for _ in range(2)]
    parsed = getattr(request.node, "id", None)
    assert all(getattr(report, "id", None) is parsed for report in reports)
    own: Any = SimpleNamespace(**{**vars(ITEM), "id": 7})
    assert revive_passed(FORM, own).nodeid == ITEM.nodeid
