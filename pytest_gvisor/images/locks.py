"""Locks of the cache folder, which the kernel releases when a process dies, and their errors."""

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
    """Open a lock's file, and make it if it is missing. Raises `OSError`."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def is_taken(fd: int, kind: int) -> bool:
    """Take the lock if it is free; return whether it was. Raises another `OSError`."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait(fd: int, kind: int, *, patience: float, busy: str) -> None:
    """Wait for the lock and take it. Raises `ImageError` after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not is_taken(fd, kind):
        if time.monotonic() > deadline:
            raise ImageError(f"another process {busy}, and has not finished in {patience:g} s")
        time.sleep(_PAUSE)


@contextlib.contextmanager
def alone(path: str, *, patience: float, busy: str) -> Iterator[None]:
    """Hold the lock at ``path``. Raises `ImageError` like `wait`, and `OSError`."""
    fd = opened(path)
    try:
        wait(fd, fcntl.LOCK_EX, patience=patience, busy=busy)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def failing(folder: str) -> Iterator[None]:
    """Turn an `OSError` into an `ImageError` about the cache folder."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise ImageError(
            f"cannot keep it in {folder}: {why}",
            next_step="XDG_CACHE_HOME says where images are kept.",
        ) from error
