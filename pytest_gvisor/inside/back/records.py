"""The names and digests of files that came back, kept in this user's cache for later sessions.

A later session replaces such a file if it still has its digest. None collects it: the host would
run a text as a doctest. A record has the path of a folder, and the files of this folder and of
those below it. A NUL, which no path has, ends each of them.
Light: each session of a user who has records imports it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.programs.paths import caches

_MOST_BYTES = 64 * 1024 * 1024
"""Of one record, of which a file that came back takes some hundred."""

_LONGEST = 4096
"""The bytes of the longest path that Linux takes, with its NUL."""

_TICK = 100_000_000
"""Nanoseconds, and more than any kernel takes to go on to another time of a file."""

_NO_RECORD = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.ELOOP, errno.ENXIO)


@contextlib.contextmanager
def _if_any() -> Iterator[None]:
    """Go on after the block if it finds no record of this user's.

    Raises `OSError` if one cannot be read: nobody knows which files are in it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_RECORD:
            raise


class Records:
    """The records of this user, each read once. Methods raise `OSError`."""

    def __init__(self, folder: str = "") -> None:
        self.folder = folder or caches("returned")
        self._known: dict[str, dict[str, str]] = {}
        self._noted: dict[str, dict[str, str]] = {}

    def digests(self, path: str) -> set[str]:
        """Return the digests that are recorded of a canonical path; none if it never came back."""
        found, folder = set(), path
        while folder != "/":
            folder = os.path.dirname(folder)
            if known := self._of(folder).get(path[len(folder.rstrip("/")) + 1 :]):
                found.update(known.split("+"))
        return found

    def note(self, folder: str, path: str, digest: str) -> None:
        """Have `save` record a file below a canonical folder.

        ``digest`` may be of two contents, with a plus sign between them.
        """
        self._noted.setdefault(folder, {})[path] = digest

    def save(self, write: Callable[[str, str], None]) -> None:
        """Record what was noted by ``write``, and forget files that are gone. Raises `OSError`."""
        for folder, noted in self._noted.items():
            there = {
                path: digest
                for path, digest in self._of(folder).items()
                if os.path.lexists(os.path.join(folder, path))
            }
            files = (f"{digest} {path}" for path, digest in (there | noted).items())
            text = "".join(f"{field}\0" for field in (folder, *files))
            if len(text.encode(errors="surrogateescape")) > _MOST_BYTES:
                raise OSError(f"there are too many files below {folder}")
            name = self.names.setdefault(folder, os.urandom(8).hex())
            write(os.path.join(self.folder, name), text)

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """The file of each folder that has a record."""
        found = {}
        with _if_any():
            for name in os.listdir(self.folder):
                folder, *more = self._fields(name, _LONGEST)
                if more and "." not in name:  # else a part of one, whose writer was killed
                    found[folder] = name
        return found

    def _of(self, folder: str) -> dict[str, str]:
        if folder not in self.names:
            return {}
        if folder not in self._known:
            lines = (text.partition(" ") for text in self._fields(self.names[folder], _MOST_BYTES))
            self._known[folder] = {path: digest for digest, _space, path in lines if path}
        return self._known[folder]

    def _fields(self, name: str, most: int) -> list[str]:
        """Return the fields at the beginning of a record; none if it is not this user's."""
        data = b""
        with _if_any(), open(name, "rb", opener=self._open) as file:
            if os.fstat(file.fileno()).st_uid == os.geteuid():
                data = file.read(most)
        return data.decode(errors="surrogateescape").split("\0")

    def _open(self, name: str, flags: int) -> int:
        """Open a file of the folder. Raises `OSError`, also if others may put one there: a hard
        link to a file of this user's that all may write, say. In another user's, there is none.
        """
        with contextlib.ExitStack() as held:
            folder = os.open(self.folder, os.O_DIRECTORY | os.O_NOFOLLOW)
            held.callback(os.close, folder)
            info = os.fstat(folder)
            is_own = info.st_uid == os.geteuid()
            if not is_own or info.st_mode & 0o022:
                raise OSError(errno.EPERM if is_own else errno.EACCES, "others may put files there")
            return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)


class LeftOut:
    """The plugin that leaves recorded files out of the collection on the host."""

    def __init__(self) -> None:
        self._records, self._changed = Records(), 0
        self._real = functools.cache(os.path.realpath)

    def _has(self, path: Path) -> bool:
        folder, name = os.path.split(path)
        real = os.path.join(self._real(folder), name)
        real = os.path.realpath(path) if os.path.islink(real) else real
        try:
            with _if_any():  # files of another session may come back meanwhile
                if (changed := os.stat(self._records.folder).st_mtime_ns) != self._changed:
                    # Where it was: a test may have changed HOME meanwhile.
                    self._records = Records(self._records.folder)
                    # A change that comes within the same tick of the kernel has the same time.
                    self._changed = changed if abs(time.time_ns() - changed) > _TICK else 0
            return bool(self._records.digests(real))
        except OSError as error:
            raise pytest.UsageError(
                f"pytest-gvisor: whether {path} came back from inside cannot be read in "
                f"{self._records.folder}: {error.strerror}.\nRepair its disk, or `chmod go-w` it"
            ) from error

    @pytest.hookimpl(wrapper=True)
    def pytest_collect_file(self, file_path: Path) -> Generator[None, Any, Any]:
        """Collect nothing of a recorded file, whatever other plugins make of it.

        pytest_ignore_collect is no place for that: pytest does not ask it of a file that an
        argument names.
        """
        found = yield
        return [] if self._has(file_path) else found
