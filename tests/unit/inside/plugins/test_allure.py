"""The host's result of a test inside is dropped, or completed if the test did not end there."""

import json
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.inside.plugins import allure
from pytest_gvisor.inside.plugins.allure import settle


class Listener:
    """A stand-in for allure-pytest's listener, with one result begun."""

    def __init__(self) -> None:
        self.results = {"uuid": SimpleNamespace(status=None, statusDetails=None)}
        self.allure_logger = SimpleNamespace(get_test=self.results.get, drop_test=self.results.pop)
        self._cache = {"x::test": "uuid"}
        self.ran: list[str] = []

    def pytest_runtest_setup(self, item: Any) -> Iterator[None]:
        """Note the hook that takes titles."""
        yield
        self.ran.append("setup")

    def pytest_runtest_teardown(self, item: Any) -> Iterator[None]:
        """Note the hook that takes labels."""
        yield
        self.ran.append("teardown")


def item_of(listener: object, nodeid: str = "x::test") -> Any:
    """A test of a session with this listener."""
    manager = SimpleNamespace(get_plugin=lambda name: listener)
    return SimpleNamespace(nodeid=nodeid, config=SimpleNamespace(pluginmanager=manager))


def test_a_test_that_ended_inside_has_its_result_from_there() -> None:
    """The plugin on the host finds nothing more to write."""
    listener = Listener()
    settle(listener, item_of(listener), ended=True, lost=None)
    assert listener.results == {}
    assert listener._cache == {}


def test_a_lost_test_is_broken_for_the_reason_of_its_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The result has title and labels, and its text is escaped."""
    model = SimpleNamespace(StatusDetails=lambda **given: given)
    monkeypatch.setitem(sys.modules, "allure_commons.model2", model)
    listener = Listener()
    lost: Any = SimpleNamespace(longreprtext="lost\x1b[2J\nmore")
    settle(listener, item_of(listener), ended=False, lost=lost)
    assert vars(listener.results["uuid"]) == {
        "status": "broken",
        "statusDetails": {"message": "lost\\x1b[2J", "trace": "lost\\x1b[2J\nmore"},
    }
    assert listener.ran == ["setup", "teardown"]


def test_a_test_that_the_host_has_skipped_keeps_its_status() -> None:
    """Its report was made here, where the plugin has seen it."""
    listener = Listener()
    listener.results["uuid"].status = "skipped"
    settle(listener, item_of(listener), ended=False, lost=None)
    assert listener.results["uuid"].status == "skipped"
    assert listener.ran == ["setup", "teardown"]


@pytest.mark.parametrize(
    "listener", [None, object(), SimpleNamespace(_cache={}, allure_logger=object())]
)
def test_a_plugin_of_another_form_is_left_alone(listener: object) -> None:
    """Nor is there anything to do without the plugin, or for a test that it does not know."""
    settle(listener, item_of(listener), ended=True, lost=None)
    settle(other := Listener(), item_of(other, "x::other"), ended=True, lost=None)


class Named:
    """A test of a session, which ``NAMES`` knows by its name."""

    def __init__(self, name: str, session: Any, params: dict[str, object]) -> None:
        self.name = name
        self.session = session
        self.callspec = SimpleNamespace(params=params)
        session.items.append(self)


def session_of() -> Any:
    """A session without tests."""
    return SimpleNamespace(items=[], stash=pytest.Stash())


NAMES = SimpleNamespace(allure_full_name=lambda item: item.name, md5=lambda *parts: repr(parts))
RESULT = {"fullName": "own", "testCaseId": "('own',)", "historyId": "('own', 1)", "status": "x"}


@pytest.mark.parametrize(
    ("changes", "foreign"),
    [
        ({}, False),
        ({"historyId": None}, False),
        ({"historyId": "('own', 'of a dynamic parameter')"}, False),
        ({"historyId": "('own', 2)"}, True),
        ({"historyId": "('other',)"}, True),
        ({"fullName": "other"}, True),
        ({"fullName": ["own"]}, True),
        ({"fullName": "other", "testCaseId": "('other',)", "historyId": "('other',)"}, True),
        ({"testCaseId": "('other',)"}, True),
    ],
)
def test_a_result_is_of_a_test_of_its_own_sandbox(
    changes: dict[str, object], foreign: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Allure would show it in the place of the other test's."""
    monkeypatch.setitem(sys.modules, "allure_pytest.utils", NAMES)
    session = session_of()
    own: Any = Named("own", session, {"number": 1})
    Named("own", session, {"number": 2})
    Named("other", session, {})
    Named("odd", session, {"number": object()})
    data = json.dumps(RESULT | changes).encode()
    assert allure.judged("1-result.json", data, [own], set()) == (None if foreign else data)


