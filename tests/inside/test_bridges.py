"""Data that a plugin gathers in the tests' process arrive on the host."""

import json
import os
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.inside.conftest import PLUGINS, inside, plain, run_both


def test_junit(project: pytest.Pytester) -> None:
    """Properties of the suite, from its last teardown too, and attributes of a test."""
    project.makeini("[pytest]\njunit_family = xunit1\n")
    project.makepyfile("""
        import pytest

        @pytest.fixture(scope="session")
        def recorded(record_testsuite_property):
            yield record_testsuite_property
            record_testsuite_property("torn down", "<yes>")

        def test_properties(recorded, record_xml_attribute):
            recorded("ARCH", "PPC\\x1b[0m")
            recorded("number", 5)
            record_xml_attribute("assertions", 3)
            with pytest.raises(TypeError):
                recorded(5, "not a name")

        def test_other():
            pass
    """)
    found = []
    for more in ((), ("--no-gvisor",)):
        done = inside(project, "-p", "no:randomly", "--junitxml=out.xml", *more)
        written = ET.fromstring(Path(project.path / "out.xml").read_text())
        names = [(one.get("name", ""), one.get("value")) for one in written.iter("property")]
        properties = [named for named in names if not named[0].startswith("gvisor")]
        tests = [(one.get("name"), one.get("assertions")) for one in written.iter("testcase")]
        found.append((properties, tests, done.ret, done.parseoutcomes()))
    assert found[0] == found[1]
    assert found[0][0][0] == ("ARCH", "PPC#x1B[0m")
    assert len(found[0][0]) == 3
    assert found[0][1] == [("test_properties", "3"), ("test_other", None)]


def test_live_log(project: pytest.Pytester) -> None:
    """Lines of ``log_cli`` are those of the host: from each phase, a thread, with a traceback."""
    project.makepyfile("""
        import logging, threading
        import pytest

        log = logging.getLogger("of.tests")

        @pytest.fixture
        def prepared():
            log.warning("set up")
            yield
            log.error("torn down")

        def test_logs(prepared):
            log.debug("not shown")
            others = {f"own{n}": n for n in range(200)}
            log.info("first %s\\nsecond", 1, extra={"own": 2**127, **others})
            log.handle(logging.LogRecord(None, logging.INFO, None, 1, "made", (), None))
            thread = threading.Thread(target=log.info, args=("of a thread",))
            thread.start()
            thread.join()
            try:
                1 / 0
            except ZeroDivisionError:
                log.exception("failed")
            print("::error::captured")

        def test_is_silent():
            pass

        def test_fails():
            log.critical("before")
            assert 0
    """)
    line = "%(levelname)-8s %(name)s:%(lineno)d %(message)s"
    both = run_both(
        project, "-p", "no:randomly", "--log-cli-level=INFO", "-o", f"log_cli_format={line}"
    )
    assert plain(both.inside) == plain(both.host)
    both.inside.stdout.fnmatch_lines(["*live log setup*", "*live log call*", "*live log teardown*"])
    assert both.inside.parseoutcomes() == {"passed": 2, "failed": 1}


@pytest.mark.usefixtures("plugins")
def test_a_plugin_without_a_bridge_is_named(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning names it, and none of the plugins that have one or need none."""
    folder = project.path / "installed"
    (folder / "counting-2.0.dist-info").mkdir(parents=True)
    (folder / "counting-2.0.dist-info/METADATA").write_text("Name: counting\nVersion: 2.0\n")
    (folder / "counting-2.0.dist-info/entry_points.txt").write_text("[pytest11]\nx = counting\n")
    (folder / "counting.py").write_text(
        "count = []\n"
        "def pytest_runtest_call(item): count.append(item)\n"
        "def pytest_terminal_summary(terminalreporter):\n"
        "    terminalreporter.write_line(f'counted {len(count)}')\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{PLUGINS}")
    project.makepyfile("def test_it(benchmark, record_property):\n    benchmark(len, [])\n")
    done = inside(project, "-p", "no:randomly", "--benchmark-max-time=0.01")
    done.stdout.fnmatch_lines(["counted 0"])
    (named,) = [line for line in done.outlines if "have no bridge" in line]
    assert "tests inside: counting 2.0. Their" in named


def test_summaries_are_written_on_the_host(project: pytest.Pytester) -> None:
    """The pytest inside asks no plugin for a summary, which would cost time and say nothing."""
    project.makeconftest("""
        import os, sys

        def pytest_terminal_summary():
            inside = "PYTEST_GVISOR_INSIDE" in os.environ
            print("summed up", "inside" if inside else "here", file=sys.__stderr__)
    """)
    project.makepyfile("def test_it():\n    pass\n")
    done = inside(project, "-s", "-p", "no:randomly")
    assert "summed up here" in done.errlines
    assert "summed up inside" not in done.stdout.str() + done.stderr.str()


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugins that the suite runs without are there for the pytest that a test starts."""
    assert PLUGINS.is_dir(), f"{PLUGINS} is not there: run scripts/setup"
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS), prepend=os.pathsep)


