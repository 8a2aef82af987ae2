"""The saved sandboxes that are kept for later sessions, in the user's cache folder.

Layout, in the folders of `Folders`; the number in the name of the folder above is the layout's::

    image/       as runsc has written it
    roots/       skeletons for copies, each there as a whole or not at all
    facts.json   written when all else is there

Nothing is read from a folder that other users could write to. Nor is any file that changed since it
was kept. Methods raise `LaunchError` for such a folder, `ImageError` for a lock, and `OSError`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

from pytest_gvisor.guest.checked_json import loads
from pytest_gvisor.images.folders import Folders, is_id
from pytest_gvisor.programs.locks import is_taken
from pytest_gvisor.run import saved
from pytest_gvisor.sessions import boot_notes, places
from pytest_gvisor.sessions.private import make_above, make_private, place

MOST_BYTES: Final = 512 * 1024**2
"""Bytes of all saved sandboxes together."""

LARGEST: Final = MOST_BYTES // 4
"""Bytes of one."""

UNUSED_DAYS: Final = 14
_MOST_UNUSED: Final = 4
_RECENT: Final = 86400
"""Seconds in which no more than those are kept of one project if none of them is used."""

_FACTS: Final = "facts.json"
_LONGEST: Final = 4 * 1024**2
_PATIENCE: Final = 10.0
"""Seconds to wait for a lock that is held for moments, by a process that may have to wait too."""


def folder() -> str:
    """Return the folder for saved sandboxes."""
    return places.saved_sandboxes()


@dataclass(frozen=True, kw_only=True)
class Held:
    """A saved sandbox that stays until `close`."""

    image: str
    """The folder for runsc."""

    roots: str
    """The folder for skeletons, to which its copies cannot write."""

    facts: dict[str, Any]
    """The facts that it was kept with."""

    lock: int

    def close(self) -> None:
        """Release it."""
        os.close(self.lock)


class SavedStore:
    """The saved sandboxes in a private folder."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._folders = Folders(path, _PATIENCE)

    @classmethod
    def open(cls, *, make: bool) -> Self | None:
        """Check the folder, and make it if it is missing; without ``make`` return None then."""
        wanted = folder()
        if not make and not os.path.lexists(wanted):
            return None
        make_above(wanted)
        with place(wanted) as found:
            os.close(found.open())
            return cls(found.path)

    def find(self, key: str, *, uses: bool = True) -> Held | None:
        """Hold a whole sandbox; None for a missing one, and for one that is just being made.

        Its last use is now, unless the caller ``uses`` it not.
        """
        name = self._folders.link(key)
        if not name or is_id(name):
            return None
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as on_failure:
            lock = self._folders.open(name)
            on_failure.callback(os.close, lock)
            path = self._folders.path(name)
            if is_taken(lock, fcntl.LOCK_SH) and (facts := _whole(path)) is not None:
                if uses:
                    os.utime(lock)
                on_failure.pop_all()
                return Held(image=f"{path}/image", roots=f"{path}/roots", facts=facts, lock=lock)
        return None

    def keep(self, key: str, image: str, facts: dict[str, Any]) -> bool:
        """Copy the files of an image; return False where others are doing that."""
        link = self._folders.link(key)
        if link:
            self._folders.remove(link)
        if (link := self._folders.link(key)) and self._is_busy(link):
            return False
        begun = self._folders.begin(key, instead=link)
        if begun is None:
            return False
        name, lock = begun
        try:
            _copy(image, self._folders.path(name), facts)
        except BaseException:
            self._folders.abandon(name)
            raise
        finally:
            os.close(lock)
        self.sweep()
        return True

    def is_in_vain(self, project: str) -> bool:
        """Whether the last sandboxes of a project were never used: its key may change each time."""
        unused = 0
        with contextlib.suppress(OSError), os.scandir(self._path) as entries:
            for entry in entries:
                with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                    if entry.is_dir(follow_symlinks=False):
                        made = os.stat(f"{entry.path}/{_FACTS}").st_mtime
                        used = os.stat(f"{entry.path}/lock").st_mtime
                        with open(f"{entry.path}/{_FACTS}", encoding="utf-8") as file:
                            of_project = loads(file.read(_LONGEST))["facts"]["start"] == project
                        unused += of_project and used <= made > time.time() - _RECENT
        return unused >= _MOST_UNUSED

    def drop(self, key: str) -> None:
        """Remove a saved sandbox that nobody uses."""
        if link := self._folders.link(key):
            self._folders.remove(link)

    def sweep(self, most: int = MOST_BYTES) -> list[str]:
        """Remove broken, old and long unused ones, and those used least recently of too many.

        Return the paths of what was removed.
        """
        found = []
        removed = []
        now = time.time()
        for name in self._folders.sweep():
            path = self._folders.path(name)
            with contextlib.suppress(OSError):
                used = os.stat(f"{path}/lock").st_mtime
                size = saved.size_of(f"{path}/image")
                is_old = now - used > UNUSED_DAYS * 86400 or _whole(path) is None
                found.append((not is_old, used, size, name))
        total = sum(size for _keep, _used, size, _name in found)
        for keeps, _used, size, name in sorted(found):
            if (not keeps or total > most) and self._folders.remove(name):
                removed.append(self._folders.path(name))
                total -= size
        return removed

    def _is_busy(self, name: str) -> bool:
        """Whether somebody is making the folder: who uses it only shares the lock."""
        with contextlib.suppress(OSError):
            lock = self._folders.open(name)
            try:
                return not is_taken(lock, fcntl.LOCK_SH)
            finally:
                os.close(lock)
        return False


def _copy(image: str, path: str, facts: dict[str, Any]) -> None:
    """Copy an image to a folder, and write the facts last."""
    target = os.path.join(path, "image")
    make_private(target)
    make_private(os.path.join(path, "roots"))
    with os.scandir(image) as entries:
        for entry in entries:
            copy = os.path.join(target, entry.name)
            _make(copy)
            shutil.copyfile(entry.path, copy)
    whole = {"boot": boot_notes.boot_id(), "image": _states(target), "facts": facts}
    new = os.path.join(path, f"{_FACTS}.new")
    _make(new)
    with open(new, "w", encoding="utf-8") as file:
        json.dump(whole, file)
    os.rename(new, os.path.join(path, _FACTS))


def _make(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)
    finally:
        os.close(fd)


def _whole(path: str) -> dict[str, Any] | None:
    """Return the facts of an unchanged sandbox of this boot, else None."""
    try:
        fd = os.open(f"{path}/{_FACTS}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, encoding="utf-8") as file:
            if not _is_own(os.fstat(fd)):
                return None
            found = loads(file.read(_LONGEST))
        boot = boot_notes.boot_id()
        if boot and found["boot"] == boot and found["image"] == _states(f"{path}/image"):
            facts = found["facts"]
            return facts if isinstance(facts, dict) else None
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return None


def _states(image: str) -> dict[str, list[int]]:
    """Return the state of each file of an image. Raises `ValueError` for one of somebody else."""
    return dict(_each(image))


def _each(image: str) -> Iterator[tuple[str, list[int]]]:
    if not stat.S_ISDIR(os.lstat(image).st_mode):
        raise ValueError(f"{image} is no folder")
    for name in os.listdir(image):
        info = os.lstat(os.path.join(image, name))
        if not _is_own(info):
            raise ValueError(f"{name} is not this user's own")
        yield name, [info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]


def _is_own(info: os.stat_result) -> bool:
    own = info.st_uid == os.geteuid() and not info.st_mode & 0o077
    return own and stat.S_ISREG(info.st_mode) and info.st_nlink == 1
