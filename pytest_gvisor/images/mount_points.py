"""Copies of an image's tree that add the mount points which the image lacks, and seals of trees.

Layout, in the image's own folder::

    tree-DIGEST-XXXXXXXX/     one for the mount points with this digest
        users/                links to the folders of the sandboxes and bundles whose root it is
        seal                  its seal, as it was made
        rootfs/               the tree; its files are hard links to the image's
    .tree-XXXXXXXX/           one that is being made: it gets its name when it is whole

A process that makes or uses a tree holds the image. ``users`` is removed before the tree is, and
that fails while there is a link in it. So if no process holds the image, a tree without ``users``
was left by a process that was killed.

A container that shares the cache does not see the session folders of another one. So while other
processes may hold the image, a folder counts as gone only where the folder above it is there.

A seal shows changes without a read of the files. To write to a file changes its time, and to make,
replace or remove one changes the time of its folder. Times are compared to the nanosecond, so that
a write in the second of the unpacking shows too. Inodes are left out, because a CI's cache comes
back as other files. Link counts and times of changes (ctime) are left out, because trees share
files by hard links.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import struct
import tempfile
from collections.abc import Sequence
from typing import Final

from pytest_gvisor.base.errors import on_error
from pytest_gvisor.images.folders import failing
from pytest_gvisor.oci.rootfs import make_points, points_digest
from pytest_gvisor.oci.skeleton import write
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.sessions.private import make_private

MAX_KEPT: Final = 16
"""The most trees of one image that are kept without a sandbox or bundle that uses them."""
_NAME: Final = "tree-"
_MAKING: Final = ".tree-"
_FIELDS: Final = struct.Struct("<IIIQq")


def use(image: str, root: str, mounts: Sequence[Mount], user: str, checked: set[str]) -> str:
    """Return a tree like ``root`` with the points of these mounts, in the image's folder.

    The tree is kept until the folder ``user`` is removed. A tree that has changed is not used;
    those in ``checked`` have not. Raises `ImageError`.
    """
    prefix = f"{_NAME}{points_digest(mounts)}-"
    with failing(image):
        # The first by name: if two processes have made the same tree at once, all use one of them
        # from then on.
        for tree in sorted(_all(image, prefix)):
            if (tree in checked or _is_unchanged(tree)) and _claim(tree, user):
                break
        else:
            tree = _make(image, root, prefix, mounts, user)
        checked.add(tree)
        _prune(image, alone=False)
        return f"{tree}/rootfs"


def sweep(image: str) -> None:
    """Remove trees that are not whole or not kept. Raises `OSError`.

    The caller has the image's lock alone.
    """
    _prune(image, alone=True)
    unused = [tree for tree in _all(image, _NAME) if not os.path.exists(f"{tree}/users")]
    for tree in unused + _all(image, _MAKING):
        shutil.rmtree(tree, ignore_errors=True)


def _all(image: str, prefix: str) -> list[str]:
    names = os.listdir(image)
    return [os.path.join(image, name) for name in names if name.startswith(prefix)]


def _make(image: str, root: str, prefix: str, mounts: Sequence[Mount], user: str) -> str:
    making = tempfile.mkdtemp(prefix=_MAKING, dir=image)
    with on_error(shutil.rmtree, making, ignore_errors=True):
        make_private(f"{making}/users")
        _add(f"{making}/users", user)
        _copy(root, f"{making}/rootfs")
        make_points(f"{making}/rootfs", mounts)
        write(f"{making}/seal", seal(f"{making}/rootfs").encode())
        tree = os.path.join(image, prefix + secrets.token_hex(4))
        os.rename(making, tree)
    return tree


def _is_unchanged(tree: str) -> bool:
    with contextlib.suppress(OSError, ValueError), open(f"{tree}/seal", encoding="ascii") as file:
        return file.read() == seal(f"{tree}/rootfs")
    return False


def _add(users: str, user: str) -> None:
    os.symlink(os.path.abspath(user), f"{users}/{secrets.token_hex(8)}")


def _claim(tree: str, user: str) -> bool:
    """Record that a folder uses the tree; return False if the tree is being removed."""
    try:
        _add(f"{tree}/users", user)
    except FileNotFoundError:
        return False
    _forget(tree, alone=False)
    return True


def _forget(tree: str, *, alone: bool) -> None:
    """Drop the records of folders that are gone, of all if no process holds the image."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(f"{tree}/users"):
            above = os.path.dirname(os.readlink(entry.path))
            if not os.path.exists(entry.path) and (alone or os.path.isdir(above)):
                os.unlink(entry.path)


def _prune(image: str, *, alone: bool) -> None:
    """Remove all but the trees used last, unless a folder uses them."""
    for tree in sorted(_all(image, _NAME), key=_used_at)[:-MAX_KEPT]:
        _forget(tree, alone=alone)
        with contextlib.suppress(OSError):  # it is used
            os.rmdir(f"{tree}/users")
            shutil.rmtree(tree, ignore_errors=True)


def _used_at(tree: str) -> float:
    with contextlib.suppress(OSError):
        return os.stat(f"{tree}/users").st_mtime
    return 0.0


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

    Follows no link. Raises `OSError`. Takes about 7 µs an entry.
    """
    found = hashlib.sha256()
    _digest(found, os.fsencode(root), b"", os.lstat(root))
    return found.hexdigest()


def _digest(found: hashlib._Hash, path: bytes, name: bytes, status: os.stat_result) -> None:
    is_folder = stat.S_ISDIR(status.st_mode)
    # The size of a folder depends on the file system.
    size = 0 if is_folder else status.st_size
    facts = _FIELDS.pack(status.st_mode, status.st_uid, status.st_gid, size, status.st_mtime_ns)
    found.update(name + b"\0" + facts)
    if is_folder:
        with os.scandir(path) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        for entry in ordered:
            below = name + b"/" + entry.name
            _digest(found, entry.path, below, entry.stat(follow_symlinks=False))
