"""A keeper that was stopped goes on where its pytest is dead, and nowhere else."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_gvisor.programs import bootstrap, proc
from pytest_gvisor.sessions import session_folder, stopped_keepers
from tests.waiting import stop, wait_for

# Holds its session's lock and does nothing, however often it is made to go on.
IDLE = """\
import os, time
os.setresuid(*{uids})
print(flush=True)
time.sleep(100)
"""
PYTEST = """
import sys, time
from pytest_gvisor.sessions.launcher import Launcher

launcher = Launcher(sys.argv[1])
print(launcher.keeper().pid, launcher.session().path, flush=True)
time.sleep(100)
"""

DRIVER = """
import os, subprocess, sys, time
from pytest_gvisor.programs import paths, warden
from pytest_gvisor.sessions.session_folder import SessionDir

session = SessionDir.create(SessionDir.choose(sys.argv[1])[0])
pidfd = os.pidfd_open(os.getpid())
argv = paths.command(warden.__file__, pidfd, 60, session.path, "sleep", "100")
pipe = subprocess.PIPE
made = subprocess.Popen(argv, stdin=pipe, stdout=pipe, pass_fds=(pidfd, *session.held))
print(made.pid, session.path, flush=True)
time.sleep(100)
"""


def state_of(pid: int) -> str:
    """The state's letter, as in ps(1)."""
    stat = proc.stat_of(pid)
    assert stat is not None
    return stat.state


@dataclass(frozen=True, kw_only=True)
class Session:
    """A session's folder, and substitutes for its pytest and its stopped keeper."""

    path: str
    pytest: subprocess.Popen[bytes]
    keeper: subprocess.Popen[bytes]


Make = Callable[..., Session]


@pytest.fixture
def session(base: str, tmp_path: Path) -> Iterator[Make]:
    """Factory of sessions whose keepers do nothing, ended with the test."""
    made: list[subprocess.Popen[bytes]] = []

    def make(
        *,
        flags: Sequence[str] = ("-I", "-S"),
        program: str = "keeper.py",
        folder: str = "",
        uids: tuple[int, int, int] = (-1, -1, -1),
    ) -> Session:
        (tmp_path / program).write_text(IDLE.format(uids=uids))
        path = os.path.join(base, folder, "s-1")
        os.makedirs(path)
        made.append(subprocess.Popen(["sleep", "100"]))
        pidfd = os.pidfd_open(made[0].pid)
        with open(f"{path}/lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            words = [*flags, bootstrap.__file__, str(tmp_path / program), "0", str(pidfd)]
            made.append(
                subprocess.Popen(
                    [sys.executable, *words, path],
                    pass_fds=(lock.fileno(), pidfd),
                    stdout=subprocess.PIPE,
                )
            )
        os.close(pidfd)
        assert made[1].stdout is not None
        made[1].stdout.readline()
        stop(made[1].pid)
        return Session(path=path, pytest=made[0], keeper=made[1])

    yield make
    for process in made:
        process.kill()
        process.communicate()


@pytest.mark.fault("F8")
@pytest.mark.parametrize("waited_for", [True, False])
def test_a_keeper_whose_pytest_is_dead_goes_on_and_cleans_up_itself(
    base: str, waited_for: bool
) -> None:
    """The dead pytest may still be a zombie; the keeper's folder counts as swept."""
    with subprocess.Popen([sys.executable, "-c", PYTEST, base], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        keeper, path = process.stdout.readline().split()
        stop(int(keeper))
        assert session_folder.dead(base) == []
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if waited_for:
            process.wait()
        assert session_folder.dead(base) == [os.fsdecode(path)]
        assert session_folder.sweep(base) == [os.fsdecode(path)]
        assert os.listdir(base) == [".lock"]


@pytest.mark.fault("F8")
def test_the_warden_of_a_vm_whose_driver_is_dead_goes_on_too(base: str) -> None:
    """The warden kills the VM, which would run on past its deadline, and removes the folder."""
    with subprocess.Popen([sys.executable, "-c", DRIVER, base], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        warden, path = process.stdout.readline().split()
        wait_for(lambda: proc.children_of(int(warden)), "the warden's guard")
        (guard,) = proc.children_of(int(warden))
        wait_for(lambda: proc.children_of(guard), "the VM")
        pids = [int(warden), guard, *proc.children_of(guard)]
        stop(int(warden))
        assert session_folder.dead(base) == []
        process.kill()
    assert session_folder.dead(base) == [os.fsdecode(path)]
    assert session_folder.sweep(base) == [os.fsdecode(path)]
    assert os.listdir(base) == [".lock"]
    wait_for(lambda: not any(map(proc.words_of, pids)), "the end of the VM")


@pytest.mark.fault("F8")
def test_a_keeper_whose_pytest_lives_stays_as_it_is(base: str, session: Make) -> None:
    """The user who stopped the keeper may want to inspect it."""
    made = session()
    assert session_folder.sweep(base) == session_folder.dead(base) == []
    assert state_of(made.keeper.pid) == "T"
    made.pytest.kill()
    made.pytest.wait()
    assert stopped_keepers.sessions(base) == [made.path]


@pytest.mark.parametrize("other", [{"flags": ["-I"]}, {"program": "x.py"}, {"folder": "x"}])
def test_what_is_no_keeper_of_these_sessions_stays_as_it_is(
    base: str, session: Make, other: dict[str, object]
) -> None:
    """Another command line, another program, the keeper of another base folder."""
    made = session(**other)
    made.pytest.kill()
    made.pytest.wait()
    assert stopped_keepers.sessions(base) == stopped_keepers.wake(base) == []
    assert state_of(made.keeper.pid) == "T"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a keeper of another user")
@pytest.mark.parametrize("uids", [(12345, 12345, 12345), (12345, 0, 0)])
def test_a_stopped_keeper_of_another_user_s_stays_as_it_is(
    base: str, session: Make, uids: tuple[int, int, int]
) -> None:
    """Anybody can name root's session on a command line, that of a set-uid program too."""
    made = session(uids=uids)
    made.pytest.kill()
    made.pytest.wait()
    assert (
        stopped_keepers.sessions(base)
        == stopped_keepers.wake(base)
        == session_folder.dead(base)
        == []
    )
    assert state_of(made.keeper.pid) == "T"


def test_a_keeper_that_runs_is_left_to_itself(base: str, session: Make) -> None:
    """A running keeper may be in the middle of its cleaning."""
    made = session()
    made.keeper.send_signal(signal.SIGCONT)
    made.pytest.kill()
    made.pytest.wait()
    wait_for(lambda: state_of(made.keeper.pid) != "T", "the keeper to go on")
    assert stopped_keepers.sessions(base) == []