@pytest.mark.parametrize(
    ("changes", "failed", "status"),
    [
        ({"status": "passed"}, ["own"], "broken"),
        ({"status": "skipped"}, ["own"], "broken"),
        ({"status": None}, ["own"], "broken"),
        ({"status": "failed"}, ["own"], "failed"),
        ({"status": "broken", "statusDetails": {}}, ["own"], "broken"),
        ({"status": "passed"}, ["other"], "passed"),
        ({"status": "passed"}, [], "passed"),
        ({"status": "passed", "historyId": "('own', 'of a dynamic parameter')"}, ["own"], "broken"),
        ({"status": "passed", "historyId": None}, ["own"], "broken"),
        ({"status": "passed", "historyId": None}, ["other"], "passed"),
    ],
)
def test_no_result_of_a_failed_test_says_that_it_has_passed(
    changes: dict[str, object], failed: list[str], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host may have failed the test after its result was written inside, or have lost it."""
    monkeypatch.setitem(sys.modules, "allure_pytest.utils", NAMES)
    session = session_of()
    tests: Any = {"own": Named("own", session, {"number": 1}), "other": Named("other", session, {})}
    data = json.dumps(RESULT | changes).encode()
    seen = {tests[name] for name in failed}
    new = allure.judged("1-result.json", data, [*tests.values()], seen)
    assert new is not None
    assert json.loads(new)["status"] == status
    assert (new == data) is (changes["status"] == status)


class Odd:
    """A parameter that cannot be shown."""

    def __repr__(self) -> str:
        """Raise."""
        raise RuntimeError


@pytest.mark.parametrize("value", [(1, 2), [3], {"a": 4}, frozenset()])
def test_a_parameter_that_is_no_number_tells_tests_apart(
    value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another test of the function has passed, and a third has a parameter without a repr."""
    monkeypatch.setitem(sys.modules, "allure_pytest.utils", NAMES)
    session = session_of()
    failed, passed, odd = (Named("own", session, {"x": one}) for one in (value, 1, Odd()))
    given = RESULT | {"historyId": f"('own', {value!r})", "status": "passed"}
    tests: Any = [failed, passed, odd]
    new = allure.judged("1-result.json", json.dumps(given).encode(), tests, {tests[0]})
    assert json.loads(new or b"{}")["status"] == "broken"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"7", b'{"fullName": "other", "fullName": "own"}', b"[" * 100_000,
        json.dumps({**RESULT, "steps": [[]] * 1_000_001}).encode(),
        *(json.dumps({**RESULT, name: "('other',)"}).encode()
          for name in ("FullName", "historyID", "TESTCASEID", "Status")),
    ],
    ids=["empty", "half", "list", "number", "twice", "deep", "many", *"abcd"],
)  # fmt: skip
def test_what_is_no_result_is_of_no_test(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two readers may find another name in a key that comes twice."""
    monkeypatch.setitem(sys.modules, "allure_pytest.utils", NAMES)
    own: Any = Named("own", session_of(), {"number": 1})
    assert allure.judged("1-result.json", data, [own], set()) is None


def attached(source: object, name: str = "source") -> bytes:
    """A result with an attachment in a step."""
    steps = [{"attachments": [{"name": "x", name: source}]}]
    return json.dumps(RESULT | {"steps": steps}).encode()


@pytest.mark.parametrize(
    ("data", "lands"),
    [
        (attached("1-attachment.txt"), True),
        (attached("../../.ssh/id_rsa"), False),
        (attached("/etc/passwd"), False),
        (attached("..\\..\\x"), False),
        (attached([]), False),
        (attached("/etc/passwd", "Source"), False),
        (b"{", False),
    ],
)
@pytest.mark.parametrize("path", ["1-result.json", "1-container.json", "1-globals.json"])
def test_an_attachment_is_a_file_beside_its_result(
    data: bytes, lands: bool, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Allure would put any file that a result names into its report, in whatever case."""
    monkeypatch.setitem(sys.modules, "allure_pytest.utils", NAMES)
    own: Any = Named("own", session_of(), {"number": 1})
    assert allure.judged(path, data, [own], set()) == (data if lands else None)


SUITE = b"<testsuite><testcase classname='../../secret' name='other'/></testsuite>"


@pytest.mark.parametrize(
    ("path", "data", "lands"),
    [
        ("1-attachment.json", b'[{"keyword": "Feature", "elements": []}]', True),
        ("1-attachment.xml", b"<a><testsuite/></a>", True),
        ("environment.xml", b"<environment/>", True),
        ("categories.json", b"[]", True),
        ("executor.json", b"{}", True),
        ("1-attachment.xml", SUITE, False),
        ("1-attachment.XML", b"<testsuites/>", False),
        ("1-attachment.xml", b"<assemblies xmlns='x'/>", False),
        ("1-attachment.xml", "<?xml version='1.0'?><testsuite/>".encode("utf-16"), False),
        ("1-attachment.xml", b"no XML", False),
        ("environment.xml", SUITE, False),
        ("TEST-1.xml", b"<a/>", False),
        ("1-testsuite.json", b"{}", False),
        ("1.json", b"[]", False),
        ("1.jsonl", b"{}", False),
        ("history/history.json", b"{}", False),
    ],
)
def test_no_other_file_is_read_as_results(path: str, data: bytes, lands: bool) -> None:
    """Allure reads those of JUnit, xUnit and cucumber, and the history of all tests."""
    assert allure.judged(path, data, [], set()) == (data if lands else None)


def test_the_names_of_all_tests_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of some thousand results would else take some milliseconds."""
    session, asked = session_of(), list[Any]()

    def name_of(item: Any) -> str:
        asked.append(item)
        return str(item.name)

    names = SimpleNamespace(allure_full_name=name_of, md5=NAMES.md5)
    monkeypatch.setitem(sys.modules, "allure_pytest.utils", names)
    own: Any = Named("own", session, {"number": 1})
    Named("other", session, {})
    for _ in range(3):
        assert allure.judged("1-result.json", json.dumps(RESULT).encode(), [own], set())
    assert asked == session.items


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be"])
def test_no_entities_of_an_attachment_fill_the_memory(encoding: str) -> None:
    """A parser puts a hundred times the bytes of the whole into an attribute of the first tag."""
    entities = "".join(f"<!ENTITY {a} '{f'&{b};' * 9}'>" for a, b in ("ba", "cb", "dc"))
    end = f"<!DOCTYPE r [<!ENTITY a 'x'>{entities}]><r x='&d;'/>"
    bomb, plain = (f'<?xml version="1.0"?>{text}'.encode(encoding) for text in (end, "<r x='1'/>"))
    assert allure.judged("x-attachment.xml", bomb, (), ()) is None
    assert allure.judged("x-attachment.xml", plain, (), ()) == plain
