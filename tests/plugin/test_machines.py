"""A worker of xdist on another machine: here, a process with a host name and processes of its own.

tests/machines has whole machines.
"""

import os
import sys

import pytest

from pytest_gvisor.report import parse
from tests.plugin.conftest import Project

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces")

NAMESPACES = "unshare --mount --uts --pid --fork --kill-child --mount-proc"
ELSEWHERE = f"popen//python={NAMESPACES} sh -c 'hostname far; exec {sys.executable} \"$@\"' sh"


def test_a_report_has_a_run_for_each_machine(alone: Project) -> None:
    """Each cell names the machines that ran it, and a test that differs between them shows it."""
    alone.test("""
        import os
        import pytest

        def test_workload(gvisor):
            assert gvisor.run(["true"]).returncode == (os.uname().nodename == "far")

        @pytest.mark.in_gvisor
        def test_inside():
            pass
    """)
    args = ("--tx", "popen", "--tx", ELSEWHERE, "--dist=each")
    ran = alone.run(*args, "--gvisor-report=r.json", "--gvisor-report=r.md").ends(
        passed=3, failed=1
    )
    here = os.uname().nodename
    ran.shows(
        f"test_it.py::test_workload: systrap FAILED on far, passed on {here}",
        f"gVisor: on {here}: runsc ", "gVisor: on far: runsc ",
    )  # fmt: skip
    report = parse.parse((alone.folder / "r.json").read_bytes())
    assert report.hosts == (here, "far")
    assert [row.test for row in report.differing] == ["test_it.py::test_workload"]
    for row in report.rows:
        (cell,) = row.cells
        assert sorted([cell.leg, *(other.leg for other in cell.others)]) == [0, 1]
    rows = (alone.folder / "r.md").read_text()
    assert f"failed on `far`; run 1: passed on `{here}`" in rows


def test_a_setting_in_the_environment_is_not_lost_on_the_way(alone: Project) -> None:
    """A worker whose machine lacks a variable has its setting; a value of its own counts more."""
    alone.test("""
        import os
        from pytest_gvisor.plugin.precedence import run_settings

        def test_it(pytestconfig):
            assert run_settings(pytestconfig).timeout == float(os.environ["TIMEOUT"])
    """)
    lacks = ELSEWHERE.replace("exec ", "unset PYTEST_GVISOR_TIMEOUT; exec ")
    for worker, timeout in ((lacks, "7"), (f"{lacks}//env:PYTEST_GVISOR_TIMEOUT=8", "8")):
        ran = alone.run("--tx", worker, "--dist=load", PYTEST_GVISOR_TIMEOUT="7", TIMEOUT=timeout)
        ran.ends(passed=1)


def test_no_thread_of_a_worker_there_has_a_tracer(alone: Project) -> None:
    """Python 3.11 often aborts at its end if such a thread outlives the tracer of pytest-cov."""
    conftest = """
        import threading

        traced = set()

        def pytest_configure():
            threading.settrace(lambda *_: traced.add(threading.current_thread().name))
    """
    tests = """
        from conftest import traced

        def test_it():
            assert traced == set()
    """
    alone.test(tests, conftest=conftest).run("--tx", ELSEWHERE, "--dist=load").ends(passed=1)
