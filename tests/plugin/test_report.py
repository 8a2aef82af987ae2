"""``--gvisor-report``, the summary of differences, and sandboxes in other reporters."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_gvisor import Runsc
from pytest_gvisor.report.model import Cell, State
from tests.mounts import harmless
from tests.plugin.conftest import Project
from tests.plugin.reports import cells, read

# Every state, on systrap and ptrace; each test is on kvm too, which has no device.
TESTS = """
    import sys
    import pytest

    def test_runs(gvisor):
        print("said by the test")
        assert gvisor.run(["echo", "<b>out</b>"]).returncode == 0

    def test_differs(gvisor_sandbox, gvisor_platform):
        gvisor_sandbox.exec(["true"])
        assert gvisor_platform == "systrap", "not here"

    @pytest.fixture
    def broken(gvisor):
        raise RuntimeError("no fixture")

    def test_broken(broken):
        pass

    @pytest.fixture
    def late(gvisor):
        yield
        raise RuntimeError("too late")

    def test_late(late):
        pass

    def test_skips(gvisor):
        pytest.skip("for its own reason")

    @pytest.mark.xfail(reason="known")
    def test_known(gvisor):
        assert 0

    @pytest.mark.xfail(reason="was known", strict=False)
    def test_surprise(gvisor):
        pass

    @pytest.mark.parametrize("word", ["systrap", "b"])
    def test_words(gvisor_platform, word):
        pass

    def test_deselected(gvisor):
        pass

    def test_host():
        pass

    @pytest.mark.in_gvisor
    def test_inside():
        print("said inside")

    @pytest.mark.in_gvisor
    def test_inside_too():
        assert 0, "inside"
