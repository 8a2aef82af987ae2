"""Reports of passed phases from untrusted short forms."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_gvisor.errors import ProtocolError
from pytest_gvisor.inside.passed import Reviver

NODEID = "test_it.py::test_it"
FORM: dict[str, Any] = {
    "when": "setup",
    "times": [0.5, 1.0, 1.5],
    "location": ["test_it.py", 3, "test_it"],
    "keywords": ["test_it"],
}


@pytest.mark.parametrize(
    "short",
    [
        None, [], 7, "passed", {}, {"times": [1, 2, 3]},
        {**FORM, "when": "later"}, {**FORM, "when": []}, {**FORM, "times": [1, 2]},
        {**FORM, "times": "123"}, {**FORM, "times": [1, 2, 3, 4]}, {**FORM, "times": [1, 2, None]},
        {**FORM, "times": [math.inf, 1, 2]}, {**FORM, "times": [1, 2, 10**400]},
        {**FORM, "times": {"a": 1, "b": 2, "c": 3}}, {**FORM, "location": None},
        {**FORM, "location": ["a", 1]}, {**FORM, "location": ["a", "b", "c"]},
        {**FORM, "location": ["a", 2**40, "c"]}, {**FORM, "keywords": [1]},
        {**FORM, "keywords": "abc"}, {**FORM, "keywords": [["a"]]}, {**FORM, "keywords": {"a": 1}},
        {name: FORM[name] for name in ("when", "times")},
        {name: FORM[name] for name in ("when", "times", "location")},
    ],
)  # fmt: skip
def test_a_form_of_another_shape_is_no_report(pytestconfig: pytest.Config, short: object) -> None:
    """The error ends the sandbox, and its cause is bounded."""
    with pytest.raises(ProtocolError) as caught:
        Reviver(pytestconfig).revive(short, NODEID)
    assert len(str(caught.value)) < 400


def test_what_one_test_said_counts_for_no_other(pytestconfig: pytest.Config) -> None:
    """Location and keywords are a test's own."""
    reviver = Reviver(pytestconfig)
    reviver.revive(FORM, NODEID)
    following = {"when": "call", "times": [1, 2, 3]}
    assert reviver.revive(following, NODEID).location == ("test_it.py", 3, "test_it")
    with pytest.raises(ProtocolError, match="without a location"):
        reviver.revive(following, "test_it.py::test_other")


def test_reports_share_nothing_that_a_plugin_may_change(pytestconfig: pytest.Config) -> None:
    """Reports of pytest's own share nothing either."""
    reviver = Reviver(pytestconfig)
    first, second = reviver.revive(FORM, NODEID), reviver.revive(FORM, NODEID)
    for name in ("keywords", "sections", "user_properties"):
        assert getattr(first, name) is not getattr(second, name)


def test_a_plugin_of_the_host_that_makes_reports_makes_these_too(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin gets the fields that pytest serialises. Without a report it is an error."""

    class Plugin:
        made: object = 7

        @pytest.hookimpl(tryfirst=True)
        def pytest_report_from_serializable(self, data: dict[str, Any]) -> object:
            self.data = data
            return self.made

    plugin = Plugin()
    pytestconfig.pluginmanager.register(plugin)
    try:
        reviver = Reviver(pytestconfig)
        with pytest.raises(ProtocolError, match="int"):
            reviver.revive(FORM, NODEID)
        assert plugin.data["$report_type"] == "TestReport"
        plugin.made = made = pytest.TestReport(
            NODEID, ("", 1, ""), {}, "passed", None, "call", duration=1
        )
        assert reviver.revive(FORM, NODEID) is made
    finally:
        pytestconfig.pluginmanager.unregister(plugin)
