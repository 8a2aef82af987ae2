"""The session folder: made safely, locked while it lives, swept when it is dead."""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import places
from pytest_gvisor.errors import LaunchError
from pytest_gvisor.launch import remains, session_dir
from pytest_gvisor.launch.remains import clear_session, remove_session
from pytest_gvisor.launch.session_dir import SessionDir

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: folders of another owner")
as_user = pytest.mark.skipif(
    os.geteuid() == 0, reason="needs an unprivileged user: root has a folder of its own in /run"
)


def mode_of(path: str) -> int:
    """The permission bits of a file or folder."""
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.fixture
def umask(base: str) -> Iterator[None]:
    """A test that has taken every permission away, when the base folder was there."""
    before = os.umask(0o777)
    yield
    os.umask(before)


@pytest.fixture
def session(base: str) -> Iterator[SessionDir]:
    """A living session."""
    made = SessionDir.create(SessionDir.choose(base)[0])
    yield made
    made.remove()


# --- the base folder


@pytest.mark.usefixtures("umask")
def test_a_private_folder_is_made_with_0700_whatever_the_umask(base: str) -> None:
    """And found again."""
    for _ in range(2):
        fd = session_dir.open_private(f"{base}/x")
        assert os.path.samestat(os.fstat(fd), os.lstat(f"{base}/x"))
        os.close(fd)
        assert mode_of(f"{base}/x") == 0o700


def refusal(path: str) -> LaunchError:
    """The error of opening the folder; no descriptor stays open."""
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(LaunchError) as caught:
        session_dir.open_private(path)
    assert set(os.listdir("/proc/self/fd")) == before
    assert caught.value.stage == "session_folder"
    assert path in str(caught.value)
    return caught.value


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o1777])
def test_a_folder_that_others_may_enter_is_refused(base: str, mode: int) -> None:
    """Whoever made it; the message says the mode and what to do."""
    os.mkdir(f"{base}/x")
    os.chmod(f"{base}/x", mode)
    error = refusal(f"{base}/x")
    assert f"mode {mode:04o} lets others in" in str(error)
    assert "Remove or rename" in str(error)


@as_root
def test_a_folder_of_another_owner_is_refused(base: str) -> None:
    """It may be a trap that another user set in a shared folder."""
    os.mkdir(f"{base}/x", 0o700)
    os.chown(f"{base}/x", 12345, 12345)
    assert "owned by uid 12345, not by uid 0" in str(refusal(f"{base}/x"))


@pytest.mark.parametrize("kind", ["link", "dangling", "file", "fifo"])
def test_what_is_no_folder_is_refused(base: str, kind: str) -> None:
    """A symlink is not followed, and a FIFO does not block."""
    path = f"{base}/x"
    os.mkdir(f"{base}/real", 0o700)
    made: dict[str, Callable[[], Any]] = {
        "link": lambda: os.symlink("real", path),
        "dangling": lambda: os.symlink("nowhere", path),
        "file": lambda: Path(path).touch(),
        "fifo": lambda: os.mkfifo(path),
    }
    made[kind]()
    refusal(path)
    assert not os.path.lexists(f"{base}/nowhere")


def test_a_folder_that_cannot_be_made_is_a_typed_error(base: str) -> None:
    """With the kernel's errno."""
    Path(f"{base}/file").touch()
    with pytest.raises(LaunchError) as caught:
        session_dir.open_private(f"{base}/file/x")
    assert caught.value.errno == errno.ENOTDIR


@as_root
def test_root_s_sessions_are_in_run() -> None:
    """Whatever the environment says."""
    assert session_dir.base_folder() == "/run/pytest-gvisor"


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which /run is nobody's to write."""
    monkeypatch.setattr(places, "SYSTEM_BASE", "/nowhere/pytest-gvisor")


