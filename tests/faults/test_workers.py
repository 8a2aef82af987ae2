"""Workers of xdist: a killed one ends no other, many runs at once end well, and nothing is left."""

import os
import signal

import pytest

from pytest_gvisor.programs.proc import children_of, words_of
from tests.faults.little import FILES_AFTER, LONGER, PROCESSES_AFTER, Little, eventually, saying

TESTS = {
    "run": """
    import pytest

    @pytest.mark.parametrize("number", range(6))
    def test_it(gvisor, number):
        if number in HANG:
            gvisor.run(["sleep", "100"], timeout=50)
        assert gvisor.run(["sh", "-c", f"sleep 0.3; echo {number}"]).stdout == f"{number}\\n"
    """,
    "inside": """
    import time
    import pytest

    @pytest.mark.in_gvisor
    @pytest.mark.parametrize("number", range(6))
    def test_it(number):
        time.sleep(50 if number in HANG else 0.3)
    """,
}
WORKERS = """
    import os, pathlib

    def pytest_runtest_logstart(nodeid):
        if "PYTEST_XDIST_WORKER" in os.environ:
            part = pathlib.Path(f"part-{os.getpid()}")
            part.write_text(str(os.getpid()))
            part.rename(f"at-{nodeid[-2]}")
"""
"""Each worker tells which test it has begun."""


def at_work(little: Little, number: int) -> int:
    """The worker that has begun a test, when that has a sandbox."""
    assert eventually(lambda: little.note(f"at-{number}")) is not None, little.output()
    worker = int((little.folder / f"at-{number}").read_text())
    assert eventually(lambda: any(map(children_of, children_of(worker)))) is not None
    return worker


@pytest.mark.fault("F7")
@pytest.mark.parametrize("way", TESTS)
def test_a_killed_worker_fails_its_test_and_no_other(any_little: Little, way: str) -> None:
    """xdist says so and goes on with a new worker; the sandboxes of the dead one are gone soon."""
    any_little.write(test_it=TESTS[way].replace("HANG", "{2}"), plugin=WORKERS)
    process = any_little.start("-n2", "-p", "plugin")
    worker = at_work(any_little, 2)
    (session,) = {words_of(pid)[-1] for pid in any_little.keepers() if pid in children_of(worker)}
    os.kill(worker, signal.SIGKILL)
    assert eventually(lambda: not saying(session), PROCESSES_AFTER * LONGER) is not None
    assert eventually(lambda: not os.path.exists(session), FILES_AFTER * LONGER) is not None
    assert process.wait(120) == pytest.ExitCode.TESTS_FAILED
    any_little.assert_gone()
    output = any_little.output()
    assert "1 failed, 5 passed" in output
    assert "test_it[2]" in output
    assert "crashed" in output


@pytest.mark.fault("F7")
@pytest.mark.parametrize("way", TESTS)
def test_the_controller_is_killed_with_all_its_workers_at_work(
    any_little: Little, way: str
) -> None:
    """Each worker's keeper cleans up."""
    any_little.write(test_it=TESTS[way].replace("HANG", "range(6)"), plugin=WORKERS)
    process = any_little.start("-n2", "--dist=each", "-p", "plugin")
    assert eventually(lambda: len(any_little.keepers()) == 2) is not None, any_little.output()
    at_work(any_little, 0)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    any_little.assert_gone()


STOPPED = """
    import os, pathlib
    import pytest

    @pytest.mark.parametrize("number", range(4))
    def test_it(gvisor, number):
        def pieces():
            pathlib.Path(f"pid-{number}").write_text(str(os.getpid()))
            os.rename(f"pid-{number}", "victim")
            while not pathlib.Path("finish").exists():
                yield b""
        if number == 0:
            gvisor.run(["cat"], input=pieces(), timeout=50)
        else:
            gvisor.run(["true"])
            pathlib.Path(f"done-{number}").touch()
"""


@pytest.mark.fault("F8")
@pytest.mark.parametrize("after", [signal.SIGCONT, signal.SIGKILL])
def test_a_stopped_worker_stops_no_other(any_little: Little, after: signal.Signals) -> None:
    """The other one's sandboxes run; then the stopped one goes on, or is killed as any."""
    any_little.write(test_it=STOPPED)
    process = any_little.start("-n2", "--dist=worksteal")
    assert eventually(lambda: any_little.note("victim") or process.poll() is not None) is not None
    victim = int((any_little.folder / "victim").read_text())
    os.kill(victim, signal.SIGSTOP)
    assert eventually(lambda: any_little.note("done-2") and any_little.note("done-3")) is not None
    (any_little.folder / "finish").touch()
    os.kill(victim, after)
    status = process.wait(60)
    any_little.assert_gone()
    output = any_little.output()
    if after == signal.SIGCONT:
        assert (status, "4 passed" in output) == (0, True), output
    else:
        assert (status, "1 failed, 3 passed" in output) == (1, True), output


@pytest.mark.fault("F8")
@pytest.mark.parametrize("after", [signal.SIGCONT, signal.SIGKILL])
def test_a_stopped_pytest_leaves_nothing_in_the_end(
    any_little: Little, after: signal.Signals
) -> None:
    """The sandbox runs on: a resumed pytest gets its verdict, and a killed one leaves nothing."""
    any_little.write(
        test_it="""
        import pathlib
        from pytest_gvisor import bind

        def test_it(gvisor):
            wait = "while [ ! -e /here/go ]; do sleep 0.05; done"
            script = f"echo up > /here/up; {wait}; echo well > /here/end"
            here = pathlib.Path("here")
            here.mkdir(mode=0o777)
            here.chmod(0o777)
            mounts = [bind(here.resolve(), "/here", readonly=False)]
            assert gvisor.run(["sh", "-c", script], mounts=mounts, timeout=50).returncode == 0
        """
    )
    process = any_little.start()
    here = any_little.folder / "here"
    assert eventually((here / "up").exists) is not None
    os.kill(process.pid, signal.SIGSTOP)
    (here / "go").touch()
    assert eventually((here / "end").exists) is not None
    os.kill(process.pid, after)
    assert process.wait(60) == (0 if after == signal.SIGCONT else -signal.SIGKILL)
    any_little.assert_gone()


MANY = """
    import pytest
    from concurrent.futures import ThreadPoolExecutor

    @pytest.mark.parametrize("test", range(2))
    def test_it(gvisor, test):
        def run(number):
            return gvisor.run(["echo", f"{test}.{number}"], timeout=150).stdout

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(run, range(8))) == [f"{test}.{n}\\n" for n in range(8)]
"""


def test_two_workers_have_many_runs_at_once(any_little: Little) -> None:
    """Two workers have eight runs at once each, and all of them end well."""
    any_little.write(test_it=MANY)
    any_little.run("-n2")
    assert "2 passed" in any_little.output()
    assert any_little.left() == []
