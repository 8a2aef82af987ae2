"""Private folders: made safely, verified, and checked with the whole path to them."""

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.base.errors import LaunchError
from pytest_gvisor.base.trust import Trust
from pytest_gvisor.programs.paths import caches
from pytest_gvisor.sessions import private
from tests.mounts import masked


@pytest.mark.usefixtures("umask")
def test_a_private_folder_is_made_with_0700_whatever_the_umask(base: str) -> None:
    """The second call finds the folder with the same mode."""
    for _ in range(2):
        fd = private.open_private(f"{base}/x")
        assert os.path.samestat(os.fstat(fd), os.lstat(f"{base}/x"))
        os.close(fd)
        assert stat.S_IMODE(os.lstat(f"{base}/x").st_mode) == 0o700


def test_a_private_folder_lets_nobody_in_for_any_moment(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode is right from the beginning, not only after the chmod."""
    monkeypatch.setattr(os, "chmod", lambda *_, **__: None)
    with masked(0):
        private.make_private(f"{base}/x")
    assert stat.S_IMODE(os.lstat(f"{base}/x").st_mode) == 0o700


def test_no_link_in_the_place_of_a_new_folder_is_followed(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cache that others can write, another user puts a link there, and what that leads to
    keeps its mode.
    """
    os.mkdir(f"{base}/other")
    os.chmod(f"{base}/other", 0o755)

    def mkdir(path: str, *_: int, **__: int) -> None:
        os.symlink(f"{base}/other", path)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(OSError, match=r"Not a directory"):
        private.make_private(f"{base}/x")
    assert stat.S_IMODE(os.lstat(f"{base}/other").st_mode) == 0o755


@pytest.mark.parametrize("path", ["~/.cache/pytest-gvisor/answers", "one"])
def test_no_folder_is_made_below_a_relative_path(path: str) -> None:
    """The home folder of a uid without an account and without HOME is ``~``."""
    with pytest.raises(LaunchError, match="is not an absolute path"):
        private.make_above(path)


def refusal(path: str, number: int = 0) -> LaunchError:
    """The error of opening the folder, with this errno; no descriptor stays open."""
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(LaunchError) as caught:
        private.open_private(path)
    assert set(os.listdir("/proc/self/fd")) == before
    assert caught.value.stage == "session_folder"
    assert path in str(caught.value)
    assert caught.value.errno == number
    return caught.value


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o1777])
def test_a_folder_that_others_may_enter_is_refused(base: str, mode: int) -> None:
    """The error has the folder's mode and a remedy, for any owner."""
    os.mkdir(f"{base}/x")
    os.chmod(f"{base}/x", mode)
    error = refusal(f"{base}/x")
    assert f"mode {mode:04o} lets others in" in str(error)
    assert "Remove or rename" in str(error)


def test_a_folder_is_judged_by_its_owner(base: str) -> None:
    """A folder of another uid is refused."""
    os.mkdir(f"{base}/x", 0o700)
    with private.place(f"{base}/x") as found:
        own = found.trust.euid
        with pytest.raises(LaunchError, match=f"owned by uid {own}, not by uid {own + 1}"):
            found._replace(trust=Trust(own + 1, "", None)).open()


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
    with private.place(path) as found:
        assert found.is_taken()
    assert "is a symlink, or no folder" in str(refusal(path, errno.ENOTDIR))
    assert not os.path.lexists(f"{base}/nowhere")


def test_a_folder_that_cannot_be_made_is_a_typed_error(base: str) -> None:
    """The error has the kernel's errno."""
    Path(f"{base}/file").touch()
    with pytest.raises(LaunchError) as caught:
        private.open_private(f"{base}/file/x")
    assert caught.value.errno == errno.ENOTDIR


@pytest.mark.parametrize("path", ["", "x", "/", "/x/..", "x/y"])
def test_a_path_that_names_no_folder_below_another_is_refused(path: str) -> None:
    """A relative one would be looked for from the root folder on."""
    refusal(path)


def test_a_link_on_the_way_leads_to_the_canonical_path(base: str) -> None:
    """Other programs get the canonical path, so later changes of the link do not matter."""
    os.mkdir(f"{base}/real", 0o700)
    os.symlink("real", f"{base}/link")
    with private.place(f"{base}/link/x") as found:
        assert found.path == f"{base}/real/x"
        assert not found.is_taken()
        os.close(found.open())
        assert found.is_taken()
    assert os.listdir(f"{base}/real") == ["x"]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_a_folder_on_the_way_that_others_can_write_is_refused(base: str, mode: int) -> None:
    """Others could replace the private folder with one of their own at any time."""
    os.makedirs(f"{base}/open/inner", 0o700)
    os.chmod(f"{base}/open", mode)
    for path in (f"{base}/open/x", f"{base}/open/inner/x"):
        assert f"{base}/open (mode {mode:04o}" in str(refusal(path))
        with pytest.raises(LaunchError, match="can be written by others"), private.place(path):
            pass
    assert os.listdir(f"{base}/open/inner") == []


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_a_folder_that_others_can_write_is_fine_for_who_is_lenient(base: str, mode: int) -> None:
    """Everybody may write to all folders of a checkout that GitLab's runner makes."""
    os.mkdir(f"{base}/open")
    os.chmod(f"{base}/open", mode)
    private.make_above(f"{base}/open/above/x")
    os.close(private.open_private(f"{base}/open/above/x", lenient=True))
    for path in ("above", "above/x"):
        assert stat.S_IMODE(os.lstat(f"{base}/open/{path}").st_mode) == 0o700


