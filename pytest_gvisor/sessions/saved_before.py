"""Remove the sandboxes that earlier versions saved in the user's cache for later sessions.

They lie in the folder `NAME` of the cache. Nothing else there is touched, and no link is followed.
"""

from __future__ import annotations

import contextlib
import os
import shutil

from pytest_gvisor.base.errors import LaunchError
from pytest_gvisor.programs.linux import closing
from pytest_gvisor.programs.paths import caches
from pytest_gvisor.sessions.private import place, take_lock

NAME = "sandboxes-1"


def remove() -> list[str]:
    """Remove them, and return the paths that went.

    A sandbox that a session of an earlier version uses stays. The whole folder stays if other users
    can enter or replace it.
    """
    path = caches(NAME)
    removed: list[str] = []
    if not os.path.isdir(path):
        return removed
    with contextlib.suppress(LaunchError, OSError), place(path) as found:
        with closing(found.open()) as above:
            removed += [f"{found.path}/{n}" for n in os.listdir(above) if _is_removed(above, n)]
        os.rmdir(found.name, dir_fd=found.above)
    return removed


def _is_removed(above: int, name: str) -> bool:
    """Remove a file, a link, or the folder of a sandbox; return whether it is gone."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as undo:
        try:
            folder = os.open(name, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        except NotADirectoryError:
            os.unlink(name, dir_fd=above)
            return True
        undo.callback(os.close, folder)
        with contextlib.suppress(FileNotFoundError):
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            lock = undo.enter_context(closing(os.open("lock", flags, dir_fd=folder)))
            if not take_lock(lock):
                return False
        shutil.rmtree(name, dir_fd=above)
        return True
    return False