"""


STATES = {
    "test_runs": State.PASSED, "test_broken": State.ERROR, "test_late": State.ERROR,
    "test_skips": State.SKIPPED, "test_known": State.XFAILED, "test_surprise": State.XPASSED,
    "test_words[systrap]": State.PASSED, "test_words[b]": State.PASSED,
    "test_inside": State.PASSED, "test_inside_too": State.FAILED,
}  # fmt: skip


MATRIX = ("--gvisor-platform=systrap,kvm,ptrace", "-o", "xfail_strict=false")


def test_each_test_has_a_cell_on_each_platform(project: Project, no_kvm: str, runsc: Runsc) -> None:
    """States stay apart, with the details of each run, for any number of processes."""
    project.test(TESTS, conftest=no_kvm)
    ran = project.run(
        *MATRIX, "--gvisor-report=r.json", "--gvisor-report", "deep/er/r.html",
        "--gvisor-report=r.md", "--junitxml=report.xml", "--deselect=test_it.py::test_deselected",
    )  # fmt: skip
    report = read(project.folder)
    assert report.platforms == ("systrap", "kvm", "ptrace")
    for platform, differs in (("systrap", State.PASSED), ("ptrace", State.FAILED)):
        found = {test: cell.state for test, cell in cells(report, platform).items()}
        assert found == {**STATES, "test_differs": differs}
    assert {cell.state for cell in cells(report, "kvm").values()} == {State.UNAVAILABLE}
    assert len(cells(report, "kvm")) == len(STATES) + 1
    assert report.cause("kvm").startswith("no device")
    assert [row.test for row in report.differing] == ["test_it.py::test_differs"]
    (leg,) = report.legs
    assert [(one.version, one.path) for one in leg.runsc] == [(runsc.version, runsc.path)]
    assert (leg.project, leg.kernel) == (project.folder.name, os.uname().release)
    assert leg.pytest == pytest.__version__
    check_details(cells(report, "ptrace"))
    check_junit(ran.junit(), runsc.version)
    assert ran.line("test_it.py::test_differs: ").endswith(
        "systrap passed, kvm unavailable, ptrace FAILED"
    )
    ran.shows(
        "  again: python -m pytest 'test_it.py::test_differs[ptrace]' "
        "--gvisor-platform systrap,kvm,ptrace\n",
        "kvm: 11 unavailable\nkvm cannot be used: no device: ",
        "gVisor: report written to r.json\ngVisor: report written to deep/er/r.html\n",
    )
    assert "<title>gVisor platform matrix" in (project.folder / "deep/er/r.html").read_text()
    assert "| `test_it.py::test_words[b]` | ✅ passed | 🚫" in (project.folder / "r.md").read_text()
    assert not list(project.folder.rglob(".pytest-gvisor-*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made")
def test_a_cell_has_what_its_sandboxes_have_used(project: Project) -> None:
    """Runs and warm sandboxes with a limit count; a test without one has no figure."""
    project.test(
        """
        import pytest

        @pytest.mark.gvisor(pids=200)
        def test_limited(gvisor, gvisor_sandbox):
            used = [gvisor.run(["true"]).usage, gvisor.run(["true"]).usage]
            print(sum(one.cpu_time for one in used))

        def test_free(gvisor):
            gvisor.run(["true"])
        """
    )
    project.run("--gvisor-platform=systrap", "--gvisor-report=r.json", "-rP")
    found = cells(read(project.folder), "systrap")
    limited, free = found["test_limited"], found["test_free"]
    told = float(re.findall(r"(?m)^\d+\.\d+$", limited.output)[0])
    assert limited.cpu_time > told
    assert 10 < limited.peak_tasks <= 200
    assert (free.cpu_time, free.peak_memory, free.peak_tasks) == (0, 0, 0)


def test_a_report_has_the_trace_of_a_test_as_a_tree(here: Project) -> None:
    """Also that of a test inside. A test that is not traced has none."""
    here.test(
        r"""
        import pytest, subprocess

        CODE = "import os, socket; socket.socket().connect_ex(('127.0.0.1', 9)); os.system('true')"

        @pytest.mark.gvisor(trace=True)
        def test_host(gvisor):
            gvisor.run(["python3", "-I", "-S", "-c", CODE])

        @pytest.mark.in_gvisor
        @pytest.mark.gvisor(trace=True)
        def test_inside():
            open("/tmp/<script>\x1b[2J", "w").close()
            assert subprocess.run(["true", "argument"]).returncode

        def test_untraced(gvisor):
            gvisor.run(["true"])
        """
    )
    here.run("--gvisor-report=r.json", "--gvisor-report=r.html").ends(passed=2, failed=1)
    found = cells(read(here.folder), "systrap")
    tree = found["test_host"].runs[-1].trace.split("\n")
    assert tree[0].startswith("<Trace read=0 written=0 commands=2 connections=1 processes=2 ")
    assert [line.partition(" -")[0] for line in tree[1:4]] == [
        "  process 1: python3", "    connected: 127.0.0.1:9 (ECONNREFUSED)",
        "    executed: python3",
    ]  # fmt: skip
    assert tree[-2].startswith("    process 2: ")
    assert tree[-1].startswith("      executed: ")
    inside = found["test_inside"].runs[-1].trace
    assert re.search(r"(?m)^ +written, created: /tmp/<script>\\x1b\[2J$", inside)
    assert re.search(r"(?m)^ +process \d+: true argument\n +executed: /\S+/true argument$", inside)
    assert found["test_untraced"].runs[-1].trace == ""
    page = (here.folder / "r.html").read_text()
    assert page.count('"what it did"') == 3  # the script compares two of them
    assert "/tmp/<script>" not in page


def check_details(found: dict[str, Cell]) -> None:
    """Check the details in the cells of one platform."""
    runs = found["test_runs"]
    assert "said by the test" in runs.output
    (run,) = runs.runs
    assert (run.args, run.stdout) == ("echo '<b>out</b>'", "<b>out</b>\n")
    assert '"ociVersion"' in run.config
    assert " --platform ptrace " in run.command
    assert len(runs.starts_ms) == 1
    assert 5 < runs.starts_ms[0] < runs.duration * 1000
    assert len(found["test_differs"].starts_ms) == 1
    assert "not here" in found["test_differs"].message
    assert ">       assert gvisor_platform" in found["test_differs"].output
    assert "no fixture" in found["test_broken"].message
    assert "too late" in found["test_late"].message
    assert found["test_skips"].message == "for its own reason"
    assert found["test_known"].message == "known"
    assert "said inside" in found["test_inside"].output
    assert "inside" in found["test_inside_too"].message
    assert '"ociVersion"' in found["test_inside_too"].runs[0].config
    assert found["test_inside"].starts_ms or found["test_inside_too"].starts_ms


def check_junit(root: object, version: str) -> None:
    """Check that a test of a platform has its properties once, and another test has none."""
    found = {}
    for case in root.iter("testcase"):  # type: ignore[attr-defined]
        pairs = [(entry.get("name"), entry.get("value")) for entry in case.iter("property")]
        assert len(dict(pairs)) == len(pairs)
        found[case.get("name")] = dict(pairs)
    for test in ("test_runs", "test_differs", "test_inside"):
        assert found[f"{test}[ptrace]"]["gvisor.platform"] == "ptrace"
        assert found[f"{test}[ptrace]"]["gvisor.runsc"] == version
        assert found[f"{test}[ptrace]"]["gvisor.network"] == "none"
    assert float(found["test_runs[systrap]"]["gvisor.start_ms"]) > 5
    known = {"gvisor.runsc": version, "gvisor.network": "none"}
    assert (
        found["test_runs[kvm]"] == found["test_inside[kvm]"] == {"gvisor.platform": "kvm", **known}
    )
    assert found["test_words[ptrace-b]"] == {"gvisor.platform": "ptrace", **known}
    assert found["test_host"] == {}


def test_what_was_not_run_is_not_green(project: Project) -> None:
    """A session that stops at its first failure; and one with a worker that dies."""
    project.test("""
        import os
        import time
        import pytest

        dies = "DIES" in os.environ

        @pytest.mark.parametrize("number", range(60))
        def test_it(gvisor_platform, number):
            time.sleep(0.02 if dies else 0.2)
            assert number != 2 or dies
            if number == 2:
                os._exit(3)
    """)
    args = ("--gvisor-platform=systrap", "--gvisor-report=r.json", "--maxfail=1")
    ran = project.run(*args)
    report = read(project.folder)
    found = cells(report, "systrap")
    assert len(found) == 60
    assert found["test_it[2]"].state is State.FAILED
    passed = ran.outcomes()["passed"]
    assert report.counts("systrap") == {
        State.FAILED: 1, State.PASSED: passed, State.NOT_RUN: 59 - passed
    }  # fmt: skip
    assert passed < 50
    if project.distributed:
        project.run(*args, "--max-worker-restart=0", DIES="1")
        found = cells(read(project.folder), "systrap")
        assert found["test_it[2]"].state is State.ERROR
        assert "crashed while running" in found["test_it[2]"].message
        assert len(found) == 60


def test_the_command_of_a_row_repeats_its_cell(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell runs that test on that platform with the same settings, where pytest was started."""
    here.write({
        "tests/test_it.py": """
            import pytest

            @pytest.mark.parametrize("word", ["it's", "b"])
            def test_it(gvisor, word):
                assert gvisor.settings.network == "host"
                gvisor.run(["true"])
                assert gvisor.platform == "systrap" or word == "b"
        """,
        "else/where": "", "pytest.ini": "[pytest]\n",
    })  # fmt: skip
    monkeypatch.chdir(here.folder / "else")
    options = ("--gvisor-platform=systrap,ptrace", "--gvisor-network", "host")
    ran = here.run(*options, "../tests").ends(passed=3, failed=1)
    for start in ("again: ", "  again: "):
        words = shlex.split(ran.line(start).split(": ", 1)[1])
        assert words[:4] == ["python", "-m", "pytest", "../tests/test_it.py::test_it[ptrace-it's]"]
        here.run(*words[3:]).ends(failed=1).shows("tests/test_it.py::test_it[ptrace-it's]")


