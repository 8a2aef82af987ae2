"""Locks of flock(2), which the kernel releases when the last process that holds them ends.

Standard library only: `leftovers` runs with ``-I -S``.
"""

from __future__ import annotations

import fcntl
import os
import time

_PAUSE = 0.01


def opened(path: str, folder: int | None = None) -> int:
    """Open the file of a lock, made if it is missing; no link is followed. Raises `OSError`.

    Its mode lets its owner open it again, whatever the umask.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600, dir_fd=folder)
    try:
        os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_taken(fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take the lock of an open file if it is free; return whether it was. Raises another
    `OSError`.
    """
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_taken_in(seconds: float, fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take the lock as soon as it is free; False where it is not free within ``seconds``.

    flock(2) itself has no deadline, and a signal that would end its wait is not a library's to set.
    """
    deadline = time.monotonic() + seconds
    while not is_taken(fd, kind):
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)
    return True