def test_a_link_in_a_folder_that_others_can_write_is_refused(base: str) -> None:
    """The folders of each link on the way count, not only those of the canonical path."""
    os.makedirs(f"{base}/open", 0o700)
    os.mkdir(f"{base}/real", 0o700)
    os.symlink(f"{base}/real", f"{base}/open/link")
    os.chmod(f"{base}/open", 0o777)
    assert "can be written by others" in str(refusal(f"{base}/open/link/x"))
    assert os.listdir(f"{base}/real") == []


def test_a_sticky_folder_on_the_way_is_fine(base: str) -> None:
    """Only this user, the folder's owner and root can rename or remove an entry."""
    os.mkdir(f"{base}/sticky")
    os.chmod(f"{base}/sticky", 0o1777)
    os.close(private.open_private(f"{base}/sticky/x"))
    assert stat.S_IMODE(os.lstat(f"{base}/sticky/x").st_mode) == 0o700


def test_what_is_made_above_is_private_too(base: str) -> None:
    """A umask that lets the group write would spoil the way otherwise."""
    with masked(0o002):
        private.make_above(f"{base}/one/two/x")
    assert [stat.S_IMODE(os.lstat(f"{base}/{path}").st_mode) for path in ("one", "one/two")] == [
        0o700,
        0o700,
    ]
    os.close(private.open_private(f"{base}/one/two/x"))


@pytest.mark.parametrize(
    ("variable", "above"),
    [
        ("/where/caches/are", "/where/caches/are"),
        ("here", "/home/a/.cache"),
        ("", "/home/a/.cache"),
    ],
)
def test_the_cache_folder_is_the_one_of_the_xdg_specification(
    monkeypatch: pytest.MonkeyPatch, variable: str, above: str
) -> None:
    """A relative path is ignored, as if there were none."""
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    monkeypatch.setenv("HOME", "/home/a")
    assert caches("answers") == f"{above}/pytest-gvisor/answers"


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Two open files of one path: each holds a lock of its own."""
    fds = [os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2)]
    yield fds[0], fds[1]
    for fd in fds:
        os.close(fd)


def test_a_lock_is_taken_where_it_is_free(two: tuple[int, int]) -> None:
    """A lock that another file has is not taken; several may share it."""
    assert private.take_lock(two[0], fcntl.LOCK_SH)
    assert private.take_lock(two[1], fcntl.LOCK_SH)
    assert not private.take_lock(two[0])
    fcntl.flock(two[1], fcntl.LOCK_UN)
    assert private.take_lock(two[0])
    assert not private.take_lock(two[1], fcntl.LOCK_SH)


def test_a_lock_that_becomes_free_is_taken(two: tuple[int, int]) -> None:
    """The lock is taken as soon as its holder releases it."""
    fcntl.flock(two[0], fcntl.LOCK_EX)
    threading.Timer(0.05, fcntl.flock, [two[0], fcntl.LOCK_UN]).start()
    assert private.take_lock_in(60, two[1])


def test_a_lock_that_stays_taken_is_given_up(two: tuple[int, int]) -> None:
    """The wait is as long as the time given, and not shorter."""
    fcntl.flock(two[0], fcntl.LOCK_EX)
    began = time.monotonic()
    assert not private.take_lock_in(0.1, two[1])
    assert time.monotonic() - began >= 0.1


def test_what_is_no_lock_is_an_error() -> None:
    """An errno of flock(2) is raised, apart from that of a lock that is taken."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        private.take_lock_in(1, 2**20)


def test_the_file_of_a_lock_is_its_owners_and_no_link(tmp_path: Path) -> None:
    """A file that any umask has made can be opened again, and an execve closes it."""
    with masked(0o777):
        fds = [private.open_lock(str(tmp_path / "lock")) for _ in range(2)]
    assert (tmp_path / "lock").stat().st_mode & 0o7777 == 0o600
    assert not any(map(os.get_inheritable, fds))
    (tmp_path / "link").symlink_to("lock")
    with pytest.raises(OSError, match="symbolic links"):
        private.open_lock(str(tmp_path / "link"))
    for fd in fds:
        os.close(fd)
