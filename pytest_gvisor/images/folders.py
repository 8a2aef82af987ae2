"""The folders of images in the cache: found by ids, one lock each, and none lost to a SIGKILL.

Layout::

    lock             flock, for moments: an id is led to a folder, or a folder chosen for removal
    ID               a link to the folder of that image; of an id that only a daemon has for it, to
                     the image's own ID
    ID-XXXXXXXX/     an image
        lock         flock: shared to use the image, exclusive to make or remove it; its time is
                     that of the last use

A folder has its lock before a link leads to it. The link is removed before the first file of the
folder is, and the folder's name is never used again. So a killed process leaves a folder with a
free lock, and either no link leads to it, or it has no image.json. To replace an image, its id is
led to a new folder. A process that uses the old folder keeps it, with its lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Final

from pytest_gvisor.base.errors import ImageError
from pytest_gvisor.images.streams import explained
from pytest_gvisor.sessions.private import closing_lock, open_lock, take_lock, take_lock_in

NEXT_STEP: Final = "XDG_CACHE_HOME says where images are kept."
_ID: Final = re.compile(r"[0-9a-f]{64}")
_FOLDER: Final = re.compile(r"[0-9a-f]{64}-[a-z0-9_]{8}")


def is_id(name: str) -> bool:
    """Whether a name is a hexadecimal SHA-256."""
    return bool(_ID.fullmatch(name))


def id_of(folder: str) -> str:
    """Return the id that a folder was made for."""
    return os.path.basename(folder)[:64]


class Folders:
    """The folders in the folder ``above``. Methods raise `OSError`, and `ImageError` for a lock
    that is not free within ``patience`` seconds.
    """

    def __init__(self, above: str, patience: float) -> None:
        self._above = above
        self._patience = patience

    def path(self, name: str) -> str:
        """Return the path of a folder or link."""
        return os.path.join(self._above, name)

    def link(self, name: str) -> str:
        """Return the id or folder that an id leads to; empty if the id is not there."""
        with contextlib.suppress(FileNotFoundError):
            if is_id(name):
                found = os.readlink(self.path(name))
                if is_id(found) or _FOLDER.fullmatch(found):
                    return found
        return ""

    def set_link(self, identity: str, target: str, folder: str) -> None:
        """Let an id lead to ``target``, in one step; the caller has begun the ``folder``."""
        os.symlink(target, f"{self.path(folder)}/link")
        os.rename(f"{self.path(folder)}/link", self.path(identity))

    def begin(self, identity: str, *, instead: str) -> tuple[str, int] | None:
        """Make a folder for the image, let its id lead there, and return it with its lock.

        The lock is exclusive. Returns None if the id does not lead to ``instead`` any more, because
        another process was faster.
        """
        with contextlib.ExitStack() as on_failure:
            with self._alone():
                if self.link(identity) != instead:
                    return None
                path = tempfile.mkdtemp(prefix=f"{identity}-", dir=self._above)
                on_failure.callback(shutil.rmtree, path, ignore_errors=True)
                lock = open_lock(f"{path}/lock")
                on_failure.callback(os.close, lock)
                take_lock(lock)  # it is free: no other process has opened it
                folder = os.path.basename(path)
                self.set_link(identity, folder, folder)
            self.remove(instead)
            on_failure.pop_all()
            return folder, lock

    def open(self, folder: str) -> int:
        """Open the lock of a folder."""
        return os.open(f"{self.path(folder)}/lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

    def share(self, lock: int, patience: float) -> bool:
        """Share a lock of a folder; return whether the folder is there."""
        _wait(lock, fcntl.LOCK_SH, patience, "makes or removes it")
        return os.fstat(lock).st_nlink > 0

    @contextlib.contextmanager
    def unused(self, folder: str) -> Iterator[bool]:
        """Lock a folder exclusively; yield False if it is in use, being made, or gone."""
        with contextlib.ExitStack() as held:
            is_free = False
            with contextlib.suppress(FileNotFoundError), self._alone():
                if _FOLDER.fullmatch(folder):
                    lock = held.enter_context(closing_lock(open_lock(f"{self.path(folder)}/lock")))
                    is_free = take_lock(lock)
            yield is_free

    def remove(self, folder: str) -> bool:
        """Remove a folder if nobody uses it; return whether it was removed."""
        with self.unused(folder) as is_unused:
            if is_unused:
                self._discard(folder)
        return is_unused

    def abandon(self, folder: str) -> None:
        """Remove a folder that the caller has begun."""
        with contextlib.suppress(OSError, ImageError):  # otherwise the next session sweeps it
            self._discard(folder)

    def sweep(self) -> list[str]:
        """Remove unused folders and links that lead nowhere; return the other folders."""
        used = []
        for name in os.listdir(self._above):
            path = self.path(name)
            if _FOLDER.fullmatch(name):
                if self.link(id_of(name)) == name:
                    used.append(name)
                else:
                    self.remove(name)
            elif is_id(name) and not os.path.exists(path):
                with self._alone():
                    # Another process may have removed it, or led it elsewhere.
                    if os.path.islink(path) and not os.path.exists(path):
                        os.unlink(path)
        return used

    def _discard(self, folder: str) -> None:
        """Remove a folder whose lock the caller has. This works on a full disk too."""
        link = self.path(id_of(folder))
        with self._alone():
            if self.link(id_of(folder)) == folder:
                os.unlink(link)
        shutil.rmtree(self.path(folder), ignore_errors=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with closing_lock(open_lock(self.path("lock"))) as lock:
            _wait(lock, fcntl.LOCK_EX, self._patience, "arranges images")
            yield


def failing(folder: str) -> contextlib.AbstractContextManager[None]:
    """Turn an `OSError` into an `ImageError` about the cache folder."""
    return explained(f"keep it in {folder}", NEXT_STEP)


def _wait(lock: int, kind: int, patience: float, busy: str) -> None:
    if not take_lock_in(patience, lock, kind):
        raise ImageError(f"another process {busy}, and has not finished in {patience:g} s")
