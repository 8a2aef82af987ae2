"""A worker of xdist is killed: the others go on, and nothing is left."""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults.little import Little, children_of, eventually

TESTS = """
    import os, pathlib, time
    import pytest

    @pytest.mark.parametrize("number", range(6))
    def test_it(gvisor, number):
        if number == 2:
            pathlib.Path(f"pid-{number}").write_text(str(os.getpid()))
            os.rename(f"pid-{number}", "victim")
            gvisor.run(["sleep", "100"], timeout=50)
        assert gvisor.run(["sh", "-c", f"sleep 0.5; echo {number}"]).stdout == f"{number}\\n"
"""


@pytest.mark.fault("F7")
def test_a_killed_worker_fails_its_test_and_no_other(little: Little) -> None:
    """xdist says so and goes on with a new worker; the sandboxes of the dead one are gone."""
    little.write(test_it=TESTS)
    process = little.start("-n2")
    assert eventually(lambda: little.note("victim") or process.poll() is not None) is not None
    victim = int((little.folder / "victim").read_text())
    assert eventually(lambda: any(map(children_of, children_of(victim)))) is not None
    os.kill(victim, signal.SIGKILL)
    assert process.wait(120) == pytest.ExitCode.TESTS_FAILED
    assert eventually(lambda: not little.left(), 10) is not None, little.left()
    output = little.output()
    assert "1 failed, 5 passed" in output
    assert "test_it[2]" in output
    assert "crashed" in output


@pytest.mark.fault("F7")
def test_the_controller_is_killed_with_all_its_workers_at_work(little: Little) -> None:
    """Each worker's keeper does what it is for; what the workers share is gone too."""
    little.write(test_it=TESTS.replace("number == 2", "True"))
    process = little.start("-n2")
    assert eventually(lambda: len(little.keepers()) == 2 or process.poll() is not None) is not None
    assert eventually(lambda: little.note("victim")) is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert eventually(lambda: not little.left(), 10) is not None, little.left()


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
    assert eventually(lambda: not any_little.left(), 10) is not None, any_little.left()
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
    """Its sandbox runs on meanwhile: when it goes on it has the verdict; killed, all is gone."""
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
    assert eventually((here / "end").exists, 20) is not None
    os.kill(process.pid, after)
    assert process.wait(60) == (0 if after == signal.SIGCONT else -signal.SIGKILL)
    assert eventually(lambda: not any_little.left(), 10) is not None, any_little.left()
