"""Reports from inside become pytest's own, and invalid ones are a typed error."""

import json
import sys
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any, Self, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.base.errors import ProtocolError
from pytest_gvisor.inside.wire import reports, session_bounds
from pytest_gvisor.inside.wire.session_bounds import SessionBounds

ITEM = cast("pytest.Item", SimpleNamespace(
    nodeid="test_it.py::test_it", location=("test_it.py", 3, "test_it"), keywords=["test_it"],
))  # fmt: skip
"""The host's test."""


def data_of(**changes: Any) -> dict[str, Any]:
    """A passed call's report as pytest serialises it, apart from the changes."""
    usual = {
        "$report_type": "TestReport",
        "nodeid": "test_other.py::test_other",
        "location": ["test_other.py", 7, "test_other"],
        "keywords": {"slow": 1},
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
    """The report as the host rebuilds it."""
    message = {"data": data_of(**changes), "plain": True}
    return reports.revive(config, message, ITEM, SessionBounds(config))


def test_a_report_is_the_test_s_own(pytestconfig: pytest.Config) -> None:
    """Id and place are the host's, its keywords are there, and tuples where pytest has tuples."""
    report = revived(pytestconfig)
    assert report.nodeid == "test_it.py::test_it"
    assert report.location == ("test_it.py", 3, "test_it")
    assert report.keywords == {"slow": 1, "test_it": 1}
    assert report.sections == [("Captured stdout call", "shown")]
    assert report.user_properties == [("key", "value")]
    assert report.passed


TRACEBACK: dict[str, Any] = {
    "reprcrash": None, "sections": [], "chain": None,
    "reprtraceback": {"reprentries": [], "extraline": None, "style": "long"},
}  # fmt: skip
NOTHING = {**TRACEBACK["reprtraceback"], "reprentries": [{"type": "Nothing", "data": {}}]}


def test_source_has_colours_up_to_a_length_of_one_entry_and_of_a_session(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines of the failure itself do not count, for pytest gives them one colour."""
    monkeypatch.setattr(session_bounds, "_MOST_SOURCE", 6000)
    bounds = SessionBounds(pytestconfig)

    def style_of(*lines: str) -> str:
        entry = dict.fromkeys(("reprfuncargs", "reprlocals", "reprfileloc"))
        entries = [{"type": "ReprEntry", "data": {**entry, "lines": lines, "style": "long"}}]
        traceback = {"reprentries": entries, "extraline": None, "style": "long"}
        chain = [[traceback, None, None]]
        ways: list[dict[str, Any]] = [{"reprtraceback": traceback}, {"chain": chain}]
        for way in ways:
            given = {"data": data_of(outcome="failed", longrepr=TRACEBACK | way)}
            report: Any = reports.revive(pytestconfig, json.loads(json.dumps(given)), ITEM, bounds)
        (found,) = report.longrepr.reprtraceback.reprentries
        return str(found.style)

    assert style_of("x" * 4097) == "value"
    assert [style_of("x" * 999, "E   " + "y" * 9999) for _ in range(4)] == ["long"] * 3 + ["value"]


@pytest.mark.parametrize("longrepr", ["boom", TRACEBACK])
@pytest.mark.parametrize("is_plain", [True, False])
def test_a_failure_that_is_no_string_on_the_host_is_none_here(
    pytestconfig: pytest.Config, longrepr: object, *, is_plain: bool
) -> None:
    """pytest's summary has the first line of a string, and of another object none."""
    message = {"data": data_of(outcome="failed", longrepr=longrepr), "plain": is_plain}
    found = reports.revive(pytestconfig, message, ITEM, SessionBounds(pytestconfig)).longrepr
    if longrepr == "boom":
        assert str(found) == "boom"
        assert isinstance(found, str) is is_plain
    else:
        assert hasattr(found, "reprtraceback")


def test_a_failure_has_a_text_and_a_skip_a_place(pytestconfig: pytest.Config) -> None:
    """pytest's JUnit report and summary break off the session without them."""
    failed = revived(pytestconfig, outcome="failed", longrepr=None)
    assert (failed.longrepr is not None, failed.longreprtext) == (True, "")
    # Session.testsfailed leaves out a failure with this attribute, and the terminal shows it.
    assert not hasattr(revived(pytestconfig, outcome="failed", wasxfail="so"), "wasxfail")
    skipped = revived(pytestconfig, outcome="skipped", longrepr="so")
    assert skipped.longrepr == ("test_it.py", 3, "so")
    assert revived(pytestconfig, outcome="skipped", longrepr="so", wasxfail="").longrepr == "so"


def test_an_outcome_is_one_that_a_plugin_here_has(pytestconfig: pytest.Config) -> None:
    """Plugins that count outcomes break off the session at another one."""

    class Plugin:
        def pytest_report_teststatus(self, report: Any) -> object:
            return ("better", "B", "BETTER") if report.outcome == "better" else None

    with pytest.raises(ProtocolError, match="no plugin here has the outcome 'better'"):
        revived(pytestconfig, outcome="better")
    plugin = Plugin()
    pytestconfig.pluginmanager.register(plugin)
    try:
        assert vars(revived(pytestconfig, outcome="better"))["outcome"] == "better"
    finally:
        pytestconfig.pluginmanager.unregister(plugin)


STATISTICS = "test_it.py::test_it:\n\n  - during generate phase:\n    - 3 passing\n"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (STATISTICS.replace("it:", "other:"), STATISTICS),
        ("  - Stopped", "test_it.py::test_it:\n  - Stopped"),
        ("a\ntest_other:\n\n  - b", "test_it.py::test_it:\n  test_other:\n\n  - b"),
    ],
)
def test_statistics_of_hypothesis_name_the_host_s_test(
    pytestconfig: pytest.Config, sent: str, shown: str
) -> None:
    """The line of another test would not be indented."""
    assert vars(revived(pytestconfig, _hypothesis_stats=sent))["_hypothesis_stats"] == shown