def test_a_command_repeats_a_test_inside_with_what_it_was_given(here: Project) -> None:
    """The command repeats the variables, the user, the writable folders and the isolation."""
    here.test("""
        import os
        from pathlib import Path

        def test_it():
            Path("build/out", os.environ["WORD"]).write_text(os.environ["OTHER"])
            assert 0, "as before"
    """)
    out = here.folder / "build/out"
    out.mkdir(parents=True)
    out.chmod(0o777)
    given = ["--gvisor-env=WORD=it's", "--gvisor-env=OTHER"]
    given += ["--gvisor-user=root", "--gvisor-writable=build/out"]
    options = ["--in-gvisor", *given, "--gvisor-isolation=test", "--gvisor-report=r.json"]
    with harmless(out):
        here.run(*options, OTHER="x").ends(failed=1)
        command = cells(read(here.folder), "systrap")["test_it"].command
        words = shlex.split(command)
        assert words[-5:] == ["--gvisor-isolation=test", *given]
        (out / "it's").unlink()
        here.run(*words[3:], OTHER="y").ends(failed=1).shows("as before")
        assert (out / "it's").read_text() == "y"


def test_a_failure_inside_has_the_command_that_repeats_it(here: Project) -> None:
    """Each phase that fails has the line, once, and a shell takes the id as it is printed."""
    here.test("""
        import os, pytest
        from pytest_gvisor import is_gvisor_kernel

        @pytest.fixture
        def broken():
            raise ValueError("no fixture")

        @pytest.mark.parametrize("word", ["it's $HOME", "b"])
        def test_word(word):
            assert is_gvisor_kernel(os.uname().release)
            assert word == "b", "as before"

        def test_broken(broken):
            pass

        @pytest.mark.in_gvisor
        def test_dies():
            os.kill(os.getpid(), 9)

        @pytest.mark.xfail
        def test_expected():
            assert 0
    """)
    ran = here.run("--in-gvisor", "--gvisor-network=host", "--gvisor-platform=systrap")
    ran.ends(passed=1, failed=2, errors=1, xfailed=1)
    commands = re.findall(r"(?m)^again: (python .*)$", ran.output)
    settings = "--gvisor-platform systrap --in-gvisor --gvisor-network=host"
    ids = [
        "test_it.py::test_broken",
        "'test_it.py::test_word[it'\"'\"'s $HOME]'",
        "test_it.py::test_dies",
    ]
    wanted = [f"python -m pytest {one} {settings}" for one in ids]
    wanted[2] = wanted[2].replace(" --in-gvisor", "")  # its own mark says so
    assert commands == wanted
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    for command, told in zip(commands, ("no fixture", "as before", "signal 9"), strict=True):
        done = subprocess.run(
            command, shell=True, cwd=here.folder, capture_output=True, text=True, timeout=120,
            env={**os.environ, "PATH": path},
        )  # fmt: skip
        assert told in done.stdout
        *lines, last = done.stdout.splitlines()
        assert re.fullmatch(r"=+ 1 (failed|error) in .*", last)
        assert f"again: {command}" in lines


