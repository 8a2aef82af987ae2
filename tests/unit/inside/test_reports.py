"""Reports from inside become pytest's own, and what cannot be one is a typed error."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.errors import ProtocolError
from pytest_gvisor.inside import reports


def data_of(**changes: Any) -> dict[str, Any]:
    """A passed call's report as pytest serialises it, apart from the changes."""
    usual = {
        "$report_type": "TestReport",
        "nodeid": "test_other.py::test_other",
        "location": ["test_it.py", 3, "test_it"],
        "keywords": {"test_it": 1},
        "outcome": "passed",
        "longrepr": None,
        "when": "call",
        "sections": [["Captured stdout call", "shown"]],
        "duration": 0.5,
        "start": 1.0,
        "stop": 1.5,
        "user_properties": [["key", "value"]],
    }
    return {**usual, **changes}


def revived(config: pytest.Config, **changes: Any) -> pytest.TestReport:
    """What becomes of it."""
    return reports.revive(
        config, {"data": data_of(**changes), "plain": True}, "test_it.py::test_it"
    )


def test_a_report_is_the_test_s_own(pytestconfig: pytest.Config) -> None:
    """Under the host's node id whatever the report says, and with tuples where pytest has some."""
    report = revived(pytestconfig)
    assert report.nodeid == "test_it.py::test_it"
    assert report.location == ("test_it.py", 3, "test_it")
    assert report.sections == [("Captured stdout call", "shown")]
    assert report.user_properties == [("key", "value")]
    assert report.passed


def test_a_skip_keeps_its_place(pytestconfig: pytest.Config) -> None:
    """As a tuple, which pytest's summary takes apart."""
    longrepr = ["/x/test_it.py", 7, "Skipped: because"]
    report = revived(pytestconfig, outcome="skipped", longrepr=longrepr)
    assert report.longrepr == ("/x/test_it.py", 7, "Skipped: because")


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "splendid"}, {"outcome": None}, {"when": "later"}, {"when": []},
        {"duration": "long"}, {"start": None}, {"keywords": []}, {"location": None},
        {"location": ["a"]}, {"location": "abc", "sections": 3}, {"sections": [["a"]]},
        {"sections": [1]}, {"user_properties": [[1, 2, 3]]}, {"longrepr": ["a", "b"]},
        {"longrepr": {"reprcrash": 1}}, {"longrepr": {"reprcrash": {}, "reprtraceback": {}}},
        {"longrepr": 1}, {"longrepr": True}, {"duration": 1e300}, {"location": ["a", "b", "c"]},
        {"longrepr": {"reprcrash": {"path": 1, "lineno": [], "message": {}}, "sections": [],
                      "reprtraceback": {"reprentries": [{"type": "ReprEntry", "data": {}}],
                                        "extraline": 1, "style": 2}, "chain": None}},
        {"longrepr": {"reprcrash": None, "sections": [], "chain": [],
                      "reprtraceback": {"reprentries": [{"type": "Nothing", "data": {}}],
                                        "extraline": None, "style": "long"}}},
        {"$report_type": "CollectReport"}, {"$report_type": "Nothing"}, {"$report_type": 1},
    ],
)  # fmt: skip
def test_what_cannot_be_a_report_is_a_protocol_error(
    pytestconfig: pytest.Config, changes: dict[str, Any]
) -> None:
    """Nothing else is raised, and nothing of it is taken."""
    with pytest.raises(ProtocolError):
        revived(pytestconfig, **changes)


@pytest.mark.parametrize("duration", [-1e9, -0.5, -1])
def test_no_phase_takes_less_than_no_time(pytestconfig: pytest.Config, duration: float) -> None:
    """A clock that was turned back, or a lie: whoever adds it up gets a number of seconds."""
    assert revived(pytestconfig, duration=duration).duration == 0


def test_what_is_the_host_s_own_is_not_taken(pytestconfig: pytest.Config) -> None:
    """Neither what xdist says of workers nor the names of methods; a reason becomes text."""
    names = ("node", "worker_id", "testrun_uid", "item_index", "toterminal", "get_sections")
    report = revived(pytestconfig, **dict.fromkeys(names, "x"), _id="x", wasxfail=7, mine=[1])
    assert set(names).isdisjoint(vars(report))
    assert report.nodeid == "test_it.py::test_it"
    assert vars(report)["mine"] == [1]
    assert report.wasxfail == "7"


@pytest.mark.parametrize("data", [None, [], "report", 7, {}])
def test_a_message_without_a_report_is_a_protocol_error(
    pytestconfig: pytest.Config, data: object
) -> None:
    """An object with all the fields it must be."""
    with pytest.raises(ProtocolError):
        reports.revive(pytestconfig, {"data": data}, "x")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(field=st.sampled_from(sorted(data_of())), value=anything)
def test_any_field_may_be_anything(pytestconfig: pytest.Config, field: str, value: object) -> None:
    """It is a report of that test, or a protocol error."""
    try:
        report = revived(pytestconfig, **{field: value})
    except ProtocolError:
        return
    assert report.nodeid == "test_it.py::test_it"
    assert report.outcome in {"passed", "failed", "skipped", "rerun"}


def test_a_warning_s_category_is_looked_up_and_never_made(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among what is imported here; anything else is a plain warning, and nothing runs for it."""
    config = pytester.parseconfig()
    lazy = types.ModuleType("lazy")

    def imports(name: str) -> object:
        raise ImportError(name)

    lazy.__getattr__ = imports  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    seen: list[type[Warning]] = []

    class Listener:
        def pytest_warning_recorded(self, warning_message: Any) -> None:
            seen.append(warning_message.category)

    config.pluginmanager.register(Listener())
    for module, name in (
        ("builtins", "DeprecationWarning"), ("builtins", "eval"), ("os", "system"),
        ("no.such.module", "X"), ("builtins", "Exception"), ("", ""),
        ("lazy", "Warning"),
    ):  # fmt: skip
        message = {"module": module, "name": name, "text": "t", "lineno": "x", "location": [1]}
        reports.warn(config, message, "x")
    assert seen == [DeprecationWarning, *[UserWarning] * 6]
