"""Locks of the cache folder, which the kernel lets go of when a process dies, and its errors."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from typing import Final

from pytest_gvisor.errors import ImageError

_PAUSE: Final = 0.02


def opened(path: str) -> int:
    """A descriptor of a lock's file, which is made where it is missing. Raises `OSError`."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def is_taken(fd: int, kind: int) -> bool:
    """Take the lock if it is free; whether it was. Raises another `OSError`."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait(fd: int, kind: int, *, patience: float, busy: str) -> None:
    """Take the lock when it is free. Raises `ImageError`, saying who is ``busy``, after a time."""
    deadline = time.monotonic() + patience
    while not is_taken(fd, kind):
        if time.monotonic() > deadline:
            raise ImageError(f"another process {busy}, and has not finished in {patience:g} s")
        time.sleep(_PAUSE)


@contextlib.contextmanager
def alone(path: str, *, patience: float, busy: str) -> Iterator[None]:
    """Have the lock at ``path`` for oneself. Raises `ImageError` as `wait`, and `OSError`."""
    fd = opened(path)
    try:
        wait(fd, fcntl.LOCK_EX, patience=patience, busy=busy)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def failing(folder: str) -> Iterator[None]:
    """An `OSError` within is an `ImageError` about the cache folder."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise ImageError(
            f"cannot keep it in {folder}: {why}",
            next_step="XDG_CACHE_HOME says where images are kept.",
        ) from error