def test_a_report_that_could_not_be_written_stops_the_session_at_its_start(here: Project) -> None:
    """A folder in its place, for one."""
    here.test("def test_it(): raise RuntimeError('it has run')")
    (here.folder / "folder.json").mkdir()
    ran = here.run("--gvisor-report=folder.json").exits(pytest.ExitCode.USAGE_ERROR)
    ran.shows("is a folder").hides("it has run", "Traceback")


def test_a_report_that_is_lost_at_the_end_fails_the_session(here: Project) -> None:
    """A green session without its report would be taken for one with it."""
    here.test("""
        import shutil

        def test_it():
            shutil.rmtree("out")
    """)
    ran = here.run("--gvisor-report=out/r.json").exits(pytest.ExitCode.INTERNAL_ERROR)
    ran.shows("gVisor: out/r.json could not be written: No such file or directory")


def test_listing_tests_writes_nothing(here: Project) -> None:
    """An earlier report stays as it is."""
    here.test("def test_it(gvisor): pass")
    (here.folder / "r.json").write_text("earlier")
    here.run("--collect-only", "--gvisor-report=r.json").exits(0).hides("gVisor:")
    assert (here.folder / "r.json").read_text() == "earlier"


def test_the_ini_file_and_the_environment_name_reports_too(here: Project) -> None:
    """Several reports can be named; the command line wins, and paths start where pytest did."""
    here.write({"pytest.ini": "[pytest]\ngvisor_report = one.md two.json\n"})
    here.test("""
        import os

        def test_it():
            os.chdir("/")
    """)
    here.run().ends(passed=1)
    assert (here.folder / "one.md").exists()
    assert read(here.folder, "two.json").rows == ()
    here.run(PYTEST_GVISOR_REPORT="three.json:four.json").ends(passed=1)
    assert (here.folder / "four.json").exists()
    here.run("--gvisor-report=five.json", PYTEST_GVISOR_REPORT="six.json").ends(passed=1)
    assert not (here.folder / "six.json").exists()


