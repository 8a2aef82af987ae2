"""``--gvisor-report``: states and figures of tries, processes and workers, and its bounds."""

import contextlib

import pytest

from pytest_gvisor.base.errors import ReportError
from pytest_gvisor.cli.report import main
from pytest_gvisor.report.model import State
from tests.inside.conftest import PLUGINS
from tests.plugin.conftest import Project
from tests.plugin.reports import cells, read


def test_a_test_that_is_run_again_has_its_last_state(project: Project) -> None:
    """The report and pytest-rerunfailures count the same try."""
    assert PLUGINS.is_dir(), f"{PLUGINS} is not there: run scripts/setup"
    project.test("""
        from pathlib import Path

        def test_it(gvisor_platform):
            tried = Path(f"tried-{gvisor_platform}")
            again = tried.exists()
            tried.touch()
            assert again

        def test_never(gvisor_platform):
            assert 0
    """)
    ran = project.run(
        "--reruns=1", "-Wdefault", "--gvisor-platform=systrap,ptrace", "--gvisor-report=r.json",
        PYTHONPATH=str(PLUGINS),
    )  # fmt: skip
    assert ran.outcomes() == {"failed": 2, "passed": 2, "rerun": 4}
    for platform in ("systrap", "ptrace"):
        found = cells(read(project.folder), platform)
        assert found["test_it"].state is State.PASSED
        assert found["test_it"].message == ""
        assert found["test_never"].state is State.FAILED


def test_what_was_removed_and_what_was_not_is_counted(project: Project) -> None:
    """Each process of the run counts the remains of dead sessions and of the run's sandboxes."""
    project.test(
        """
        import time

        def test_one(gvisor):
            gvisor.run(["sleep", "0.3"])

        def test_two(gvisor):
            gvisor.run(["sleep", "0.3"])
        """,
        conftest="""
        from pytest_gvisor.sessions import session_folder
        from pytest_gvisor.run.supervisor import Supervisor

        clean = Supervisor.clean
        Supervisor.clean = lambda self: (*clean(self), "a thing")
        session_folder.sweep = lambda base=None: ["one", "two", "three"]
        """,
    )
    ran = project.run("-Wdefault", "--gvisor-report=r.json")
    report = read(project.folder)
    assert ran.outcomes()["passed"] == 2
    processes = report.reaped // 3
    assert report.reaped == 3 * processes
    assert 1 <= processes <= (2 if project.distributed else 1)
    # Each test's run, and in each process the one that finds out whether the platform works.
    assert report.left == 2 + processes
    assert f"leaks removed: {report.reaped}, {report.left} LEFT" in ran.line("gVisor: systrap")


EACH = """
    import os
    import time
    import pytest

    first = os.environ["PYTEST_XDIST_WORKER"] == "gw0"

    @pytest.mark.parametrize("late", [True, False])
    def test_it(gvisor_platform, late):
        time.sleep(0.2 * (first == late))
        assert first, "not there"

    @pytest.mark.parametrize("late", [True, False])
    def test_skips(gvisor_platform, late):
        time.sleep(0.2 * (first == late))
        if first:
            pytest.skip("here")
"""


