"""The session folder: made safely, locked while it lives, swept when it is dead."""

import contextlib
import errno
import fcntl
import functools
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pytest_gvisor.base.errors import LaunchError
from pytest_gvisor.base.trust import noexec_problem
from pytest_gvisor.programs import clock, leftovers
from pytest_gvisor.programs.leftovers import clear_session, remove_session
from pytest_gvisor.programs.linux import closing
from pytest_gvisor.sessions import places, private, session_folder, stopped_keepers
from pytest_gvisor.sessions.session_folder import SessionDir
from tests.forks import a_fork
from tests.mounts import masked

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it has a folder in /run")


def mode_of(path: str) -> int:
    """The permission bits of a file or folder."""
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.fixture
def session(base: str) -> Iterator[SessionDir]:
    """A living session."""
    made = SessionDir.create(SessionDir.choose(base)[0])
    yield made
    made.remove()


# --- the base folder


@as_root
def test_root_s_sessions_are_in_run() -> None:
    """Root's sessions are in /run, for any environment."""
    assert session_folder.base_folder() == "/run/pytest-gvisor"


@pytest.fixture
def temporary(base: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The temporary folder, on a machine without a writable /run.

    No sandbox of this process has seen all of the host, as one of another test may have.
    """
    monkeypatch.setattr(private, "written", set())
    path = f"{base}/tmp"
    os.mkdir(path, 0o700)
    monkeypatch.setattr(places, "SYSTEM_BASE", "/nowhere/pytest-gvisor")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: path)
    return path


@pytest.fixture
def in_tmp() -> Iterator[str]:
    """The candidate in /tmp; it goes with the test, unless other processes have sessions there."""
    path = f"/tmp/pytest-gvisor-{os.geteuid()}"
    yield path
    with contextlib.suppress(OSError):
        os.rmdir(path)


@pytest.mark.fault("G8")
@pytest.mark.usefixtures("temporary")
def test_a_runtime_folder_of_ours_is_used(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """$XDG_RUNTIME_DIR is used by its canonical path."""
    os.mkdir(f"{base}/real", 0o700)
    os.symlink("real", f"{base}/link")
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{base}/link")
    chosen, passed = session_folder.choose_base()
    assert (chosen, passed) == (f"{base}/real/pytest-gvisor", [])
    assert mode_of(chosen) == 0o700


@pytest.mark.parametrize("runtime", ["", "relative", "/nowhere/at/all", "foreign", "/" + "x" * 60])
def test_another_runtime_folder_is_not(
    temporary: str, runtime: str, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative, a missing or another user's runtime folder makes way for the temporary folder."""
    if runtime == "foreign":
        runtime = "/proc/1"
        if os.geteuid() == 0:
            runtime = f"{base}/foreign"
            os.mkdir(runtime, 0o700)
            os.chown(runtime, 12345, 12345)
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert session_folder.base_folder() == f"{temporary}/pytest-gvisor-{os.geteuid()}"


def test_a_runtime_folder_that_goes_when_it_has_been_looked_at_is_no_error(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a shared folder, another user may make and remove it."""
    os.mkdir(runtime := f"{base}/theirs")
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    looks: list[Any] = []
    stat_of = os.stat

    def once(path: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(runtime):
            looks.append(path)
            if len(looks) > 1:
                raise FileNotFoundError(path)
        return stat_of(path, **options)

    monkeypatch.setattr(os, "stat", once)
    assert f"{runtime}/pytest-gvisor" in [*places.session_bases()]


@pytest.mark.fault("G8")
@pytest.mark.parametrize("name", ["x" * 40, "\udcff", "é" * 15])
def test_a_temporary_directory_that_runsc_cannot_use_is_passed_over(
    temporary: str, in_tmp: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that fits no socket's address, or is no text, makes way for /tmp."""
    path = f"{temporary}/{name}"
    os.mkdir(path, 0o700)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: path)
    chosen, (reason,) = session_folder.choose_base()
    assert chosen == in_tmp
    assert "more than 48 bytes, or is not UTF-8" in reason
    assert os.listdir(path) == []


@pytest.mark.parametrize("all_are", [True, False])
def test_a_file_system_that_is_mounted_noexec_comes_last(
    temporary: str, in_tmp: str, all_are: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a folder is used where there is no other: images that lie elsewhere run from there."""
    real, chosen_first = noexec_problem, f"{temporary}/pytest-gvisor-{os.geteuid()}"

    def problem(fd: int) -> tuple[str, ...]:
        is_one = all_are or os.readlink(f"/proc/self/fd/{fd}") == chosen_first
        return ("is noexec",) if is_one else real(fd)

    monkeypatch.setattr(session_folder, "noexec_problem", problem)
    chosen, reasons = session_folder.choose_base()
    assert chosen == (chosen_first if all_are else in_tmp)
    assert reasons[0] == f"{chosen_first}: is noexec"


def test_the_home_folder_is_the_last_candidate(
    temporary: str, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other user can put an entry into the home folder, as anybody can into /tmp."""
    monkeypatch.setenv("HOME", base)
    *others, last = places.session_bases()
    assert last == f"{base}/.pytest-gvisor"
    assert others == [f"{temporary}/pytest-gvisor-{os.geteuid()}", others[-1]]
    monkeypatch.setenv("HOME", f"{base}/none")
    assert f"{base}/none/.pytest-gvisor" not in places.session_bases()


Candidates = Callable[..., list[str]]


@pytest.fixture
def candidates(base: str, monkeypatch: pytest.MonkeyPatch) -> Candidates:
    """Factory: these names in a folder of this test are all candidates there are; their paths."""

    def make(*names: str) -> list[str]:
        paths = [f"{base}/{name}" for name in names]
        monkeypatch.setattr(session_folder, "session_bases", lambda: iter(paths))
        return paths

    return make


@pytest.mark.fault("G8")
def test_nowhere_to_go_is_a_typed_error(candidates: Candidates) -> None:
    """The error says of each candidate why it cannot be used."""
    candidates("x" * 60, "none/x")
    with pytest.raises(LaunchError) as caught:
        session_folder.base_folder()
    lines = caught.value.message.splitlines()
    assert "no folder can hold sessions" in lines[0]
    assert "more than 48 bytes" in lines[1]
    assert "ENOENT" in lines[2]
    assert "XDG_RUNTIME_DIR or TMPDIR" in caught.value.next_step


def test_the_longest_base_is_used(candidates: Candidates, base: str) -> None:
    """The limit is in bytes, so that sockets below the folder have room for their addresses."""
    longest = session_folder.LONGEST_BASE - len(base) - 1
    _, second = candidates("x" * (longest + 1), "y" * longest)
    assert session_folder.base_folder() == second


@pytest.mark.parametrize("kind", ["link", "dangling", "file", "fifo", "open"])
def test_a_candidate_that_is_no_private_folder_is_passed_over(
    base: str, candidates: Candidates, kind: str
) -> None:
    """The next one is used, and nothing is made or removed where the first one leads."""
    first, second = candidates("first", "second")
    for name in ("real/s-thesis", "open"):
        os.makedirs(f"{base}/{name}", 0o700)
    os.chmod(f"{base}/open", 0o755)
    made: dict[str, Callable[[], Any]] = {
        "link": lambda: os.symlink("real", first),
        "dangling": lambda: os.symlink("nowhere", first),
        "file": lambda: Path(first).touch(),
        "fifo": lambda: os.mkfifo(first),
        "open": lambda: os.rename(f"{base}/open", first),
    }
    made[kind]()
    chosen, (reason,) = session_folder.choose_base()
    assert chosen == second
    assert reason.startswith(f"{first}: {'mode 0755 lets' if kind == 'open' else 'is a symlink,'}")
    assert SessionDir.choose()[1] == []
    assert os.path.isdir(f"{base}/real/s-thesis")
    assert not os.path.lexists(f"{base}/nowhere")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_a_shortage_passes_no_candidate_over(
    candidates: Candidates, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A shortage says nothing about a folder, so it is an error and sessions stay in one place."""
    candidates("first", "second")
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", Mock(side_effect=OSError(number, os.strerror(number))))
        with pytest.raises(LaunchError) as caught:
            session_folder.base_folder()
    assert caught.value.errno == number


def test_a_sweep_looks_into_each_candidate_of_this_user_s(
    candidates: Candidates, base: str
) -> None:
    """The sweep finds sessions of another environment, and enters private folders only."""
    first, second, third = candidates("first", "second", "third")
    dead = []
    for path in (first, second, third):
        os.mkdir(path, 0o700)
        dead.append(dead_session(path))
    os.chmod(second, 0o755)
    assert session_folder.base_folders() == [first, third]
    assert sorted(session_folder.sweep()) == [dead[0], dead[2]]
    assert os.path.isdir(dead[1])
    os.rmdir(dead_session(third) + "/g1/root")
    assert len(SessionDir.choose()[1]) == 1


def test_another_candidate_s_lock_holds_up_no_session(candidates: Candidates) -> None:
    """The lock's holder is at work there; a manual sweep waits for it, and then fails."""
    _, second = candidates("first", "second")
    os.mkdir(second, 0o700)
    dead = dead_session(second)
    with open(f"{second}/.lock", "w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        naps: list[float] = []
        with patch.context() as inner:
            inner.setattr(time, "sleep", naps.append)
            inner.setattr(session_folder, "LOCK_DEADLINE", 5.0)
            assert SessionDir.choose()[1] == []
        assert sum(naps) < 0.1
        patch.setattr(session_folder, "LOCK_DEADLINE", 0.1)
        with pytest.raises(LaunchError, match=r"has held .* for 0\.1 s"):
            session_folder.sweep(waits=True)
    assert session_folder.sweep() == [dead]


# --- a session


def test_a_session_is_not_there_before_it_is_made(base: str) -> None:
    """The name is chosen first, so that the keeper knows it."""
    path = SessionDir.choose(base)[0]
    assert os.path.dirname(path) == base
    assert re.fullmatch(r"s-[0-9a-f]{12}", os.path.basename(path)), "sockets below it have room"
    assert not os.path.exists(path)
    assert SessionDir.choose(base)[0] != path


@pytest.mark.usefixtures("umask")
def test_a_session_is_private_and_locked(base: str) -> None:
    """The lock lasts as long as its descriptor is open."""
    session = SessionDir.create(SessionDir.choose(base)[0])
    assert mode_of(session.path) == 0o700
    assert mode_of(f"{session.path}/lock") == 0o600
    assert mode_of(f"{base}/.lock") == 0o600
    with open(f"{session.path}/lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not any(map(os.get_inheritable, session.held))
    numbers = [*session.held]
    session.remove()
    assert session.held == []
    assert os.listdir(base) == [".lock"]
    opened = os.open(base, os.O_RDONLY)
    for number in {*numbers} - {opened}:
        os.dup2(opened, number)
    assert session.remove() == []
    for number in {*numbers, opened}:
        os.close(number)


def test_locks_and_journals_are_private_from_the_beginning(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode is right from the beginning for any umask, not only after the chmod."""
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    with masked(0):
        session = SessionDir.create(SessionDir.choose(base)[0])
        session.journal(id="g1")
    paths = f"{base}/.lock", f"{session.path}/lock", f"{session.path}/journal"
    assert [mode_of(path) for path in paths] == [0o600] * 3
    session.remove()


def test_a_lock_of_the_wrong_mode_is_not_left_open(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process with an accidental lock would block all sessions."""
    before = os.listdir("/proc/self/fd")
    refused = Mock(side_effect=OSError(errno.EPERM, "Operation not permitted"))
    monkeypatch.setattr(os, "fchmod", refused)
    with pytest.raises(LaunchError):
        session_folder.sweep(base, waits=True)
    assert os.listdir("/proc/self/fd") == before


def test_a_link_in_the_place_of_the_base_s_lock_is_not_followed(base: str) -> None:
    """The lock would be made at the link's target."""
    os.symlink("elsewhere", f"{base}/.lock")
    with pytest.raises(LaunchError) as caught:
        session_folder.sweep(base, waits=True)
    assert caught.value.errno == errno.ELOOP
    assert os.listdir(base) == [".lock"]


@pytest.mark.fault("B2")
def test_a_taken_name_is_a_typed_error_and_stays(base: str, session: SessionDir) -> None:
    """The existing folder belongs to another session."""
    with pytest.raises(LaunchError) as caught:
        SessionDir.create(session.path)
    assert caught.value.errno == errno.EEXIST
    assert os.path.exists(f"{session.path}/lock")


def test_a_session_that_cannot_be_locked_is_not_left(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder goes again."""
    path = SessionDir.choose(base)[0]
    refused = Mock(side_effect=OSError(errno.ENOLCK, "no locks"))
    monkeypatch.setattr(session_folder, "_take_locks", refused)
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
    assert mode_of(f"{session.path}/journal") == 0o600


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
    """A session's folder without a lock holder, with files in it."""
    path = tempfile.mkdtemp(prefix="s-", dir=base)
    os.makedirs(f"{path}/g1/root")
    if locked_once:
        Path(path, "lock").touch()
    return path


@pytest.mark.fault("F6")
def test_dead_sessions_are_swept_and_living_ones_are_not(base: str, session: SessionDir) -> None:
    """A session is dead without a held lock; other entries of the folder are foreign."""
    dead = [dead_session(base), dead_session(base, locked_once=False)]
    os.makedirs(f"{base}/other/x")
    Path(f"{base}/s-file").touch()
    os.symlink(f"{base}/other", f"{base}/s-link")
    assert sorted(session_folder.sweep(base)) == sorted(dead)
    assert set(os.listdir(base)) == {
        ".lock", os.path.basename(session.path), "other", "s-file", "s-link",
    }  # fmt: skip
    assert os.path.isdir(f"{base}/other/x")
    assert session_folder.sweep(base) == []


def test_a_session_lives_whatever_cleans_temporary_files(base: str, session: SessionDir) -> None:
    """systemd-tmpfiles leaves a folder alone that it cannot lock. Others remove the old file."""
    with closing(os.open(session.path, os.O_RDONLY)) as fd, pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.unlink(f"{session.path}/lock")
    assert session_folder.sweep(base) == session_folder.dead(base) == []
    session.release()
    assert session_folder.sweep(base) == [session.path]


def test_dead_sessions_are_counted_and_stay(base: str, session: SessionDir) -> None:
    """A count without a folder makes none."""
    dead = [dead_session(base), dead_session(base, locked_once=False)]
    assert session_folder.dead(base) == sorted(dead)
    assert session_folder.dead(f"{base}/x") == []
    assert set(os.listdir(base)) == {".lock", *map(os.path.basename, [*dead, session.path])}


def test_a_session_of_a_stopped_keeper_counts_as_dead(
    base: str, session: SessionDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper goes on at the next sweep; keepers are looked for only if there are sessions."""
    asked = []

    def found(where: str) -> list[str]:
        asked.append(where)
        return [session.path]

    monkeypatch.setattr(stopped_keepers, "sessions", found)
    monkeypatch.setattr(stopped_keepers, "wake", found)
    monkeypatch.setattr(session_folder, "SWEEP_BUDGET", 0.1)
    assert session_folder.dead(base) == [session.path]
    assert session_folder.sweep(base) == []
    assert asked == [base, base]
    session.remove()
    assert session_folder.dead(base) == session_folder.sweep(base) == []
    assert asked == [base, base]


@pytest.mark.parametrize("kind", ["link", "file", "loop", "folder"])
def test_a_session_whose_lock_cannot_be_opened_is_not_dead(base: str, kind: str) -> None:
    """Nobody can tell whether it lives, so nothing of it is removed."""
    path = dead_session(base, locked_once=False)
    lock = f"{path}/lock"
    made: dict[str, Callable[[], Any]] = {
        "link": lambda: os.symlink("g1/root", lock),
        "file": lambda: os.symlink("free", lock),
        "loop": lambda: os.symlink("lock", lock),
        "folder": lambda: os.mkdir(lock),
    }
    Path(path, "free").touch()
    made[kind]()
    assert session_folder.sweep(base) == session_folder.dead(base) == []
    assert os.path.isdir(f"{path}/g1/root")


def test_a_fifo_in_the_place_of_a_lock_blocks_no_sweep(base: str) -> None:
    """Opening it for reading alone would wait for a writer for ever."""
    path = dead_session(base, locked_once=False)
    os.mkfifo(f"{path}/lock")
    assert session_folder.sweep(base) == [path]


@pytest.mark.parametrize("name", ["\0", "\ud800", "x" * 5000])
def test_a_journal_that_names_no_path_stops_no_sweep(base: str, name: str) -> None:
    """A path that no file can have is skipped, and the rest of the session is removed."""
    dead = dead_session(base)
    entry = {"cgroups": [f"/sys/fs/cgroup/pytest-gvisor-{name}"]}
    Path(dead, "journal").write_text(json.dumps(entry))
    assert session_folder.sweep(base) == [dead]


def stuck(session: str, _cgroups: list[str]) -> list[str]:
    """A session of which something stays."""
    return [f"{session}/x: Device or resource busy"]


def test_sessions_that_are_stuck_share_one_budget(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of stuck sessions delays others only briefly; the next sweep tries again."""
    made = {dead_session(base) for _ in range(11)}
    started = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(leftovers, "remove_session", stuck)
        patch.setattr(session_folder, "SWEEP_BUDGET", 0.4)
        assert session_folder.sweep(base) == []
    assert 0.2 < time.monotonic() - started < 20
    assert set(session_folder.sweep(base)) == made
    assert session_folder.SWEEP_BUDGET * 4 < session_folder.LOCK_DEADLINE


@pytest.mark.parametrize(("budget", "asked"), [(3.0, [1.5, 1.5]), (0.2, [0.1, 0.1]), (0.0, [])])
def test_a_session_that_is_stuck_may_use_half_of_the_budget(
    base: str, monkeypatch: pytest.MonkeyPatch, budget: float, asked: list[float]
) -> None:
    """A stuck session's time is taken off; without enough left, no other one is tried."""
    for _ in range(2):
        dead_session(base)
    patiences = []

    def clear(_session: str, *, patience: float) -> list[str]:
        patiences.append(patience)
        return ["x"]

    monkeypatch.setattr(clock, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(leftovers, "clear_session", clear)
    monkeypatch.setattr(session_folder, "SWEEP_BUDGET", budget)
    assert session_folder.sweep(base) == []
    assert patiences == asked


@pytest.mark.parametrize(
    ("dies_after", "waited"), [(0.0, 0.0), (0.055, 0.0), (0.5, 0.1), (9.0, 0.1)]
)
def test_a_keeper_that_was_woken_is_waited_for(
    base: str, monkeypatch: pytest.MonkeyPatch, dies_after: float, waited: float
) -> None:
    """The wait takes half of the budget at most, and counts only if it fails."""
    began = now = 1000.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(clock, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(session_folder, "SWEEP_BUDGET", 0.2)
    monkeypatch.setattr(stopped_keepers, "wake", lambda _base: ["s-1"])
    monkeypatch.setattr(session_folder, "_is_dead", lambda _path: now >= began + dies_after)
    assert session_folder._wake(base) == pytest.approx(waited, abs=0.02)


def test_nobody_waits_for_another_s_sweep(base: str) -> None:
    """If several sessions begin at once, one of them sweeps."""
    dead = dead_session(base)
    with open(f"{base}/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert session_folder.sweep(base) == []
    assert session_folder.sweep(base) == [dead]


def test_who_sweeps_by_hand_waits_for_the_lock(base: str) -> None:
    """A session that is reported as left was tried."""
    dead = dead_session(base)
    with open(f"{base}/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(0.2, fcntl.flock, [lock, fcntl.LOCK_UN]).start()
        assert session_folder.sweep(base, waits=True) == [dead]


def test_what_goes_costs_nothing_of_the_budget(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of removed sessions may take any time."""
    dead = {dead_session(base) for _ in range(4)}

    def slow(session: str, cgroups: list[str]) -> list[str]:
        time.sleep(0.06)
        return remove_session(session, cgroups)

    monkeypatch.setattr(leftovers, "remove_session", slow)
    monkeypatch.setattr(session_folder, "SWEEP_BUDGET", 0.15)
    assert set(session_folder.sweep(base)) == dead


def test_a_session_that_ends_says_what_stays(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's lock is released for the next sweep."""
    session = SessionDir.create(SessionDir.choose(base)[0])
    with monkeypatch.context() as patch:
        patch.setattr(leftovers, "remove_session", stuck)
        patch.setattr(leftovers, "clear_session", functools.partial(clear_session, patience=0))
        assert session.remove() == [f"{session.path}/x: Device or resource busy"]
    assert session_folder.sweep(base) == [session.path]
    assert session.remove() == []


def test_a_new_session_sweeps_first(base: str) -> None:
    """The remains of a crash are removed when the next session begins."""
    dead = dead_session(base)
    SessionDir.choose(base)
    assert not os.path.exists(dead)


def test_there_is_nothing_to_sweep_where_there_is_no_folder(base: str) -> None:
    """A sweep without a folder makes none."""
    assert session_folder.sweep(f"{base}/x") == []
    assert not os.path.exists(f"{base}/x")


SESSION = """
import sys
from pytest_gvisor.sessions.session_folder import SessionDir
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
        assert session_folder.sweep(base) == []
        one.kill()
        one.wait()
        assert session_folder.sweep(base) == [paths[0]]
        assert os.path.isdir(paths[1])
    assert session_folder.sweep(base) == [paths[1]]


def test_many_sessions_begin_at_once(base: str) -> None:
    """No session sweeps another that is being made."""
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: SessionDir.create(SessionDir.choose(base)[0]), range(16)))
    assert len({session.path for session in made}) == 16
    assert all(os.path.exists(f"{session.path}/lock") for session in made)
    for session in made:
        session.remove()


def test_a_fork_keeps_no_lock_of_sessions(base: str) -> None:
    """Not even one that another thread makes meanwhile: later sessions would wait in vain."""
    with contextlib.ExitStack() as forks:
        with session_folder._locked(base):
            forks.enter_context(a_fork())
        with session_folder._locked(base, patience=0.0):
            pass
