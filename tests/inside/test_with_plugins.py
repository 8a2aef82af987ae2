"""Other plugins treat tests inside as they treat tests on the host."""

import json
import os
import re
import shutil

import pytest

from pytest_gvisor.base.errors import ReportError
from pytest_gvisor.cli import report
from tests.inside.conftest import PLUGINS, Both, inside, plain, run_both


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugins are there for the pytest that a test starts."""
    assert PLUGINS.is_dir(), f"{PLUGINS} is not there: run scripts/setup"
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS), prepend=os.pathsep)


def same(both: Both, **counts: int) -> None:
    """Check that both runs read the same and have these counts."""
    assert plain(both.inside) == plain(both.host)
    assert both.inside.ret == both.host.ret
    assert both.outcomes()[0] == counts


ASYNCIO = """
import asyncio, os
import pytest

@pytest.fixture
async def served():
    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]

async def test_talks(served):
    reader, writer = await asyncio.open_connection("127.0.0.1", served)
    writer.write(b"hello\\n")
    assert await reader.readline() == b"HELLO\\n"
    writer.close()

async def test_fails():
    await asyncio.sleep(0.01)
    raise ValueError("after a while")

@pytest.mark.parametrize("delay", [0, 0.01])
async def test_waits(delay):
    await asyncio.wait_for(asyncio.sleep(delay), 5)
"""


def test_asyncio(project: pytest.Pytester) -> None:
    """Async tests and fixtures, with a server on the sandbox's loopback."""
    project.makepyfile(ASYNCIO)
    same(
        run_both(project, "-v", "-p", "no:randomly", "-o", "asyncio_mode=auto"), passed=3, failed=1
    )


def test_anyio(project: pytest.Pytester) -> None:
    """Tests of anyio's own plugin, which starts threads and programs."""
    project.makepyfile("""
        import anyio, pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_a_thread():
            assert await anyio.to_thread.run_sync(lambda: 6 * 7) == 42

        @pytest.mark.anyio
        async def test_a_program():
            done = await anyio.run_process(["echo", "x"])
            assert done.stdout == b"x\\n"

        @pytest.mark.anyio
        async def test_fails():
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 0.01)
            assert 1 == 2
    """)
    same(run_both(project, "-v", "-p", "no:randomly"), passed=2, failed=1)


def test_hypothesis(project: pytest.Pytester) -> None:
    """Hypothesis finds and shows the same falsifying example."""
    project.plugins.clear()
    project.makepyfile("""
        from hypothesis import given, settings, strategies as st

        @settings(derandomize=True, database=None, deadline=None)
        @given(st.lists(st.integers()))
        def test_sums(numbers):
            assert sum(numbers) < 100

        @settings(deadline=None)
        @given(st.text())
        def test_holds(text):
            assert text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass") == text
    """)
    both = run_both(project, "-v", "-p", "no:randomly")
    same(both, passed=1, failed=1)
    both.inside.stdout.fnmatch_lines(["E*test_sums(*", "E*numbers=*"])


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_timeout(method: str, project: pytest.Pytester) -> None:
    """A test's own time-out is kept inside; its thread method ends the worker, and not the run."""
    project.makepyfile("""
        import time, pytest

        @pytest.mark.timeout(1)
        def test_hangs():
            time.sleep(100)

        def test_after():
            pass
    """)
    options = ("-p", "no:randomly", "--timeout-method", method)
    both = run_both(project, *options)
    both.inside.stdout.fnmatch_lines(["*Timeout*"])
    assert both.inside.parseoutcomes() == {"passed": 1, "failed": 1}
    if method == "signal":  # the other one ends the whole session on the host
        assert both.outcomes()[0] == both.outcomes()[1]


@pytest.mark.parametrize("workers", ["", "-p xdist -n1"])
def test_rerunfailures(workers: str, project: pytest.Pytester) -> None:
    """A flaky test is run again inside, and counted as on the host, with what each try tells."""
    project.makepyfile("""
        import pytest
        tries = []

        def test_flaky(record_xml_attribute):
            tries.append(1)
            record_xml_attribute("tries", len(tries))
            assert len(tries) == 3

        @pytest.mark.flaky(reruns=1)
        def test_hopeless():
            assert 0

        def test_in_part(subtests):
            tries.append(1)
            for number in range(2):
                with subtests.test(number=number):
                    assert number or len(tries) > 4
    """)
    options = ["--reruns=2", "-pno:randomly", "-Wignore", "--junitxml=cases.xml"]
    options += ["-ojunit_family=xunit1", *workers.split()]
    found = inside(project, *options)
    cases = (project.path / "cases.xml").read_text()
    host = inside(project, "--no-gvisor", *options)
    same(Both(inside=found, host=host), passed=2, failed=1, rerun=4)
    # xdist brings such an attribute from no test, on the host neither.
    assert re.findall(r'tries="(.)"', cases) == ([] if workers else ["1", "2", "3"])


