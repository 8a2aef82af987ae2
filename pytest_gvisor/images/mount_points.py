"""Copies of an image's tree that add the mount points which the image lacks.

Layout, in the image's own folder::

    points.lock            flock, for moments: a tree is taken into use, put in its place, removed
    points-XXXX/rootfs/    the tree; its files are hard links to the image's
                seal       what `seal` says of it
                users/     links to the folders of the sandboxes and bundles whose root it is
    old-XXXX/              one that was changed, and may be in use
    .tmp-XXXX/             being made by whoever has its flock, or being removed
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Final

from pytest_gvisor.errors import ImageError
from pytest_gvisor.images import locks
from pytest_gvisor.images.fingerprint import seal
from pytest_gvisor.oci.rootfs import make_points, points_digest
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.programs.locks import is_taken

MAX_KEPT: Final = 16
"""Trees of one image that stay where no sandbox and no bundle uses them."""
_TRIES: Final = 10
_PATIENCE: Final = 60.0


class Trees:
    """The trees with added mount points in an image's folder. Their user holds the image."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._sealed: set[str] = set()

    def use(self, root: str, mounts: Sequence[Mount], user: str) -> str:
        """Return a tree like ``root`` with the points of these mounts.

        It stays as long as the folder ``user`` is there. Raises `ImageError`.
        """
        tree = f"{self._folder}/points-{points_digest(mounts)}"
        with locks.failing(self._folder):
            for _ in range(_TRIES):
                if not self._is_sealed(tree):
                    self._make(root, tree, mounts)
                with self._alone():
                    if _claim(tree, user):
                        self._evict()
                        return f"{tree}/rootfs"
                self._sealed.discard(tree)  # another process has removed it in between
        raise ImageError("its trees with more mount points are removed as fast as they are made")

    def sweep(self) -> None:
        """Remove the remains of killed processes. Raises `OSError`."""
        if not any(name.startswith(".tmp-") for name in os.listdir(self._folder)):
            return
        lock = locks.opened(f"{self._folder}/points.lock")
        try:
            # Somebody who is at work here, or stopped in the midst of it, is not waited for.
            if is_taken(lock):
                self._remove_dead()
        finally:
            os.close(lock)

    def _remove_dead(self) -> None:
        for name in os.listdir(self._folder):
            if name.startswith(".tmp-"):
                path = os.path.join(self._folder, name)
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    if is_taken(fd):
                        shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(fd)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return locks.alone(
            f"{self._folder}/points.lock", patience=_PATIENCE, busy="arranges its mount points"
        )

    def _is_sealed(self, tree: str) -> bool:
        """Whether a tree is there and unchanged; looks only once."""
        if tree not in self._sealed and _is_as_sealed(tree):
            self._sealed.add(tree)
        return tree in self._sealed

    def _make(self, root: str, tree: str, mounts: Sequence[Mount]) -> None:
        with self._temporary() as temporary:
            _copy(root, f"{temporary}/rootfs")
            make_points(f"{temporary}/rootfs", mounts)
            with open(f"{temporary}/seal", "x", encoding="ascii") as file:
                file.write(seal(f"{temporary}/rootfs"))
            with self._alone():
                if _is_as_sealed(tree):
                    return  # another process was faster
                if os.path.lexists(tree):
                    os.rename(tree, f"{self._folder}/old-{secrets.token_hex(4)}")
                os.rename(temporary, tree)
        self._sealed.add(tree)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[str]:
        with self._alone():  # so that none is seen before it has its lock
            temporary = tempfile.mkdtemp(prefix=".tmp-", dir=self._folder)
            fd = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(fd)

    def _evict(self) -> None:
        """Remove unused trees: changed ones, and the least recently used."""
        found = []
        for name in os.listdir(self._folder):
            path = os.path.join(self._folder, name)
            if name.startswith("old-") and not _users(path):
                self._remove(path)
            elif name.startswith("points-"):
                found.append((_used_at(path), path))
        for _, path in sorted(found)[: max(0, len(found) - MAX_KEPT)]:
            if not _users(path):
                self._remove(path)

    def _remove(self, path: str) -> None:
        # Half of a tree is never seen: it is gone under its name before anything in it is.
        temporary = f"{self._folder}/.tmp-{secrets.token_hex(4)}"
        os.rename(path, temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def _claim(tree: str, user: str) -> bool:
    """Record that a folder uses the tree; return whether the tree is there."""
    users = f"{tree}/users"
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(users, 0o700)
    except FileNotFoundError:
        return False
    _users(tree)
    name = hashlib.sha256(os.fsencode(user)).hexdigest()[:32]
    with contextlib.suppress(FileExistsError):
        os.symlink(os.path.abspath(user), f"{users}/{name}")
    os.utime(users)
    return True


def _users(tree: str) -> int:
    """Count the folders that use a tree; drop the records of folders that are gone."""
    count = 0
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(f"{tree}/users"):
            if os.path.exists(entry.path):
                count += 1
            else:
                os.unlink(entry.path)
    return count


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
