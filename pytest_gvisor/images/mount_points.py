"""Copies of an image's tree that add the mount points which the image lacks, and seals of trees.

Layout, in the image's own folder::

    points-DIGEST-XXXXXXXX/   one for the mount points with this digest
        users/                links to the folders of the sandboxes and bundles whose root it is
        rootfs/               the tree; its files are hard links to the image's
        seal                  what `seal` says of it, written when all else is there

Whoever makes or uses a tree holds the image. ``users`` is there with a first link or not at all. It
is removed before the tree is, which fails while there is a link in it. So where nobody holds the
image, a tree without ``users`` or ``seal`` is a killed process's.

A seal notices changes without reading the files. Writing to a file changes its time, and making,
replacing or removing one that of its folder. Times are compared to the nanosecond, so that a write
in the second of the unpacking is seen. Inodes are left out, since a CI's cache comes back as other
files. Link counts and times of changes (ctime) are too: trees share files by hard links.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
import struct
import tempfile
from collections.abc import Sequence
from typing import Final

from pytest_gvisor.images.folders import failing
from pytest_gvisor.oci.rootfs import make_points, points_digest
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.sessions.private import make_private

MAX_KEPT: Final = 16
"""Trees of one image that stay where no sandbox and no bundle uses them."""
_NAME: Final = "points-"
_PACKED: Final = "packed-"
_FIELDS: Final = struct.Struct("<IIIQq")


class Trees:
    """The trees with added mount points in an image's folder. Their user holds the image."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._sealed: set[str] = set()

    def use(self, root: str, mounts: Sequence[Mount], user: str) -> str:
        """Return a tree like ``root`` with the points of these mounts.

        It stays as long as the folder ``user`` is there. Raises `ImageError`.
        """
        prefix = f"{self._folder}/{_NAME}{points_digest(mounts)}-"
        with failing(self._folder):
            # The first that will do, so that those who made the same at once use one from then on.
            for tree in sorted(tree for tree in self._all() if tree.startswith(prefix)):
                if self._is_sealed(tree) and _claim(tree, user):
                    break
            else:
                tree = self._make(root, prefix, mounts, user)
            self._evict()
            return f"{tree}/rootfs"

    def remains(self) -> list[str]:
        """Return the trees that are not whole, or are being made, and earlier versions' files.

        Those were EROFS images of the tree. Raises `OSError`.
        """
        return self._all(_PACKED) + [
            tree
            for tree in self._all()
            if not all(os.path.exists(f"{tree}/{part}") for part in ("users", "seal"))
        ]

    def sweep(self) -> None:
        """Remove the remains of killed processes. The caller has the image's lock alone."""
        for path in self.remains():
            if os.path.basename(path).startswith(_PACKED):
                os.unlink(path)
            else:
                shutil.rmtree(path, ignore_errors=True)

    def _all(self, prefix: str = _NAME) -> list[str]:
        return [
            os.path.join(self._folder, name)
            for name in os.listdir(self._folder)
            if name.startswith(prefix)
        ]

    def _is_sealed(self, tree: str) -> bool:
        """Whether a tree is whole and unchanged; looks only once."""
        if tree not in self._sealed and _is_as_sealed(tree):
            self._sealed.add(tree)
        return tree in self._sealed

    def _make(self, root: str, prefix: str, mounts: Sequence[Mount], user: str) -> str:
        tree = tempfile.mkdtemp(prefix=prefix, dir=self._folder)
        try:
            make_private(f"{tree}/.users")
            _add(f"{tree}/.users", user)
            os.rename(f"{tree}/.users", f"{tree}/users")
            _copy(root, f"{tree}/rootfs")
            make_points(f"{tree}/rootfs", mounts)
            with open(f"{tree}/seal", "x", encoding="ascii") as file:
                file.write(seal(f"{tree}/rootfs"))
        except BaseException:
            shutil.rmtree(tree, ignore_errors=True)
            raise
        self._sealed.add(tree)
        return tree

    def _evict(self) -> None:
        """Remove unused trees: the least recently used, and those with the points of another."""
        kept: set[str] = set()
        for tree in sorted(self._all(), key=_used_at, reverse=True):
            points = tree.rpartition("-")[0]
            if points not in kept and len(kept) < MAX_KEPT:
                kept.add(points)
            else:
                _remove(tree)


def _add(users: str, user: str) -> None:
    os.symlink(os.path.abspath(user), f"{users}/{secrets.token_hex(8)}")


def _claim(tree: str, user: str) -> bool:
    """Record that a folder uses the tree; return whether the tree is there."""
    try:
        _add(f"{tree}/users", user)
    except FileNotFoundError:
        return False
    _forget(tree)
    return True


def _forget(tree: str) -> None:
    """Drop the records of folders that are gone."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(f"{tree}/users"):
            if not os.path.exists(entry.path):
                os.unlink(entry.path)


def _remove(tree: str) -> None:
    """Remove a tree, unless a folder uses it."""
    _forget(tree)
    try:
        os.rmdir(f"{tree}/users")
    except OSError:
        return  # it is used, or not whole
    shutil.rmtree(tree, ignore_errors=True)


def _used_at(tree: str) -> float:
    with contextlib.suppress(OSError):
        return os.stat(f"{tree}/users").st_mtime
    return 0.0


def _is_as_sealed(tree: str) -> bool:
    try:
        with open(f"{tree}/seal", encoding="ascii") as file:
            return file.read() == seal(f"{tree}/rootfs")
    except (OSError, ValueError):
        return False


def _copy(source: str, target: str) -> None:
    """Copy a tree: make its folders anew, and link all else."""
    os.mkdir(target, 0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            where = os.path.join(target, entry.name)
            if entry.is_dir(follow_symlinks=False):
                _copy(entry.path, where)
            else:
                os.link(entry.path, where, follow_symlinks=False)
    status = os.stat(source)
    if os.geteuid() == 0:
        os.chown(target, status.st_uid, status.st_gid)
    shutil.copystat(source, target)


def seal(root: str) -> str:
    """Return a hexadecimal digest of the names, modes, owners, sizes and times in a tree.

    Raises `OSError`, also where it is no folder. Takes about 7 µs an entry.
    """
    found, status = hashlib.sha256(), os.lstat(root)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    _digest(found, os.fsencode(root), b"", status)
    return found.hexdigest()


def _digest(found: hashlib._Hash, path: bytes, name: bytes, status: os.stat_result) -> None:
    is_folder = stat.S_ISDIR(status.st_mode)
    # The size of a folder is the file system's own affair.
    size = 0 if is_folder else status.st_size
    facts = _FIELDS.pack(status.st_mode, status.st_uid, status.st_gid, size, status.st_mtime_ns)
    found.update(name + b"\0" + facts)
    if is_folder:
        with os.scandir(path) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        for entry in ordered:
            below = name + b"/" + entry.name
            _digest(found, entry.path, below, entry.stat(follow_symlinks=False))
