"""This process's end of the keeper: made when needed, made again when lost, gone when closed."""

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.base.errors import LaunchError, ProtocolError
from pytest_gvisor.programs import leftovers
from pytest_gvisor.programs.order import Order
from pytest_gvisor.sessions import launcher as launcher_module
from pytest_gvisor.sessions import session_folder
from pytest_gvisor.sessions.launcher import Control, Keeper, Launcher
from pytest_gvisor.sessions.session_folder import SessionDir
from tests.waiting import wait_for, wait_for_end


@pytest.fixture
def control() -> Iterator[tuple[Control, socket.socket]]:
    """The socket of a run, and the keeper's end of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield Control(ours), theirs
    ours.close()
    theirs.close()


def test_a_message_is_an_object(control: tuple[Control, socket.socket]) -> None:
    """A message can be read as soon as its descriptor is ready."""
    ours, theirs = control
    assert not ours.wait(time.monotonic())
    theirs.send(b'{"state": "spawned"}')
    assert ours.wait(time.monotonic() + 60)
    assert ours.read() == {"state": "spawned"}


@pytest.mark.parametrize("message", [b"[]", b"7", b"{", b"\xff", b"[" * 50_000])
def test_any_other_message_is_a_protocol_error(
    control: tuple[Control, socket.socket], message: bytes
) -> None:
    """No other exception of Python's is raised."""
    ours, theirs = control
    theirs.send(message)
    with pytest.raises(ProtocolError, match="not an object"):
        ours.read()


def test_a_keeper_that_is_gone_is_a_protocol_error(control: tuple[Control, socket.socket]) -> None:
    """A request to a gone keeper is no error: the next read reports it."""
    ours, theirs = control
    theirs.close()
    ours.ask("term")
    assert ours.wait(time.monotonic() + 60)
    with pytest.raises(ProtocolError, match="keeper"):
        ours.read()
    ours.close()
    with pytest.raises(ProtocolError):
        ours.read()


def test_nothing_is_made_before_it_is_needed(base: str) -> None:
    """A launcher makes no folder and no process before its use, and none when it closes."""
    launcher = Launcher(base)
    launcher.close()
    assert os.listdir(base) == []


@pytest.mark.fault("F13")
def test_closing_leaves_nothing_and_can_be_done_twice(base: str) -> None:
    """The keeper is gone and the session folder too; a new one can be made."""
    launcher = Launcher(base)
    for _ in range(2):
        pid = launcher.keeper().pid
        launcher.close()
        launcher.close()
        wait_for_end(pid)
        assert os.listdir(base) == [".lock"]


def test_a_session_whose_folder_is_removed_goes_on_in_another(launcher: Launcher) -> None:
    """At a user's last logout, systemd removes XDG_RUNTIME_DIR. Sandboxes run on until the end."""
    first, keeper = launcher.session(), launcher.keeper()
    shutil.rmtree(first.path)
    second = launcher.keeper()
    assert os.path.isdir(launcher.session().path)
    assert keeper.alive()
    assert second.alive()
    assert launcher.close() == []
    assert first.held == []
    assert not keeper.alive()
    assert not second.alive()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: no other user can become another one")
def test_a_lowered_user_gets_a_typed_error_and_moves_no_session(launcher: Launcher) -> None:
    """A test of root's may lower its user for a moment: the next sandbox is in root's session."""
    first, keeper = launcher.session(), launcher.keeper()
    os.seteuid(65534)
    try:
        for use in (launcher.session, launcher.keeper):
            with pytest.raises(LaunchError, match="another user"):
                use()
    finally:
        os.seteuid(0)
    assert launcher.session() is first
    assert launcher.keeper() is keeper


def test_all_threads_get_the_same_keeper(launcher: Launcher) -> None:
    """Threads that ask at once get one keeper."""

    def ask(_number: int) -> tuple[int, str]:
        return launcher.keeper().pid, launcher.session().path

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(ask, range(16)))) == 1


def gone_or_zombie(pid: int) -> bool:
    """Whether a child has ended."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT) is not None


def test_a_fork_in_the_midst_of_a_start_gets_a_typed_error(launcher: Launcher) -> None:
    """The lock's holder is not in the fork; keeper and folder are the parent's, and stay there."""
    session, keeper = launcher.session(), launcher.keeper()
    with launcher._guard:
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            status = 1
            try:
                for use in (launcher.session, launcher.keeper):
                    with pytest.raises(LaunchError, match="fork"):
                        use()
                status = len(launcher.close())
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
    assert launcher.keeper() is keeper
    assert keeper.alive()
    assert os.path.isdir(session.path)


def test_closing_does_not_wait_for_a_fork_that_lives_on(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork, such as a pool of processes that stays open, has copies of all descriptors."""
    keeper = launcher.keeper()
    pid = os.fork()
    if pid == 0:
        try:
            signal.pause()
        finally:
            os._exit(1)
    monkeypatch.setattr(launcher_module, "_STOP_DEADLINE", 100.0)
    began = time.monotonic()
    try:
        assert launcher.close() == []
    finally:
        lasted = time.monotonic() - began
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert lasted < 50
    assert keeper._process.returncode == 0


