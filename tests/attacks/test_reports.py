"""A test inside forges reports: of itself, of other tests, and of tests that never ran."""

import json
import os
import xml.etree.ElementTree as ET

import pytest

from tests.attacks.conftest import RunInside
from tests.inside.conftest import PLUGINS

FORGERS = """
import os

import pytest
from _pytest import reports

VICTIM = "test_it.py::test_victim"
PLACE = ("test_it.py", 4, "test_victim")
pytestmark = pytest.mark.in_gvisor(fresh=True)

@pytest.fixture
def channel(pytestconfig):
    return pytestconfig.pluginmanager.get_plugin("gvisor-worker")._link

def forged(**fields):
    return {
        "$report_type": "TestReport", "nodeid": VICTIM, "location": PLACE, "keywords": {},
        "outcome": "passed", "longrepr": None, "when": "call", "sections": [], "duration": 0,
        "start": 0, "stop": 0, "user_properties": [], **fields,
    }

def forge(**fields):
    real = reports.TestReport._to_json
    reports.TestReport._to_json = lambda self: {**real(self), **fields}

def test_fields(record_property):
    record_property("gvisor.platform", "another")
    forge(nodeid=VICTIM, location=PLACE, keywords={"test_victim": 1}, start=-1e10, _id=VICTIM,
          _hypothesis_stats=f"{VICTIM}:\\n\\n{VICTIM}:\\n  - x", worker_id="gw7", item_index=1)

def test_attributes(record_xml_attribute):
    for name, value in zip(("file", "line", "name", "classname", "xmlns"), (*PLACE, "it", "x")):
        record_xml_attribute(name, value)

def test_another(channel):
    channel.send("report", id=VICTIM, data=forged(), plain=False)

def test_one_that_is_not_here(channel):
    channel.send("done", id=VICTIM, passed={"when": "call", "times": [0, 0, 0]})

def test_again(channel, pytestconfig):
    name = "test_it.py::test_again"
    for when in ("call", "teardown", "setup", "call", "teardown"):
        channel.send("report", id=name, data=forged(when=when), plain=False)

def test_early(channel):
    channel.send("done", id="test_it.py::test_early")

def test_collection(channel):
    channel.send("collected", ids=[VICTIM], numbers=[""], errors=[])

def test_session(channel):
    channel.send("finished")
    os._exit(0)

def test_skip_without_a_place(record_property):
    record_property("so that the report", "is no short one")
    forge(outcome="skipped", longrepr="]]><\\x1b]0;x\\x07")

def test_failure_without_a_text(record_property):
    record_property("so that the report", "is no short one")
    forge(outcome="failed", longrepr=None)

def test_outcome_of_nobody(record_property):
    record_property("so that the report", "is no short one")
    forge(outcome="better")

def test_warning(channel):
    for when in ("collect", "x"):
        channel.send("warning", text="forged", module="builtins", name="UserWarning", lineno=1,
                     filename="x.py", line="", when=when, nodeid=VICTIM, location=None)

def test_victim():
    assert 0
"""
OUTCOMES = {
    "test_fields": set(), "test_attributes": set(), "test_another": {"failure"},
    "test_one_that_is_not_here": {"failure"}, "test_again": {"error"}, "test_early": {"failure"},
    "test_collection": {"failure"}, "test_session": {"failure"},
    "test_skip_without_a_place": {"skipped"}, "test_failure_without_a_text": {"failure", "error"},
    "test_outcome_of_nobody": {"failure"}, "test_warning": set(), "test_victim": {"failure"},
}  # fmt: skip
OTHERS = {"properties", "system-out", "system-err"}
CONFTEST = """
import json, os, pathlib

def pytest_runtest_logreport(report):
    if "PYTEST_GVISOR_INSIDE" not in os.environ:
        said = [report.nodeid, report.location, [*report.keywords], report.start, report.outcome]
        with pathlib.Path(__file__).with_name("said.json").open("a") as file:
            print(json.dumps(said), file=file)
"""


