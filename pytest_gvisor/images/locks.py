"""Locks of the cache folder, which the kernel releases when a process dies, and their errors."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from pytest_gvisor.errors import ImageError
from pytest_gvisor.programs.locks import is_taken_in


def opened(path: str) -> int:
    """Open a lock's file, and make it if it is missing. Raises `OSError`."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def wait(fd: int, kind: int, *, patience: float, busy: str) -> None:
    """Wait for the lock and take it. Raises `ImageError` after ``patience`` seconds."""
    if not is_taken_in(patience, fd, kind):
        raise ImageError(f"another process {busy}, and has not finished in {patience:g} s")


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