def test_a_github_job_gets_a_table(project: Project) -> None:
    """Appended once, by one process; a summary that cannot be written fails nothing."""
    project.test("def test_it(gvisor_platform): pass")
    summary = project.folder / "summary"
    summary.write_text("before\n")
    project.run("--gvisor-platform=systrap,ptrace", GITHUB_STEP_SUMMARY=str(summary))
    text = summary.read_text()
    assert text.startswith("before\n\n## gVisor\n")
    assert text.count("| `test_it.py::test_it` | ✅ passed | ✅ passed |") == 1
    ran = project.run(GITHUB_STEP_SUMMARY=f"{summary}/none").ends(passed=1)
    ran.shows("gVisor: GITHUB_STEP_SUMMARY: Not a directory")
    project.test("def test_it(): pass")
    summary.unlink()
    project.run(GITHUB_STEP_SUMMARY=str(summary)).ends(passed=1)
    assert not summary.exists()


def test_without_runsc_a_test_is_unavailable_and_strictly_an_error(
    project: Project, no_runsc: str, missing: Path
) -> None:
    """The test is unavailable with its cause, on platform ``auto``; strict, it is an error."""
    project.test("def test_it(gvisor): pass", conftest=no_runsc)
    project.run("--gvisor-report=r.json").ends(skipped=1)
    report = read(project.folder)
    assert cells(report, "auto")["test_it"].state is State.UNAVAILABLE
    assert "runsc was not found" in report.cause("auto")
    named = f"--gvisor-runsc={missing}"
    for option, cause in (("--gvisor-strict", "was not found"), (named, "there is no runsc")):
        project.run("--gvisor-report=r.json", option, "--gvisor-platform=ptrace").ends(errors=1)
        report = read(project.folder)
        assert cells(report, "ptrace")["test_it"].state is State.ERROR
        assert cause in report.cause("ptrace")


def test_hostile_output_is_escaped_in_every_form(here: Project) -> None:
    """Output of a workload and of a test, and a test's id, are escaped; long output is cut."""
    here.test(r"""
        import pytest

        @pytest.mark.parametrize("word", ["x"], ids=["<script>|`\x1b[2J"])
        def test_it(gvisor, word):
            script = r"printf '\033[2J</script>\342\200\256'; seq 99999"
            done = gvisor.run(["sh", "-c", script, "\u202e</script>"])
            print(done.stdout[:50])
            raise RuntimeError(done.stdout[:50])
    """)
    names = ("r.json", "r.html", "r.md")
    here.run(*(f"--gvisor-report={name}" for name in names)).ends(failed=1)
    for name in names:
        text = (here.folder / name).read_text()
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert (here.folder / "r.html").read_text().count("</script>") == 2
    (cell,) = cells(read(here.folder), "systrap").values()
    assert cell.runs[0].stdout.startswith("[… ")
    assert cell.runs[0].stdout.endswith("\n99999\n")
    assert len(cell.runs[0].stdout) < 5000
    assert "\\x1b[2J" in cell.message


def test_a_test_inside_cannot_make_the_report_unreadable(here: Project) -> None:
    """A false duration, many failed subtests or a worker's name leave the report readable."""
    here.test(
        """
        def test_it(request, subtests):
            for number in range(80):
                with subtests.test(number=number):
                    raise RuntimeError("x" * 20_000)
        """,
        conftest="""
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(call):
            report = yield
            report.duration = -1e9 if call.when == "setup" else 9e10
            report.node, report.worker_id = "nobody", ["none"]
            return report
        """,
    )
    here.run("--in-gvisor", "--gvisor-report=r.json").exits(1)
    (cell,) = cells(read(here.folder), "systrap").values()
    assert cell.state is State.FAILED
    assert cell.duration > 0
    assert cell.output.count("RuntimeError: xxx") < 80
    assert "and more failures" in cell.output
