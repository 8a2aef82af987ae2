"""The folders to which files come back, found before the first test, and written to at the end.

An anchor is a folder that nothing inside may write, open since before the first test. The kernel
holds each path below it (openat2(2)), and follows no link. A file is written under no name, and
gets its name when it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.programs import linux
from pytest_gvisor.programs.paths import within

MOST_BYTES = 1024 * 1024 * 1024
"""Of the files of one process's sandboxes."""

_BELOW = linux.RESOLVE_BENEATH | linux.NO_LINKS
_FOLDER = os.O_PATH | os.O_DIRECTORY
_CHUNK = 1024 * 1024
_NO_FILE = "there is something on the host that is no regular file"


class Anchor(NamedTuple):
    """An open folder, and the path below it of a folder of files that come back."""

    fd: int
    rest: str
    """It may be missing so far, wholly or in part."""

    folder: str
    """The canonical path of both."""

    project: str | None
    """The path of the project below the folder; None if it is elsewhere."""


class Anchors:
    """The anchors of one process, each opened once.

    ``root`` is the project's folder, as it is written. Tests inside write to ``writable`` folders.
    """

    def __init__(self, root: str, writable: Iterable[str] = ()) -> None:
        self._root, self._real = root, os.path.realpath(root)
        self._writable = tuple(map(os.path.realpath, writable))
        self._held: dict[str, int] = {}
        self._found: dict[str, Anchor | None] = {}

    def find(self, folder: str) -> Anchor | None:
        """Return the anchor of a folder; None in or below a writable folder.

        What tests write there is there already, and so may be their links. The way that a folder
        shares with the project may have links. Raises `UsageError` for another one that leads out
        of the project, and `OSError`.
        """
        if folder not in self._found:
            self._found[folder] = self._anchor(folder)
        return self._found[folder]

    def close(self) -> None:
        """Close all that is open; a later `find` opens it again."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()
        self._found.clear()

    def _anchor(self, folder: str) -> Anchor | None:
        common = os.path.commonpath([folder, self._root])
        rest = folder[len(common) :].strip("/")
        path = os.path.join(os.path.realpath(common), rest) if rest else os.path.realpath(common)
        ways = [os.path.realpath(way) for way in (path, *map(str, Path(path).parents))]
        if any(within(way, folder) for way in ways for folder in self._writable):
            return None
        real = os.path.realpath(path)
        below = within(real, self._real)
        if real != path and not (below and common == self._root):
            raise UsageError(
                f"a link leads from {folder!a} to {real!a}",
                next_step="Name the target itself.",
            )
        base = self._real if below else os.path.dirname(real)
        while not os.path.isdir(base):
            base = os.path.dirname(base)
        if base not in self._held:
            encoded = os.fsencode(base)
            self._held[base] = linux.openat2(linux.AT_FDCWD, encoded, _FOLDER, linux.NO_LINKS)
        above = within(self._real, real)
        return Anchor(
            self._held[base],
            rest=real[len(base) :].strip("/"),
            folder=real,
            project=self._real[len(real) :].strip("/") if above else None,
        )


def found(anchor: Anchor, path: str) -> tuple[str, float]:
    """Return the digest of a file below an anchor's folder, and the time of its last change.

    The digest is empty if it is missing.

    Raises `OSError`, also for what is no regular file.
    """
    whole = os.fsencode(os.path.join(anchor.rest, path))
    try:
        fd = linux.openat2(anchor.fd, whole, os.O_PATH, _BELOW)
    except FileNotFoundError:
        return "", 0.0
    with linux.closing(fd):
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise FileExistsError(errno.EEXIST, _NO_FILE)
        if status.st_size > MOST_BYTES:
            return "of a file that is too large to have come from inside", status.st_ctime
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), status.st_ctime


def land(
    anchor: Anchor, path: str, source: int, offset: int, size: int, *, adds: bool = False
) -> None:
    """Write ``size`` bytes of the file ``source`` to a path below an anchor's folder.

    ``adds`` has them added to the end of a file that the host has begun itself. Raises `OSError`.
    """
    parent, name = os.path.split(os.path.join(anchor.rest, path))
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK
    with linux.closing(_make_folders(anchor.fd, parent)) as here:
        if adds and os.access(name, os.F_OK, dir_fd=here, follow_symlinks=False):
            with linux.closing(linux.openat2(here, os.fsencode(name), flags, _BELOW)) as fd:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise FileExistsError(errno.EEXIST, _NO_FILE)
                _copy(fd, source, offset, size)
        else:
            with linux.new_file(here, name) as fd:
                _copy(fd, source, offset, size)


def _make_folders(base: int, path: str) -> int:
    """Open a folder below another one, and make what is missing of it."""
    fd = os.dup(base)
    for part in os.fsencode(path).split(b"/") if path else ():
        with linux.closing(fd) as here:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=here)
            fd = linux.openat2(here, part, _FOLDER, _BELOW)
    return fd


def _copy(fd: int, source: int, offset: int, size: int) -> None:
    end = offset + size
    while offset < end:
        data = memoryview(os.pread(source, min(_CHUNK, end - offset), offset))
        if not data:
            raise OSError(errno.EIO, "the kept content is gone")
        offset += len(data)
        while data:
            data = data[os.write(fd, data) :]