def test_the_cause_of_a_refusal_is_short(pytestconfig: pytest.Config) -> None:
    """The cause has at most three hundred characters of the message."""
    longrepr = {**TRACEBACK, "reprtraceback": {
        **TRACEBACK["reprtraceback"], "reprentries": [{"type": "x" * 1000, "data": {}}],
    }}  # fmt: skip
    with pytest.raises(ProtocolError) as caught:
        revived(pytestconfig, longrepr=longrepr)
    assert len(str(caught.value).partition("cannot be one: ")[2]) == 300


def test_a_report_that_is_made_up_has_the_keywords_of_pytest_s_own(
    request: pytest.FixtureRequest,
) -> None:
    """Plugins look up tests by these keywords."""
    made = reports.made_up(request.node, "setup", "never came", 0.5)
    assert made.keywords == dict.fromkeys(request.node.keywords, 1)
    assert (made.when, made.outcome, made.longrepr) == ("setup", "failed", "never came")


def test_a_skip_keeps_its_place(pytestconfig: pytest.Config) -> None:
    """A skip's place is a tuple, as pytest's summary needs it."""
    longrepr = ["/x/test_it.py", 7, "Skipped: because"]
    report = revived(pytestconfig, outcome="skipped", longrepr=longrepr)
    assert report.longrepr == ("/x/test_it.py", 7, "Skipped: because")


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "splen\ndid"}, {"outcome": None}, {"when": "later"}, {"when": []},
        {"duration": "long"}, {"start": None}, {"keywords": []}, {"sections": 3},
        {"sections": [["a"]]},
        {"sections": [1]}, {"user_properties": [[1, 2, 3]]}, {"longrepr": ["a", "b"]},
        {"longrepr": {"reprcrash": 1}}, {"longrepr": {"reprcrash": {}, "reprtraceback": {}}},
        {"longrepr": 1}, {"longrepr": True}, {"duration": 1e300},
        {"longrepr": {"reprcrash": {"path": 1, "lineno": [], "message": {}}, "sections": [],
                      "reprtraceback": {"reprentries": [{"type": "ReprEntry", "data": {}}],
                                        "extraline": 1, "style": 2}, "chain": None}},
        {"longrepr": {**TRACEBACK, "reprtraceback": NOTHING}},
        {"longrepr": {**TRACEBACK, "reprtraceback": NOTHING, "chain": []}},
        {"longrepr": ["a", float("inf"), "b"]},
        {"$report_type": "CollectReport"}, {"$report_type": "Nothing"}, {"$report_type": 1},
    ],
)  # fmt: skip
def test_what_cannot_be_a_report_is_a_protocol_error(
    pytestconfig: pytest.Config, changes: dict[str, Any]
) -> None:
    """Any invalid report is a protocol error, and none of it is used."""
    with pytest.raises(ProtocolError):
        revived(pytestconfig, **changes)


@pytest.mark.parametrize("time", [-1e9, -0.5, -1])
def test_no_time_is_below_zero(pytestconfig: pytest.Config, time: float) -> None:
    """A negative time, from a changed clock or a lie, becomes 0."""
    report = revived(pytestconfig, duration=time, start=time, stop=time)
    assert report.duration == report.start == report.stop == 0


def test_what_is_the_host_s_own_is_not_taken(pytestconfig: pytest.Config) -> None:
    """Fields of xdist and names of methods are left out; a reason becomes text."""
    names = ("node", "worker_id", "testrun_uid", "item_index", "toterminal", "get_sections")
    report = revived(pytestconfig, **dict.fromkeys(names, "x"), _id="x", wasxfail=7)
    assert set(names).isdisjoint(vars(report))
    assert report.nodeid == "test_it.py::test_it"
    assert report.wasxfail == "7"


