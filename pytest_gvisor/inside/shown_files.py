"""The files of the host that a path from inside may name: how they are looked up.

A path from inside may name anything. A look-up by its name could wait for ever, if another machine
or a program serves the file system. It could also start an automounter, or follow a link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from pytest_gvisor.programs import linux
from pytest_gvisor.programs.paths import below, within
from pytest_gvisor.programs.proc import mounts

LOCAL = frozenset({
    "aufs", "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "jfs",
    "ntfs3", "overlay", "ramfs", "reiserfs", "rootfs", "squashfs", "tmpfs", "udf", "vfat", "xfs",
    "zfs",
})  # fmt: skip
"""The types of file systems that this kernel serves alone, from its own disks and memory."""

_NO_LINKS = linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS
_BELOW = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_XDEV | _NO_LINKS


class ShownFiles:
    """The files that tests inside see and cannot change, found without trust in their names.

    The kernel finds a file below a descriptor of its folder. It follows no link, and stays on the
    folder's file system. A local file system that is mounted below counts as a folder of its own.
    On another one nothing is looked up.
    """

    def __init__(self, shown: Iterable[str], excluded: Iterable[str], own: Iterable[str]) -> None:
        """Take the files below ``shown``, apart from those below ``excluded``.

        ``own`` are folders that a sandbox has for itself, as far as they are not shown. Raises
        `OSError` if there is no table of mounts.
        """
        closed = {way for path in excluded for way in (path, os.path.realpath(path))}
        trusted = [path for path in shown if not _is_in(path, closed)]
        self._tops = {way: os.path.realpath(p) for p in trusted for way in (p, os.path.realpath(p))}
        mounted = [m for m in mounts() if any(below(m.point, top) for top in self._tops.values())]
        self._closed = closed.union(mount.point for mount in mounted if mount.kind not in LOCAL)
        self._bases = {*self._tops.values(), *(m.point for m in mounted if m.kind in LOCAL)}
        self._own = tuple(own)
        self._opened: dict[str, int] = {}

    def find(self, path: str) -> str | None:
        """Return the real path of a regular file; None for another one, or one that is not shown.

        Raises `OSError` for a file that is not there, `ValueError` for a path that can name none.
        """
        if "\0" in path:
            raise ValueError("a NUL in a path")
        if (top := _deepest(self._tops, path)) is None:
            if _is_in(path, self._own):
                raise FileNotFoundError(path)
            return None
        real = self._tops[top] + path[len(top) :]
        base = _deepest(self._bases, real)
        if base is None or _is_in(real, self._closed):
            return None
        return real if self._is_regular(base, real[len(base) + 1 :]) else None

    def _is_regular(self, base: str, name: str) -> bool:
        if base not in self._opened:
            self._opened[base] = _open(linux.AT_FDCWD, base, _NO_LINKS)
        if not name:
            return stat.S_ISREG(os.fstat(self._opened[base]).st_mode)
        fd = _open(self._opened[base], name, _BELOW)
        try:
            return stat.S_ISREG(os.fstat(fd).st_mode)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the folders."""
        while self._opened:
            os.close(self._opened.popitem()[1])


def _open(folder: int, path: str, resolve: int) -> int:
    return linux.openat2(folder, os.fsencode(path), os.O_PATH, resolve)


def _is_in(path: str, folders: Iterable[str]) -> bool:
    return any(within(path, folder) for folder in folders)


def _deepest(folders: Iterable[str], path: str) -> str | None:
    """Return the deepest of the folders that holds a path."""
    return max((one for one in folders if within(path, one)), key=len, default=None)