def test_a_test_can_forge_no_report_but_its_own(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """Each of these forgers has a sandbox of its own.

    The host's are id, place and keywords of every report, and of every case in the JUnit file. No
    test that fails ends the session or is green.
    """
    project.makeini("[pytest]\njunit_family = xunit1\n")
    project.makeconftest(CONFTEST)
    lines = project.makepyfile(test_it=FORGERS).read_text().splitlines()
    result = run_inside("--junitxml=junit.xml", "-rA", "-p", "no:randomly")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    names = [line[4:].partition("(")[0] for line in lines if line.startswith("def test_")]
    place = {name: at for at, line in enumerate(lines) for name in names if f"def {name}(" in line}
    cases = [*ET.parse(project.path / "junit.xml").iter("testcase")]
    found = [tuple(map(case.get, ("classname", "name", "file", "line"))) for case in cases]
    # pytest itself has a case of its own for an error of the teardown after a failure.
    assert [*dict.fromkeys(found)] == [
        ("test_it", name, "test_it.py", str(place[name])) for name in names
    ]
    told = {name: set[str]() for name in names}
    for case in cases:
        told[case.attrib["name"]] |= {node.tag for node in case} - OTHERS
    assert told == OUTCOMES
    assert "another" not in {one.get("value") for one in cases[0].iter("property")}
    result.stdout.fnmatch_lines(["*5 attributes of the JUnit report that tell the test*left out"])
    for line in (project.path / "said.json").read_text().splitlines():
        nodeid, location, keywords, start, outcome = json.loads(line)
        name = nodeid.rpartition("::")[2]
        assert location == ["test_it.py", place[name], name]
        assert name in keywords
        assert start >= 0
        assert outcome in {"passed", "failed", "skipped"}


LATER = """
import pytest

@pytest.fixture
def channel(pytestconfig):
    return pytestconfig.pluginmanager.get_plugin("gvisor-worker")._link

def test_stops_the_clock(channel):
    type(channel)._write.__globals__["_now"] = float

@pytest.mark.parametrize("number", range(100))
def test_passes(number):
    pass

@pytest.mark.parametrize("number", range(10))
def test_fails(number):
    pytest.fail("so", pytrace=False)

def test_forges(channel):
    waiting = channel._unsent.frames() + b"".join(
        one if isinstance(one, bytes) else str(one).encode() for one in channel._waiting
    )
    assert b'"outcome"' not in waiting  # the report of a failure has one
    assert waiting.count(b'"done"') <= 64
    assert len(waiting) < len(channel._unsent._bytes)
"""


def test_what_waits_in_shared_memory_are_passed_reports_and_64_at_most(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """A later test of the same sandbox can change these, and no report of a failure.

    The clock inside stands still: no report that waits is sent for the time that it has waited.
    """
    project.makepyfile(LATER)
    run_inside().assert_outcomes(passed=102, failed=10)


STOPS = """
import pytest

@pytest.mark.in_gvisor(fresh=True)
def test_stops():
    pytest.exit("\\x1b]0;x\\x07\\n3 passed in 0.1s", returncode=0)

def test_that_never_runs():
    pass
"""


def test_a_session_that_a_test_ends_is_no_success(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """A test that has not run has no report, and the status says that the session was stopped."""
    project.makepyfile(STOPS)
    result = run_inside("--junitxml=junit.xml", "-rA")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "\x1b]" not in result.stdout.str() + result.stderr.str()
    assert "never_runs" not in result.stdout.str() + (project.path / "junit.xml").read_text()


FAILS_FIRST = """
import pytest

def test_fails(pytestconfig, request):
    channel = pytestconfig.pluginmanager.get_plugin("gvisor-worker")._link
    item, hook = request.node, pytestconfig.hook
    for when, outcome in [("call", "failed"), ("teardown", "rerun"), ("setup", "passed")]:
        text = None if outcome == "passed" else "so"
        report = pytest.TestReport(item.nodeid, item.location, {}, outcome, text, when)
        data = hook.pytest_report_to_serializable(config=pytestconfig, report=report)
        channel.send("report", id=item.nodeid, data=data, plain=True)
"""


def test_no_other_try_takes_back_a_failure(
    project: pytest.Pytester, run_inside: RunInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that has failed is not set up again, and the saved report says that it has failed."""
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS), prepend=os.pathsep)
    project.makepyfile(FAILS_FIRST)
    result = run_inside("-p", "no:randomly", "--gvisor-report=report.json")
    result.assert_outcomes(failed=1, errors=1)
    (test,) = json.loads((project.path / "report.json").read_text())["tests"]
    assert [cell["state"] for cell in test["cells"]] == ["failed"]


HIDES = """
import pytest

class Hides:
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item):
        report = yield
        item.config.pluginmanager.get_plugin("gvisor-worker")._terminal.captured = True
        return report

def test_fails(pytestconfig):
    pytestconfig.pluginmanager.register(Hides())
    assert 0
"""


def test_no_failure_is_hidden_from_what_a_plugin_prints(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """TeamCity takes a test for passed if the plugin on the host prints no failure."""
    project.makeconftest("def pytest_runtest_logreport(report): print('told', report.outcome)")
    project.makepyfile(HIDES)
    result = run_inside()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*told failed"])


RESULTS = """
import hashlib, json, pathlib

import pytest

OUT = pathlib.Path(__file__).parent / "out"

def md5(text):
    return hashlib.md5(text.encode()).hexdigest()

def write(name, full, history):
    OUT.mkdir(exist_ok=True)
    result = {"uuid": name, "name": "test_fails", "fullName": full, "testCaseId": md5(full),
              "historyId": md5(history), "status": "passed", "labels": []}
    (OUT / f"{name}-result.json").write_text(json.dumps(result))

@pytest.mark.in_gvisor(fresh=True)
def test_forges():
    write("of-another", "test_it#test_fails", "test_it#test_fails")
    write("with-its-history", "test_it#test_forges", "test_it#test_fails")
    (OUT / "half-result.json").write_text("{")

def test_fails():
    assert 0
"""


@pytest.mark.parametrize("returns", ["", "gvisor_returns = out"])
def test_no_result_of_allure_takes_the_place_of_another_s(
    returns: str,
    project: pytest.Pytester,
    run_inside: RunInside,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sandbox sends results of its own tests alone, by whichever place of files."""
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS), prepend=os.pathsep)
    project.makeini(f"[pytest]\n{returns}\n")
    project.makepyfile(test_it=RESULTS)
    result = run_inside("-p", "no:randomly", "--alluredir=out")
    result.assert_outcomes(passed=1, failed=1)
    found = [json.loads(path.read_text()) for path in project.path.glob("out/*-result.json")]
    assert sorted((one["fullName"], one["status"]) for one in found) == [
        ("test_it#test_fails", "failed"),
        ("test_it#test_forges", "passed"),
    ]
    result.stdout.fnmatch_lines(["*out/of-another-result.json stayed inside: it is no result of*"])