def test_a_keeper_is_given_the_lock_of_its_session(launcher: Launcher) -> None:
    """The first keeper gets the lock, and so does its replacement."""
    first = launcher.keeper()
    wait_for(lambda: has_the_lock(first), "the lock")
    os.kill(first.pid, signal.SIGKILL)
    assert gone_or_zombie(first.pid)
    second = launcher.keeper()
    wait_for(lambda: has_the_lock(second), "the lock")


def has_the_lock(keeper: Keeper) -> bool:
    """Whether one of the keeper's descriptors is that of a session's lock."""
    for fd in os.listdir(f"/proc/{keeper.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # it has been closed since
            if os.readlink(f"/proc/{keeper.pid}/fd/{fd}").endswith("/lock"):
                return keeper.alive()
    return False


PROGRAMS = {
    "it fails": "raise SystemExit(3)",
    "it says something else": "import os, sys; os.write(int(sys.argv[1]), b'hello')",
    "it hangs": "import time; time.sleep(1000)",
    "it cannot be read": "(",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_keeper_that_does_not_come_up_is_a_typed_error(
    launcher: Launcher, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """The keeper is dead afterwards, nothing is left, and the next one can start."""
    (tmp_path / "keeper.py").write_text(program)
    with monkeypatch.context() as patch:
        patch.setattr(launcher_module, "_PROGRAM", str(tmp_path / "keeper.py"))
        patch.setattr(launcher_module, "_START_DEADLINE", 0.5 if "sleep" in program else 10.0)
        with pytest.raises(LaunchError, match="did not come up") as caught:
            launcher.keeper()
    assert caught.value.stage == "keeper"
    assert launcher.keeper().alive()
    launcher.close()
    assert os.listdir(base) == [".lock"]


def test_a_request_that_cannot_be_sent_is_a_typed_error(launcher: Launcher) -> None:
    """A request fails if it exceeds a message, or if no keeper reads it."""
    keeper = launcher.keeper()
    order = Order(id="g1", argv=(), term=(), env={}, folder="", root="")
    with pytest.raises(LaunchError, match="cannot be sent") as caught:
        keeper.launch(order.command(("x" * 2**24,)), [])
    assert caught.value.errno == errno.EMSGSIZE
    os.kill(keeper.pid, signal.SIGKILL)
    assert gone_or_zombie(keeper.pid)
    with pytest.raises(LaunchError, match="cannot be sent"):
        keeper.launch(order, [])
    keeper.hold([0])  # before its own word on why it has ended
    with pytest.raises(LaunchError, match="cannot be sent"):
        keeper.hold([-1])


def test_a_keeper_that_does_not_end_is_killed(
    launcher: Launcher, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The close has a deadline, and removes the remains itself."""
    monkeypatch.setattr(launcher_module, "_STOP_DEADLINE", 0.2)
    pid = launcher.keeper().pid
    os.kill(pid, signal.SIGSTOP)
    launcher.close()
    wait_for_end(pid)
    assert os.listdir(base) == [".lock"]


def test_ctrl_c_while_the_keeper_comes_up_leaves_nothing(
    launcher: Launcher, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt arrives, and the process is gone."""
    started: list[int] = []
    real = subprocess.Popen

    def popen(*arguments: Any, **options: Any) -> Any:
        # A program that never says that it is ready, as a keeper may in the time up to a signal.
        process = real(["sleep", "60"], **options)
        started.append(process.pid)
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        return process

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", popen)
        with pytest.raises(KeyboardInterrupt):
            launcher.keeper()
    wait_for_end(started[0])
    launcher.close()
    assert os.listdir(base) == [".lock"]


def test_what_the_sweep_has_removed_is_counted(base: str, launcher: Launcher) -> None:
    """Once a session is made, and not again with a keeper that replaces the first."""
    for _ in range(2):
        SessionDir.create(SessionDir.new_path(base)).release()
    launcher.keeper()
    assert launcher.swept == 2
    launcher.keeper().kill()
    assert launcher.keeper().alive()
    assert launcher.swept == 2


def test_what_stays_of_a_session_is_told(
    base: str, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first close returns the remaining files; a second one returns nothing."""
    launcher.keeper().kill()
    with monkeypatch.context() as patch:
        patch.setattr(leftovers, "clear_session", lambda path: [f"{path}: busy"])
        (leak,) = launcher.close()
    assert leak.endswith(": busy")
    assert launcher.close() == []
    assert len(session_folder.sweep(base)) == 1
