"""flock(2) with a deadline."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor.sessions import private


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
    before = os.umask(0o777)
    try:
        fds = [private.open_lock(str(tmp_path / "lock")) for _ in range(2)]
    finally:
        os.umask(before)
    assert (tmp_path / "lock").stat().st_mode & 0o7777 == 0o600
    assert not any(map(os.get_inheritable, fds))
    (tmp_path / "link").symlink_to("lock")
    with pytest.raises(OSError, match="symbolic links"):
        private.open_lock(str(tmp_path / "link"))
    for fd in fds:
        os.close(fd)
