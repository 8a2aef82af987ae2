"""A killed or stopped keeper: its runs are dead, their tests fail, the next run works."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_gvisor import Gvisor, ProtocolError, SandboxCrashed, WorkloadTimeout
from pytest_gvisor.programs import leftovers
from pytest_gvisor.programs.proc import children_of
from pytest_gvisor.run import supervisor
from pytest_gvisor.sandbox import channel
from tests.faults.little import LONGER, PROCESSES_AFTER, Little, eventually, hang
from tests.waiting import stop

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: limits by cgroups")


@contextlib.contextmanager
def sent_to_the_keeper(gvisor: Gvisor, number: signal.Signals, runs: int = 1) -> Iterator[int]:
    """Send a signal to the keeper as soon as so many sandboxes of it run."""
    pid = gvisor._launcher.keeper().pid

    def send() -> None:
        eventually(lambda: sum(map(bool, map(children_of, children_of(pid)))) >= runs)
        time.sleep(0.3)
        os.kill(pid, number)

    thread = threading.Thread(target=send)
    thread.start()
    yield pid
    thread.join()


def processes_left(gvisor: Gvisor) -> list[int]:
    """The processes of the session's sandboxes."""
    session = gvisor._launcher.session().path
    return leftovers.processes(session, everywhere=True)


@pytest.mark.fault("F5")
def test_a_killed_keeper_is_told_to_the_test_and_replaced(gvisor: Gvisor) -> None:
    """The kernel has killed the sandbox; its remains are removed, and the next run works."""
    session = gvisor._launcher.session().path
    with sent_to_the_keeper(gvisor, signal.SIGKILL), pytest.raises(ProtocolError, match="keeper"):
        gvisor.run(["sleep", "100"])
    assert processes_left(gvisor) == []
    assert [name for name in os.listdir(session) if name.startswith("g")] == []
    assert gvisor.run(["echo", "again"]).stdout == "again\n"


@pytest.mark.fault("F5")
@needs_root
def test_a_killed_keeper_s_cgroups_are_removed(gvisor: Gvisor) -> None:
    """The cgroups are removed although the keeper that should remove them is dead."""
    with sent_to_the_keeper(gvisor, signal.SIGKILL), pytest.raises(ProtocolError):
        gvisor.run(["sleep", "100"], memory="512M", pids=200)
    cgroups = leftovers.journalled_cgroups(gvisor._launcher.session().path)
    assert cgroups
    assert [path for path in cgroups if os.path.exists(path)] == []


@pytest.mark.fault("F8")
def test_a_stopped_keeper_does_not_stop_the_deadline(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run times out, its sandbox is dead then, and the next run works."""
    killing = 1.0
    monkeypatch.setattr(supervisor, "KILL_DEADLINE", killing)
    keeper, stopped = gvisor._launcher.keeper().pid, list[int]()

    def stop() -> Iterator[bytes]:
        while not any(map(children_of, children_of(keeper))):
            yield b""
        os.kill(keeper, signal.SIGSTOP)
        stopped.append(keeper)

    for timeout in (2, 40):  # a busy machine may take longer to start the sandbox
        started = time.monotonic()
        with pytest.raises(WorkloadTimeout):
            gvisor.run(["sleep", "100"], timeout=timeout, input=stop())
        assert time.monotonic() - started < timeout + supervisor.TERM_GRACE + killing + LONGER
        if stopped:
            break
    assert stopped
    assert processes_left(gvisor) == []
    assert gvisor.run(["echo", "again"]).stdout == "again\n"


@pytest.mark.fault("F8")
def test_a_stopped_keeper_does_not_stop_a_warm_sandbox_s_end(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program's deadline is the guest's; the sandbox is dead when it is closed."""
    killing = 0.5
    monkeypatch.setattr(supervisor, "KILL_DEADLINE", killing)
    sandbox = gvisor.sandbox()
    with sent_to_the_keeper(gvisor, signal.SIGSTOP), pytest.raises(WorkloadTimeout):
        sandbox.exec(["sleep", "100"], timeout=1)
    started = time.monotonic()
    sandbox.close()
    assert time.monotonic() - started < channel._EXIT_PATIENCE + killing + LONGER
    assert processes_left(gvisor) == []
    assert gvisor.run(["echo", "again"]).stdout == "again\n"


@pytest.mark.fault("F5")
def test_a_killed_keeper_is_told_to_a_warm_sandbox_s_users(gvisor: Gvisor) -> None:
    """Each program ends with its sandbox, and the next sandbox works."""
    with gvisor.sandbox() as sandbox:
        with sent_to_the_keeper(gvisor, signal.SIGKILL), pytest.raises(SandboxCrashed):
            sandbox.exec(["sleep", "100"], timeout=50)
        assert processes_left(gvisor) == []
    with gvisor.sandbox() as sandbox:
        assert sandbox.exec(["echo", "again"]).stdout == "again\n"


@pytest.mark.fault("F5")
def test_other_threads_runs_end_with_the_keeper_too(gvisor: Gvisor) -> None:
    """Each thread's run raises an error, and none hangs."""

    def run(_number: int) -> None:
        with pytest.raises(ProtocolError):
            gvisor.run(["sleep", "100"])

    with ThreadPoolExecutor(3) as pool:
        # A run that begins later has a new keeper.
        with sent_to_the_keeper(gvisor, signal.SIGKILL, 3):
            ended = pool.map(run, range(3))
        assert len(list(ended)) == 3
    assert processes_left(gvisor) == []


@pytest.mark.fault("F5", "F6")
def test_what_both_leave_when_both_are_killed_is_swept_by_the_next_session(little: Little) -> None:
    """The sandbox dies with the keeper; folder, state and cgroups go when the next one begins."""
    process = hang(little)
    (keeper,) = little.keepers()
    stop(process.pid)
    os.kill(keeper, signal.SIGKILL)
    process.kill()
    process.wait()
    gone = eventually(lambda: not little.processes(), PROCESSES_AFTER * LONGER)
    assert gone is not None, little.left()
    assert little.files() != []
    little.write(test_it="def test_it(gvisor): assert gvisor.run(['true']).returncode == 0")
    little.run()
    assert little.left() == []


@pytest.mark.fault("F8", "F4")
def test_a_stopped_keeper_whose_pytest_is_killed_goes_on_with_the_next_session(
    any_little: Little,
) -> None:
    """The next session's sweep resumes the keeper, which then ends its sandbox."""
    process = hang(any_little)
    (keeper,) = any_little.keepers()
    os.kill(keeper, signal.SIGSTOP)
    process.kill()
    process.wait()
    any_little.write(test_it="def test_it(gvisor): assert gvisor.run(['true']).returncode == 0")
    assert len(any_little.processes()) > 1
    any_little.run()
    any_little.assert_gone()