BENCHMARKS = """
    import time
    import pytest

    @pytest.mark.parametrize("number", [1, 2])
    def test_sums(benchmark, number):
        benchmark.group = "of sums"
        benchmark.extra_info["note"] = ["a", number]
        assert benchmark(sum, [number, 2]) == number + 2

    def test_pedantic(benchmark):
        benchmark.pedantic(time.sleep, args=(0.01,), rounds=4, iterations=2)

    def test_without():
        pass
"""


def benchmarks(path: Path) -> list[dict[str, object]]:
    """The benchmarks of a JSON file, without what differs from run to run."""
    found = []
    for one in json.loads(path.read_text())["benchmarks"]:
        stats = one["stats"]
        assert len(stats.get("data", [])) in {0, stats["rounds"]}
        assert 0 < stats["min"] <= stats["mean"] <= stats["max"] < 60
        if one["name"] == "test_pedantic":
            assert (stats["rounds"], stats["iterations"]) == (4, 2)
            assert stats["min"] > 0.01
        found.append({name: one[name] for name in one.keys() - {"stats"}})
    return found


@pytest.mark.usefixtures("plugins")
def test_benchmarks(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table, JSON and storage are written, and a slower run fails by the host's comparison."""
    # pytest-benchmark measures nothing where it finds itself below a worker of xdist's.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    project.makepyfile(test_it=BENCHMARKS)
    options = ("-p", "no:randomly", "--benchmark-max-time=0.05", "--benchmark-autosave")
    inside(project, "--no-gvisor", "--benchmark-storage=before", *options)
    (saved,) = project.path.glob("before/*/*.json")
    before = json.loads(saved.read_text())
    for one in before["benchmarks"]:  # a thousand times as fast as they were
        one["stats"]["min"] /= 1000
    saved.write_text(json.dumps(before))
    found = []
    for more in ((), ("--no-gvisor",)):
        shutil.copytree(project.path / "before", project.path / "store")
        compare = ("--benchmark-compare", "--benchmark-compare-fail=min:500%")
        files = ("--benchmark-json=out.json", "--benchmark-storage=store")
        done = inside(project, *compare, *files, *options, *more)
        done.stdout.fnmatch_lines(["*benchmark: 2 tests*", "*benchmark 'of sums': 4 tests*"])
        done.stdout.fnmatch_lines(["test_pedantic (NOW) *", "test_sums?1? (NOW)*", "Legend:"])
        done.stderr.fnmatch_lines(["*Performance has regressed*"])
        _, stored = sorted(project.path.glob("store/*/*.json"))  # numbered
        text = json.loads((project.path / "out.json").read_text())
        assert ("gvisor" in text["machine_info"]) == (not more)
        found.append((done.ret, benchmarks(project.path / "out.json"), benchmarks(stored)))
        shutil.rmtree(project.path / "store")
    assert found[0] == found[1]
    assert len(found[0][1]) == 3
    assert found[0][0] == 1


@pytest.mark.usefixtures("plugins")
def test_allure(project: pytest.Pytester) -> None:
    """Each test has one result, with its steps, attachments and status; a lost one too."""
    project.makepyfile(
        test_it="""
        import os
        import allure, pytest

        @allure.title("Title of {number}")
        @allure.feature("features")
        @pytest.mark.parametrize("number", [1, 2])
        def test_steps(number):
            with allure.step("first"):
                allure.attach("of the test", "notes", allure.attachment_type.TEXT)
            assert number == 1

        @pytest.mark.skip(reason="so")
        def test_is_skipped():
            pass

        @allure.title("The last")
        def test_dies():
            if "PYTEST_GVISOR_INSIDE" in os.environ:
                os._exit(3)
            raise ValueError("the host's")
    """
    )
    found = []
    for more in ((), ("--no-gvisor",)):
        inside(project, "-p", "no:randomly", "--alluredir=out", *more)
        results = [json.loads(path.read_text()) for path in project.path.glob("out/*-result.json")]
        found.append(sorted(map(allure_result, results), key=str))
        notes = [
            path for path in project.path.glob("out/*.txt") if path.read_text() == "of the test"
        ]
        assert len(notes) == 2
        shutil.rmtree(project.path / "out")
    assert found[0] == found[1]
    assert [(one["name"], one["status"]) for one in found[0]] == [
        ("The last", "broken"), ("Title of 1", "passed"), ("Title of 2", "failed"),
        ("test_is_skipped", "skipped"),
    ]  # fmt: skip


def allure_result(data: dict[str, Any]) -> dict[str, Any]:
    """The parts of an Allure result that are the same in each run."""
    steps = [
        (step["name"], step["status"], [one["name"] for one in step.get("attachments", [])])
        for step in data.get("steps", [])
    ]
    labels = {(one["name"], one["value"]) for one in data["labels"]}
    return {
        "name": data["name"],
        "status": data["status"],
        "full": (data["fullName"], data["historyId"], data.get("parameters")),
        "steps": steps,
        "labels": sorted(pair for pair in labels if pair[0] not in {"host", "thread"}),
    }