@pytest.mark.parametrize("ends", ["an import", "a hook", "a setup"])
def test_a_session_that_ends_before_its_tests_are_known_is_no_shard(
    ends: str, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """No test of it has a row, and the joined report was green."""
    if ends == "a setup" and not project.distributed:
        ends = "an import"  # else nobody writes a report
    project.test(
        """
        import os
        import pytest

        if os.environ.get("ENDS") == "an import":
            raise KeyboardInterrupt

        @pytest.fixture(autouse=True)
        def set_up():
            if os.environ.get("ENDS") == "a setup":
                os._exit(3)

        @pytest.mark.parametrize("number", range(2))
        def test_it(gvisor_platform, number): pass
        """,
        conftest="""
        import os
        import pytest

        def pytest_addoption(parser):  # as pytest-split has them
            parser.addoption("--splits", type=int)
            parser.addoption("--group", type=int)

        def pytest_collection_modifyitems(config, items):
            if os.environ.get("ENDS") == "a hook":
                pytest.exit("no database", returncode=4)
            items[:] = items[config.option.group - 1 :: 2]
        """,
    )
    args = ["--splits=2", "--gvisor-platform=systrap"]
    args += ["--max-worker-restart=0"] if project.distributed else []
    project.run(*args, "--group=1", "--gvisor-report=1.json").ends(passed=1)
    assert project.run(*args, "--group=2", "--gvisor-report=2.json", ENDS=ends).status != 0
    assert main(["merge", "1.json", "2.json", "-o", "r.json", "-o", "all.md"]) == 1
    assert "missing: shard 2 of 2 on systrap" in capsys.readouterr().err
    assert "**not collected**: 1 file" in (project.folder / "all.md").read_text()
    assert [*cells(read(project.folder), "systrap")] == ["test_it[0]"]


def test_a_file_that_was_not_collected_is_counted(project: Project) -> None:
    """Its tests have no rows, and those of the other file have passed."""
    project.test("def test_it(gvisor_platform): pass")
    (project.folder / "test_broken.py").write_text("raise RuntimeError('not here')\n")
    project.run("--continue-on-collection-errors", "--gvisor-report=r.json")
    report = read(project.folder)
    assert (report.uncollected, len(report.rows)) == (1, 1)


def test_of_what_each_worker_has_run_the_worst_is_shown(here: Project) -> None:
    """--dist each, whichever worker is the first; the other's state is named."""
    here.test(EACH)
    here.run("-n2", "--dist=each", "--gvisor-report=r.json")
    report = read(here.folder)
    found = cells(report, "systrap")
    assert len(found) == 4
    for late in (True, False):
        cell = found[f"test_it[{late}]"]
        assert (cell.state, [other.state for other in cell.others]) == (
            State.FAILED,
            [State.PASSED],
        )
        assert "not there" in cell.message
        cell = found[f"test_skips[{late}]"]
        assert (cell.state, [o.state for o in cell.others]) == (State.PASSED, [State.SKIPPED])


def test_a_test_that_is_run_twice_has_its_worst_state(here: Project) -> None:
    """A test that runs twice has its worst state, if no plugin discards the first try."""
    here.test(
        """
        from pathlib import Path

        def test_it(gvisor_platform):
            tried = Path("tried")
            again = tried.exists()
            tried.touch()
            assert again, "the first time"
        """,
        conftest="""
        import pytest
        from _pytest.runner import runtestprotocol

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item, nextitem):
            for _ in range(2):
                runtestprotocol(item, nextitem=nextitem)
            return True
        """,
    )
    here.run("--gvisor-report=r.json").ends(passed=1, failed=1)
    (cell,) = cells(read(here.folder), "systrap").values()
    assert cell.state is State.FAILED
    assert "the first time" in cell.message


def test_a_try_that_is_run_again_takes_back_no_failure(here: Project) -> None:
    """If a teardown asks for another try, what has passed does not count, and a failure does."""
    here.test(
        """
        import pytest

        tried = []

        def test_fails(gvisor_platform):
            tried.append("fails")
            assert tried != ["fails"]

        def test_is_skipped(request):
            tried.append("is skipped")
            request.getfixturevalue("gvisor")
            if tried.count("is skipped") > 1:
                pytest.skip("the second time")

        def test_is_stopped(gvisor_platform):
            pass
        """,
        conftest="""
        import pytest
        from _pytest.runner import runtestprotocol

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item, nextitem):
            first, second = [runtestprotocol(item, False, nextitem) for _ in range(2)]
            first[-1].outcome = "rerun"
            for report in first + second * ("stopped" not in item.name):
                item.ihook.pytest_runtest_logreport(report=report)
            return True

        def pytest_report_teststatus(report):
            return ("rerun", "R", "RERUN") if report.outcome == "rerun" else None
        """,
    )
    here.run("-pno:randomly", "--gvisor-report=r.json").ends(failed=1, passed=3, skipped=1, rerun=3)
    found = {name: cell.state for name, cell in cells(read(here.folder), "systrap").items()}
    assert found == {
        "test_fails": State.FAILED, "test_is_skipped": State.SKIPPED,
        "test_is_stopped": State.NOT_RUN,
    }  # fmt: skip


def test_what_is_too_much_is_left_out_and_counted(here: Project) -> None:
    """Details of passed tests go first; a failed one has twice the room, and a rerun frees it."""
    assert PLUGINS.is_dir(), f"{PLUGINS} is not there: run scripts/setup"
    here.test(
        """
        from pathlib import Path
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_passes(gvisor_platform, number):
            print("said " * 120)
            if not Path("tried").exists():
                Path("tried").touch()
                raise RuntimeError

        def test_fails(gvisor_platform):
            raise RuntimeError("x" * 600)
        """,
        conftest="""
        from pytest_gvisor.plugin import matrix

        matrix.MAX_DETAILS = 1500
        """,
    )
    here.run(
        "--reruns=1", "-Wdefault", "-pno:randomly", "--gvisor-report=r.json",
        PYTHONPATH=str(PLUGINS),
    )  # fmt: skip
    report = read(here.folder)
    found = cells(report, "systrap")
    assert len(found) == 4
    assert ["said" in cell.output for cell in found.values()] == [True, False, False, False]
    assert "x" * 600 in found["test_fails"].output
    assert report.notes == ("details of 2 cells were left out, for the report's size",)


def test_a_report_that_a_hook_renames_is_in_the_row_of_its_test(project: Project) -> None:
    """A failure was in the row of the last test of that name, and the others had not run."""
    project.test(
        """
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_it(gvisor_platform, number):
            "The number is not one"
            assert number != 1
        """,
        conftest="""
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item):
            report = yield
            if not hasattr(item.config, "workerinput"):  # xdist needs the name
                report.nodeid = item.function.__doc__
            return report
        """,
    )
    project.run("--gvisor-report=r.json").ends(passed=2, failed=1)
    found = cells(read(project.folder), "systrap")
    assert [name for name in found if found[name].state is State.FAILED] == ["test_it[1]"]
    assert len(found) == 3


SPLIT = """
    import pytest

    def pytest_addoption(parser):  # as pytest-split and pytest-randomly have them
        parser.addoption("--splits", type=int)
        parser.addoption("--group", type=int)
        parser.addoption("--splitting-algorithm")
        parser.addoption("--durations-path", default="none")
        parser.addoption("--randomly-seed")

    def pytest_configure(config):
        config.pluginmanager.register(Split())

    def pytest_collection_modifyitems(config, items):
        if config.option.randomly_seed == "2":
            items[1], items[3] = items[3], items[1]

    class Split:
        @pytest.hookimpl(trylast=True)
        def pytest_collection_modifyitems(self, config, items):
            items[:] = items[config.option.group - 1 :: 2]
"""


@pytest.mark.parametrize(
    "option",
    [
        "--sw", "--lf", "--randomly-seed=2", "--splitting-algorithm=least_duration",
        "--durations-path=conftest.py", "-q",
    ],
)  # fmt: skip
def test_shards_that_were_chosen_otherwise_are_not_joined(option: str, project: Project) -> None:
    """Tests that ran in no shard were missing, and the joined report was green."""
    project.test(
        """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(gvisor_platform, number): pass
        """,
        conftest=SPLIT,
    )
    args = ["--splits=2", "--gvisor-platform=systrap", "--randomly-seed=1"]
    project.run(*args, "--group=1", "--gvisor-report=1.json").ends(passed=2)
    project.run(*args, "--group=2", "--gvisor-report=2.json", option).ends(passed=2)
    refused = pytest.raises(ReportError, match="differ in their collection of tests")
    with refused if option != "-q" else contextlib.nullcontext():
        assert main(["merge", "1.json", "2.json", "-o", "all.json"]) == 0


def test_a_platform_of_a_marker_is_not_asked_of_each_shard(project: Project) -> None:
    """The other shard has no test for it, and was called missing."""
    project.test(
        """
        import pytest

        def test_one(gvisor_platform): pass

        @pytest.mark.gvisor(platform="ptrace")
        def test_two(gvisor_platform): pass
        """,
        conftest=SPLIT,
    )
    for group in ("1", "2"):
        args = ("--splits=2", "--group", group, f"--gvisor-report={group}.json")
        project.run(*args).ends(passed=1)
    assert main(["merge", "1.json", "2.json", "-o", "r.json"]) == 0
    assert read(project.folder).platforms == ("systrap", "ptrace")


def test_a_missing_docker_is_no_cause_of_a_platform(here: Project) -> None:
    """A platform on which other tests have passed can be used."""
    here.test("""
        def test_passes(gvisor):
            gvisor.run(["true"], check=True)

        def test_asks_for_docker(gvisor, gvisor_image):
            gvisor_image("nothing:1")
    """)
    ran = here.run("--gvisor-report=r.json", DOCKER_HOST=f"unix://{here.folder}/none")
    ran.ends(passed=1, skipped=1).hides("cannot be used")
    states = {name: cell.state for name, cell in cells(read(here.folder), "systrap").items()}
    assert states["test_asks_for_docker"] is State.UNAVAILABLE


def test_a_marker_that_a_hook_adds_is_in_the_report(project: Project) -> None:
    """With -n, the report had the platform of before, on which the test did not run."""
    project.test(
        """
        import pytest

        @pytest.mark.parametrize("number", range(5))
        def test_first(gvisor_platform, number): pass

        def test_late(gvisor_platform):
            assert gvisor_platform == "ptrace"
        """,
        conftest="""
        import pytest

        def pytest_runtest_setup(item):
            if item.name == "test_late":
                item.add_marker(pytest.mark.gvisor(platform="ptrace"))
        """,
    )
    project.run("--gvisor-report=r.json", "-Wdefault").ends(passed=6)
    assert [*cells(read(project.folder), "ptrace")] == ["test_late"]