@pytest.mark.parametrize("data", [None, [], "report", 7, {}])
def test_a_message_without_a_report_is_a_protocol_error(
    pytestconfig: pytest.Config, data: object
) -> None:
    """An object with all the fields it must be."""
    with pytest.raises(ProtocolError):
        reports.revive(pytestconfig, {"data": data}, ITEM, SessionBounds(pytestconfig))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


MORE = ("extras", "rerun", "_json_report_extra", "_ctrf_metadata")


@given(field=st.sampled_from([*data_of(), *MORE]), value=anything)
def test_any_field_may_be_anything(pytestconfig: pytest.Config, field: str, value: object) -> None:
    """Any value of any field gives a report of that test or a protocol error."""
    try:
        report = revived(pytestconfig, **{field: value})
    except ProtocolError:
        return
    assert report.nodeid == "test_it.py::test_it"
    assert report.outcome in {"passed", "failed", "skipped"}


def test_a_warning_of_the_collection_is_of_no_test_and_comes_once(
    pytester: pytest.Pytester,
) -> None:
    """A warning that the host's collection had is left out. A test's warning comes each time."""
    config = pytester.parseconfig()
    seen: list[tuple[str, str]] = []

    class Listener:
        def pytest_warning_recorded(self, when: str, nodeid: str) -> None:
            seen.append((when, nodeid))

    config.pluginmanager.register(Listener())
    bounds = SessionBounds(config)
    config.pluginmanager.register(bounds)
    message = {"module": "builtins", "name": "UserWarning", "text": "t", "filename": "f"}
    for when in ("collect", "collect", "runtest", "other", "config"):
        reports.warn(config, {**message, "when": when}, "x", bounds)
    reports.warn(config, {**message, "text": "u", "when": "config"}, "x", bounds)
    assert seen == [("collect", ""), ("runtest", "x"), ("runtest", "x"), ("config", "")]


def test_a_skip_without_a_place_has_that_of_its_test(pytestconfig: pytest.Config) -> None:
    """A test that is not in a file is at its beginning."""
    for line, place in ((7, 7), (0, 0), (None, 0)):
        item = cast("pytest.Item", SimpleNamespace(location=("test_it.py", line, "test_it")))
        report = pytest.TestReport("x", ("f", 1, "x"), {}, "skipped", "why", "call")
        reports._complete(report, item)
        assert report.longrepr == ("test_it.py", place, "why")


def recorded(config: pytest.Config) -> list[tuple[Any, Any]]:
    """The warnings that a configuration records from here on, each with its location."""
    seen: list[tuple[Any, Any]] = []

    class Listener:
        def pytest_warning_recorded(self, warning_message: Any, location: Any) -> None:
            seen.append((warning_message, location))

    config.pluginmanager.register(Listener())
    return seen