@pytest.mark.parametrize("where", ["setup", "call", "teardown"])
def test_no_repetition_hides_a_forbidden_act(where: str, project: pytest.Pytester) -> None:
    """A test on the host that a plugin repeats has done it in an earlier try, as one inside has."""
    project.makepyfile(f"""
        import pytest

        CONNECT = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
        tries = []

        def act(gvisor, where):
            if len(tries) == 1 and where == {where!r}:
                gvisor.run(["python3", "-I", "-S", "-c", CONNECT])

        @pytest.fixture
        def acts(gvisor):
            tries.append(1)
            act(gvisor, "setup")
            yield
            act(gvisor, "teardown")

        @pytest.mark.gvisor(forbid=["connect"])
        def test_it(acts, gvisor):
            act(gvisor, "call")

        def test_after(gvisor):
            pass
    """)
    result = inside(project, "--no-gvisor", "--reruns=2", "-pno:randomly")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert (result.parseoutcomes()["errors"], result.parseoutcomes()["rerun"]) == (1, 2)
    result.stdout.fnmatch_lines(["it did what is forbidden, *", "*connected: 127.0.0.1:9*"])


def test_fail_on_flaky(project: pytest.Pytester) -> None:
    """A test that passes on a rerun fails the session, whichever tests its sandbox has run."""
    project.makepyfile("""
        tries = []

        def test_flaky():
            tries.append(1)
            assert len(tries) == 2

        def test_good():
            pass
    """)
    options = ("--reruns=2", "--fail-on-flaky", "--gvisor-isolation=test", "-pno:randomly")
    both = run_both(project, *options)
    same(both, passed=2, rerun=1)
    assert both.inside.ret == both.host.ret == 7


def test_randomly(project: pytest.Pytester) -> None:
    """The order of a seed, and the random numbers that each test begins with."""
    project.makepyfile("""
        import random, pytest

        @pytest.mark.parametrize("number", range(8))
        def test_it(number):
            print("drew", random.random())
    """)
    both = run_both(project, "-v", "-rP", "-p", "randomly", "-p", "xdist", "-p", "no:cov",
                    "-p", "no:hypothesispytest", "-p", "no:asyncio", "-p", "no:html",
                    "-p", "no:rerunfailures", "-p", "no:timeout", "-p", "no:anyio",
                    "-p", "no:metadata", "--randomly-seed=7")  # fmt: skip
    same(both, passed=8)
    drawn = [re.findall(r"drew [\d.]+", result.stdout.str()) for result in (both.inside, both.host)]
    assert len(drawn[0]) == 8
    assert drawn[0] == drawn[1]
    ran = re.findall(r"test_it\[(\d)\] PASSED", both.inside.stdout.str())
    assert sorted(ran) == [str(number) for number in range(8)] != ran


def test_html(project: pytest.Pytester) -> None:
    """The report and the files of its extras are written on the host, with the same contents."""
    project.makepyfile("""
        import pytest
        from pytest_html import extras as of

        def test_passes(extras):
            extras.append(of.text("of <b>text</b>", name="notes"))
            extras.append(of.json({"deep": [1, None]}))
            extras.append(of.url("https://example.invalid/?a=1&b=2"))
            extras.append(of.png("aGVsbG8="))
            extras.append(of.html("<p>its own</p>"))

        @pytest.mark.parametrize("word", ["<script>alert(1)</script>", "/../../x", "a\\nb"])
        def test_fails(word):
            print("shown <script>alert(2)</script>")
            assert word == "<script>alert(3)</script>"
    """)
    found = []
    for more in ((), ("--no-gvisor",)):
        inside(project, "-p", "no:randomly", "--html=out/report.html", *more)
        files = [path for path in (project.path / "out").rglob("*") if path.is_file()]
        texts = {str(path.relative_to(project.path)): path.read_text() for path in files}
        shutil.rmtree(project.path / "out")
        report = texts.pop("out/report.html")
        assert "shown &amp;lt;script" in report
        assert "<script>alert" not in report
        report, repeated = re.subn(r"again: python .*? --in-gvisor", "", report)
        assert repeated == (0 if more else 3)
        rows = re.findall(r"test_\w+\.py::[^&]+|&#34;result&#34;: &#34;\w+|col-links.*?/td", report)
        found.append((texts, rows))
    assert found[0] == found[1]
    assert sorted(map(os.path.basename, found[0][0])) == [
        "style.css",
        "test_html.py__test_passes_0_0.txt",
        "test_html.py__test_passes_1_0.json",
        "test_html.py__test_passes_3_0.png",
    ]