@pytest.mark.fault("G8")
@pytest.mark.usefixtures("no_run")
def test_a_runtime_folder_of_ours_is_used(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """$XDG_RUNTIME_DIR, by its real path."""
    os.mkdir(f"{base}/real", 0o700)
    os.symlink("real", f"{base}/link")
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{base}/link")
    assert session_dir.base_folder() == f"{base}/real/pytest-gvisor"


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize("runtime", ["", "relative", "/nowhere/at/all", "/proc/1", "/" + "x" * 60])
def test_another_runtime_folder_is_not(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative one, a missing one, another user's: then it is the temporary directory."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/var/tmp")
    if runtime == "/proc/1" and os.geteuid() == 0:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert session_dir.base_folder() == f"/var/tmp/pytest-gvisor-{os.geteuid()}"


@pytest.mark.fault("G8")
@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize("name", ["x" * 40, "\udcff", "é" * 15])
def test_a_temporary_directory_that_runsc_cannot_use_is_passed_over(
    base: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path must fit a socket's address, and be text: then it is /tmp."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    os.mkdir(f"{base}/{name}")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: f"{base}/{name}")
    assert session_dir.base_folder() == f"/tmp/pytest-gvisor-{os.geteuid()}"


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize("name", ["a b", "é", "a'\"$x"])
def test_odd_names_are_fine(base: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks, quotes and letters beyond ASCII."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{base}/{name}")
    os.mkdir(f"{base}/{name}")
    assert session_dir.base_folder() == f"{base}/{name}/pytest-gvisor"


@pytest.mark.usefixtures("no_run")
def test_nowhere_to_go_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even /tmp may lead to a folder with a long name."""
    monkeypatch.setattr(os.path, "realpath", lambda path: "/" + "x" * 60 + path)
    with pytest.raises(LaunchError, match="at most 48 bytes"):
        session_dir.base_folder()


# --- a session


def test_a_session_is_not_there_before_it_is_made(base: str) -> None:
    """The name is chosen first: whoever is to remove it can know it."""
    path = SessionDir.choose(base)[0]
    assert os.path.dirname(path) == base
    assert not os.path.exists(path)
    assert SessionDir.choose(base)[0] != path


@pytest.mark.usefixtures("umask")
def test_a_session_is_private_and_locked(base: str) -> None:
    """Its lock is held for as long as its descriptor is open."""
    session = SessionDir.create(SessionDir.choose(base)[0])
    assert mode_of(session.path) == 0o700
    assert mode_of(f"{session.path}/lock") == 0o600
    assert mode_of(f"{base}/.lock") == 0o600
    with open(f"{session.path}/lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not os.get_inheritable(session.lock)
    number = session.lock
    session.remove()
    assert os.listdir(base) == [".lock"]
    others = os.open(base, os.O_RDONLY)
    assert others == number
    assert session.remove() == []
    os.close(others)


@pytest.mark.fault("B2")
def test_a_taken_name_is_a_typed_error_and_stays(base: str, session: SessionDir) -> None:
    """What is there is another's."""
    with pytest.raises(LaunchError) as caught:
        SessionDir.create(session.path)
    assert caught.value.errno == errno.EEXIST
    assert os.path.exists(f"{session.path}/lock")


def test_a_session_that_cannot_be_locked_is_not_left(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder goes again."""
    path = SessionDir.choose(base)[0]

    def refuse(_path: str) -> int:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(session_dir, "_take_lock", refuse)
    with pytest.raises(LaunchError) as caught:
        SessionDir.create(path)
    assert caught.value.errno == errno.ENOLCK
    assert not os.path.exists(path)


@pytest.mark.usefixtures("umask")
def test_the_journal_has_an_entry_a_line(session: SessionDir) -> None:
    """Each is complete when the call returns."""
    session.journal(id="g1", cgroups=["/sys/fs/cgroup/x"])
    session.journal(id="g\n2")
    lines = Path(session.path, "journal").read_text().split("\n")
    entries = [json.loads(line) for line in lines if line]
    assert entries == [{"id": "g1", "cgroups": ["/sys/fs/cgroup/x"]}, {"id": "g\n2"}]


def test_a_line_that_was_cut_short_is_an_error_and_spoils_no_other(
    session: SessionDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is nearly full takes a part of it."""
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))
        with pytest.raises(LaunchError) as caught:
            session.journal(id="g1")
    assert caught.value.errno == errno.ENOSPC
    session.journal(id="g2")
    last = Path(session.path, "journal").read_text().split("\n")[-1]
    assert json.loads(last) == {"id": "g2"}


# --- sweeping


def dead_session(base: str, *, locked_once: bool = True) -> str:
    """A folder that nobody holds, with something in it."""
    path = tempfile.mkdtemp(prefix="s-", dir=base)
    os.makedirs(f"{path}/g1/root")
    if locked_once:
        Path(path, "lock").touch()
    return path


@pytest.mark.fault("F6")
def test_dead_sessions_are_swept_and_living_ones_are_not(base: str, session: SessionDir) -> None:
    """Dead is a lock that nobody holds, or none; other things in the folder are not ours."""
    dead = [dead_session(base), dead_session(base, locked_once=False)]
    os.makedirs(f"{base}/other/x")
    Path(f"{base}/s-file").touch()
    os.symlink(f"{base}/other", f"{base}/s-link")
    assert sorted(session_dir.sweep(base)) == sorted(dead)
    assert set(os.listdir(base)) == {
        ".lock", os.path.basename(session.path), "other", "s-file", "s-link",
    }  # fmt: skip
    assert os.path.isdir(f"{base}/other/x")
    assert session_dir.sweep(base) == []


@pytest.mark.parametrize("name", ["\0", "\ud800", "x" * 5000])
def test_a_journal_that_names_no_path_stops_no_sweep(base: str, name: str) -> None:
    """What no file can be called was never made; the rest of the session goes."""
    dead = dead_session(base)
    entry = {"cgroups": [f"/sys/fs/cgroup/pytest-gvisor-{name}"]}
    Path(dead, "journal").write_text(json.dumps(entry))
    assert session_dir.sweep(base) == [dead]


def stuck(session: str, _cgroups: list[str]) -> list[str]:
    """A session of which something stays."""
    return [f"{session}/x: Device or resource busy"]


def test_sessions_that_are_stuck_share_one_budget(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, others can begin soon; the next sweep tries again."""
    made = {dead_session(base) for _ in range(11)}
    started = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(remains, "remove_session", stuck)
        patch.setattr(session_dir, "SWEEP_BUDGET", 0.4)
        assert session_dir.sweep(base) == []
    assert 0.2 < time.monotonic() - started < 4
    assert set(session_dir.sweep(base)) == made
    assert session_dir.SWEEP_BUDGET * 4 < session_dir.LOCK_DEADLINE


def test_who_has_waited_for_another_s_sweep_does_not_sweep_again(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of sessions that begin at once waits for one of them."""
    dead = dead_session(base)
    with monkeypatch.context() as patch, open(f"{base}/.lock", "w") as lock:
        patch.setattr(session_dir, "SWEEP_BUDGET", 0.1)
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(0.2, fcntl.flock, [lock, fcntl.LOCK_UN]).start()
        assert session_dir.sweep(base) == []
    assert session_dir.sweep(base) == [dead]


def test_who_sweeps_by_hand_sweeps_although_it_has_waited(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said to stay was tried."""
    dead = dead_session(base)
    with open(f"{base}/.lock", "w") as lock:
        monkeypatch.setattr(session_dir, "SWEEP_BUDGET", 0.1)
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(0.2, fcntl.flock, [lock, fcntl.LOCK_UN]).start()
        assert session_dir.sweep(base, although_waited=True) == [dead]


def test_what_goes_costs_nothing_of_the_budget(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, and however long it takes."""
    dead = {dead_session(base) for _ in range(4)}

    def slow(session: str, cgroups: list[str]) -> list[str]:
        time.sleep(0.06)
        return remove_session(session, cgroups)

    monkeypatch.setattr(remains, "remove_session", slow)
    monkeypatch.setattr(session_dir, "SWEEP_BUDGET", 0.15)
    assert set(session_dir.sweep(base)) == dead


def test_a_session_that_ends_says_what_stays(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And lets go of its lock, for the next sweep."""
    session = SessionDir.create(SessionDir.choose(base)[0])
    with monkeypatch.context() as patch:
        patch.setattr(remains, "remove_session", stuck)
        patch.setattr(remains, "clear_session", functools.partial(clear_session, patience=0))
        assert session.remove() == [f"{session.path}/x: Device or resource busy"]
    assert session_dir.sweep(base) == [session.path]
    assert session.remove() == []


def test_a_new_session_sweeps_first(base: str) -> None:
    """What a crash left is gone when the next one begins."""
    dead = dead_session(base)
    SessionDir.choose(base)
    assert not os.path.exists(dead)


def test_there_is_nothing_to_sweep_where_there_is_no_folder(base: str) -> None:
    """And none is made."""
    assert session_dir.sweep(f"{base}/x") == []
    assert not os.path.exists(f"{base}/x")


@pytest.mark.fault("F6")
def test_a_sweep_kills_what_a_dead_session_left_and_no_innocent(base: str) -> None:
    """By its command line: a pid that was used again is somebody else's."""
    dead = dead_session(base)
    argv = ["sh", "-c", "read x"]
    with (
        subprocess.Popen([*argv, f"--root={dead}/g1/root"], stdin=subprocess.PIPE) as ours,
        subprocess.Popen([*argv, f"{dead}/g1/root"], stdin=subprocess.PIPE) as innocent,
    ):
        for process in (ours, innocent):
            while not Path(f"/proc/{process.pid}/cmdline").read_bytes():
                time.sleep(0.001)
        assert session_dir.sweep(base) == [dead]
        assert ours.wait(10) == -9
        assert innocent.poll() is None


def test_a_lock_that_somebody_keeps_is_waited_for_and_then_an_error(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process must not stop every other session for ever."""
    session_dir.sweep(base)
    SessionDir.choose(base)
    monkeypatch.setattr(session_dir, "LOCK_DEADLINE", 0.1)
    with open(f"{base}/.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LaunchError, match="has held"):
            session_dir.sweep(base)


SESSION = """
import sys
from pytest_gvisor.launch.session_dir import SessionDir
session = SessionDir.create(SessionDir.choose(sys.argv[1])[0])
print(session.path, flush=True)
sys.stdin.read()
"""


@pytest.mark.fault("F12")
def test_a_killed_process_s_session_is_swept_and_another_s_lives(base: str) -> None:
    """The kernel lets go of the lock with the process."""
    argv = [sys.executable, "-c", SESSION, base]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, **pipes) as one, subprocess.Popen(argv, **pipes) as other:
        paths = [process.stdout.readline().strip() for process in (one, other) if process.stdout]
        assert session_dir.sweep(base) == []
        one.kill()
        one.wait()
        assert session_dir.sweep(base) == [paths[0]]
        assert os.path.isdir(paths[1])
    assert session_dir.sweep(base) == [paths[1]]


def test_many_sessions_begin_at_once(base: str) -> None:
    """None sweeps another that is being made."""
    made: list[SessionDir] = []

    def begin() -> None:
        made.append(SessionDir.create(SessionDir.choose(base)[0]))

    threads = [threading.Thread(target=begin) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({session.path for session in made}) == 16
    assert all(os.path.exists(f"{session.path}/lock") for session in made)
    for session in made:
        session.remove()