def test_a_warning_s_category_is_looked_up_and_never_made(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown category becomes a plain warning, and no import or code runs for it."""
    config = pytester.parseconfig()
    lazy = ModuleType("lazy")

    def imports(name: str) -> object:
        raise ImportError(name)

    lazy.__getattr__ = imports  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    seen = recorded(config)
    for module, name in (
        ("builtins", "DeprecationWarning"), ("builtins", "eval"), ("os", "system"),
        ("no.such.module", "X"), ("builtins", "Exception"), ("", ""),
        ("lazy", "Warning"),
    ):  # fmt: skip
        message = {"module": module, "name": name, "text": "t", "lineno": "x", "location": [1]}
        reports.warn(config, message, "x", SessionBounds(config))
    assert [said.category for said, _ in seen] == [DeprecationWarning, *[UserWarning] * 6]
    assert {(said.lineno, location) for said, location in seen} == {(0, None)}


def test_a_warning_is_one_of_its_class_which_is_not_called(pytester: pytest.Pytester) -> None:
    """Hooks here ask for its class. A class with a way of its own makes plain ones."""

    class Plain(UserWarning):
        pass

    class Made(UserWarning):
        def __init__(self, _number: int) -> None:
            raise AssertionError

    class New(UserWarning):
        def __new__(cls, _number: int) -> Self:
            raise AssertionError

    class Told(UserWarning):
        def __str__(self) -> str:
            raise AssertionError

    config = pytester.parseconfig()
    seen = recorded(config)
    kinds = (Plain, Made, New, Told)
    for kind in kinds:
        message = {"module": __name__, "name": kind.__qualname__, "text": "t"}
        reports.warn(config, message, "x", SessionBounds(config))
    assert [said.category for said, _ in seen] == [*kinds]
    assert [type(said.message) for said, _ in seen] == [Plain, *[Warning] * 3]
    assert [cast("Warning", said.message).args for said, _ in seen] == [("t",)] * 4


BAD = "\x1b]52;c;eA==\x07\u202e\n::error::x"


def test_what_a_report_shows_is_escaped(pytestconfig: pytest.Config) -> None:
    """Text, output and places; the colours that a test prints stay, as on the host."""
    report = revived(
        pytestconfig,
        outcome="skipped",
        longrepr=BAD,
        sections=[["Captured stdout call", BAD + "\x1b[31mred\x1b[0m"]],
        user_properties=[[BAD, BAD]],
        wasxfail=BAD,
    )
    shown = "\n".join(
        [str(report.longrepr), *report.sections[0], report.wasxfail,
         *map(str, report.user_properties[0])]
    )  # fmt: skip
    assert shown.count("\\x1b]52;c;eA==\\x07\\u202e\n\\x3a:error") == 5
    assert "\x1b[31mred\x1b[0m" in report.sections[0][1]
    assert "\x1b]" not in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_text_like_pytest_s_last_line_is_shown_as_it_is_at_a_terminal(
    pytester: pytest.Pytester, terminal: bool
) -> None:
    """Programs that parse this line read a file or a pipe. Other text is escaped at either."""
    config = pytester.parseconfigure()
    config.pluginmanager.getplugin("terminalreporter").isatty = terminal
    text = "== 3 passed in 0.01s ==\n\x1b[2J"
    report = revived(config, sections=[["Captured stdout call", text]])
    first = "== 3 passed" if terminal else r"== \x33 passed"
    assert report.sections == [("Captured stdout call", f"{first} in 0.01s ==\n\\x1b[2J")]


def test_every_text_has_a_utf_8(pytestconfig: pytest.Config) -> None:
    """Each text of a report can be encoded, as xdist's workers have to send it."""
    report = revived(
        pytestconfig,
        longrepr="\udcff",
        keywords={"\udcff": 1},
        user_properties=[["\udcff", [{"\udcff": ["ü\ud800"]}]]],
    )
    for name, value in vars(report).items():
        assert f"{name}{value!s}".encode()
    assert report.user_properties == [("\\udcff", [{"\\udcff": ["ü\\ud800"]}])]


def test_no_code_of_a_module_runs_for_a_warning(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning calls no `__getattribute__` of a module or class."""

    class Lazy(ModuleType):
        def __getattribute__(self, name: str) -> object:
            raise AssertionError(name)

    class Meta(type):
        def __getattribute__(cls, name: str) -> object:
            raise AssertionError(name)

    class Strange(metaclass=Meta):
        pass

    monkeypatch.setitem(sys.modules, "lazy", Lazy("lazy"))
    holder = ModuleType("holder")
    holder.__dict__["Strange"] = Strange
    monkeypatch.setitem(sys.modules, "holder", holder)
    assert reports._category("lazy", "Warning") is UserWarning
    assert reports._category("holder", "Strange.Warning") is UserWarning
    assert reports._category("pytest", "PytestWarning") is pytest.PytestWarning


def test_a_warning_shows_no_line_of_the_host_s(pytester: pytest.Pytester) -> None:
    """The line of a warning comes from inside, and its text is escaped."""
    config = pytester.parseconfig()
    seen = recorded(config)
    secret = pytester.path / "secret"
    secret.write_text("of the host's\n")
    usual = {"module": "builtins", "name": "UserWarning", "when": "runtest", "lineno": 1,
             "filename": str(secret), "text": BAD, "location": [BAD, 1, BAD]}  # fmt: skip
    for more in ({}, {"line": "its()"}):
        reports.warn(config, {**usual, **more}, "x", SessionBounds(config))
    texts = [warnings.formatwarning(**_said(one)) for one, _ in seen]
    assert "of the host's" not in texts[0] + texts[1]
    assert texts[1].endswith("\n  its()\n")
    assert texts[1].startswith(f"{secret}:1: UserWarning")
    assert "\x1b" not in texts[0] + "".join(map(str, seen[0][1]))


def test_a_warning_keeps_its_place(pytester: pytest.Pytester) -> None:
    """A warning has file, line and function, as in pytest."""
    config = pytester.parseconfig()
    seen = recorded(config)
    message = {"text": "t", "lineno": 7, "location": ["test_it.py", 3, "test_it"]}
    reports.warn(config, message, "x", SessionBounds(config))
    ((said, location),) = seen
    assert (said.lineno, location) == (7, ("test_it.py", 3, "test_it"))


def _said(recorded: warnings.WarningMessage) -> dict[str, Any]:
    """The fields of a warning from which pytest makes its summary."""
    names = ("message", "category", "filename", "lineno", "line")
    return {name: getattr(recorded, name) for name in names}