def test_json_report(project: pytest.Pytester) -> None:
    """Metadata of a fixture and of a hook, streams and log are in the report as on the host."""
    project.makeconftest("""
        def pytest_json_runtest_metadata(item, call):
            return {call.when: item.name}
    """)
    project.makepyfile("""
        import logging

        def test_passes(json_metadata, record_property):
            json_metadata["deep"] = {"a": [1, None]}
            record_property("own", "mark")
            print("of the test")
            logging.getLogger("of.tests").warning("logged %s", 1)

        def test_fails():
            assert 0
    """)
    found = []
    for more in ((), ("--no-gvisor",)):
        inside(project, "-p", "no:randomly", "--json-report", "--json-report-file=out.json", *more)
        report = json.loads((project.path / "out.json").read_text())
        for test in report["tests"]:
            test["call"]["log"] = [record["msg"] for record in test["call"].get("log", [])]
            of_tests = [one for one in test.pop("user_properties", []) if "own" in one]
            test["own"] = of_tests  # the others are gVisor's
            for phase in ("setup", "call", "teardown"):
                del test[phase]["duration"]
        found.append((report["summary"], report["tests"]))
    assert found[0] == found[1]
    passed = found[0][1][0]
    assert passed["call"]["log"] == ["logged 1"]
    assert passed["metadata"] == {
        "deep": {"a": [1, None]}, "setup": "test_passes", "call": "test_passes",
        "teardown": "test_passes",
    }  # fmt: skip


def test_split(project: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    """Durations of tests inside are stored, and the reports of two shards are joined."""
    project.makepyfile("""
        import time, pytest

        @pytest.mark.parametrize("number", range(6))
        def test_sleeps(number):
            time.sleep(0.3 if number == 5 else 0.01)
    """)
    inside(project, "-p", "no:randomly", "--store-durations").stdout.no_fnmatch_line(
        "*stayed inside*"
    )
    stored = json.loads((project.path / ".test_durations").read_text())
    assert sorted(name.partition("::")[2] for name in stored) == [
        f"test_sleeps[{number}]" for number in range(6)
    ]
    assert max(stored, key=stored.__getitem__).endswith("[5]")
    counts = []
    options = ("-p", "no:randomly", "--splits=2", "--splitting-algorithm=least_duration")
    for group in ("1", "2"):
        done = inside(project, *options, f"--group={group}", f"--gvisor-report={group}.json")
        counts.append(done.parseoutcomes()["passed"])
    assert sum(counts) == 6
    assert min(counts) == 1  # the one that takes longest
    assert report.main(["merge", "1.json", "2.json", "-o", "all.json", "-o", "all.html"]) == 0
    found = json.loads((project.path / "all.json").read_text())
    assert len(found["tests"]) == 6
    assert [(leg["shard"], leg["shards"]) for leg in found["legs"]] == [(1, 2), (2, 2)]
    assert report.main(["merge", "2.json", "-o", "part.json"]) == 1
    assert "missing: shard 1 of 2 on systrap" in capsys.readouterr().err
    project.makepyfile(test_more="def test_more(): pass\ndef test_most(): pass")
    counts = []
    for group in ("2", "1"):
        done = inside(project, *options, f"--group={group}", f"--gvisor-report={group}.json")
        counts.append(done.parseoutcomes()["passed"])
        if group == "2":
            with pytest.raises(ReportError, match="differ in their collection of tests"):
                report.main(["merge", "1.json", "2.json", "-o", "all.json"])
    assert sum(counts) == 8
    inside(project, *options, "--group=2", "-k", "nothing", "--gvisor-report=2.json")
    assert report.main(["merge", "1.json", "2.json", "-o", "all.json"]) == 1
    assert "missing: shard 2 of 2 on systrap" in capsys.readouterr().err
