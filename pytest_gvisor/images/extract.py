"""Unpack layers into one folder. The kernel contains every path: openat2(2) resolves it with the
folder as its root. So neither ``..`` nor links lead outside.

- Permissions, set-uid bits and times are kept.
- root keeps owners. For another user, and for a root without further ids in its user namespace, all
  files belong to that user, who can read each of them.
- Extended attributes, devices and FIFOs are left out, and hard links to devices and FIFOs.
- If an entry cannot be made as the archive has it, that is an `ImageError`.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pytest_gvisor.base.errors import ImageError
from pytest_gvisor.images.archive import Content
from pytest_gvisor.images.image_users import keeps_owners
from pytest_gvisor.images.streams import CHUNK, Budget, Reader, explained
from pytest_gvisor.images.tar import Entry, Kind, Tar, shown_bytes
from pytest_gvisor.programs import linux

_IN_ROOT: Final = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The result of an unpacking."""

    size: int
    """Bytes of the uncompressed layers."""
    notes: tuple[str, ...]
    """The kinds of entries that were left out, with their number."""


def unpack(content: Content, root: str, *, points: Sequence[str] = ()) -> Facts:
    """Unpack an image's layers into the empty folder ``root``, and make folders ``points`` in it.

    Raises `ImageError`, and leaves in ``root`` what has been made by then.
    """
    budget = Budget(limits=content.limits)
    with contextlib.closing(Tree(root, budget, owners=keeps_owners())) as tree:
        for layer in content.layers:
            tree.begin_layer()
            with layer.open(budget) as stream:
                tar = Tar(stream, whole=bool(layer.diff_id))
                for entry in tar:
                    budget.add_entry()
                    tree.add(entry, tar)
        tree.finish(points)
        return Facts(size=budget.grown, notes=tree.notes())


class Tree:
    """A folder that layers are unpacked into, one over the other."""

    def __init__(self, root: str, budget: Budget, *, owners: bool) -> None:
        self._budget = budget
        self._owners = owners
        self._root = os.open(root, _FOLDER)
        self._depth_of_root = _path_of(self._root).count(b"/")
        self._made: set[tuple[int, bytes]] = set()
        self._cleared: set[int] = set()
        self._not_there: dict[tuple[int, bytes], str] = {}
        self._times: dict[tuple[int, int], int] = {}
        self._left_out: collections.Counter[str] = collections.Counter()
        os.fchmod(self._root, 0o755)

    def close(self) -> None:
        """Close the folder."""
        os.close(self._root)

    def notes(self) -> tuple[str, ...]:
        """The kinds of entries that were left out, with their number."""
        left_out = (+self._left_out).items()  # without those of which there were none
        return tuple(f"left out of the image: {count} {what}" for what, count in left_out)

    def begin_layer(self) -> None:
        """Begin a layer on top of the layers before it."""
        self._made.clear()
        self._cleared.clear()

    def add(self, entry: Entry, content: Reader) -> None:
        """Put an entry into the folder, or apply a whiteout."""
        with explained(f"unpack {shown_bytes(entry.name)}"):
            parts = self._parts(entry.name)
            if not parts:
                if entry.kind is not Kind.FOLDER:
                    raise ImageError(f"the root is a {entry.kind.value}")
                self._dress_folder(self._root, entry)
                return
            name = parts[-1]
            if name.startswith(_WHITEOUT):
                self._whiteout(parts)
                return
            with self._folder(parts[:-1]) as parent:
                self._add(parent, name, entry, content)

    def finish(self, points: Sequence[str]) -> None:
        """Make the missing folders for mounts, and set the times of all folders."""
        for point in points:
            with contextlib.suppress(FileExistsError):
                self._mkdir(self._root, os.fsencode(point))
        for _path, _folders, _files, fd in os.fwalk(".", dir_fd=self._root):
            status = os.fstat(fd)
            when = self._times.get((status.st_dev, status.st_ino))
            if when is not None:
                os.utime(fd, ns=(when, when))

    def _parts(self, name: bytes) -> list[bytes]:
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise ImageError(f"{shown_bytes(name)} has a '..' in it")
        return parts

    # Folders

    @contextlib.contextmanager
    def _folder(self, parts: Sequence[bytes]) -> Iterator[int]:
        """Yield a descriptor of this folder; make the folder if it is missing."""
        try:
            fd = self._open(parts)
        except FileNotFoundError:
            fd = self._make_all(parts)
        with linux.closing(fd):
            yield fd

    def _open(self, parts: Sequence[bytes]) -> int:
        path = b"/".join(parts) or b"."
        return linux.openat2(self._root, path, os.O_DIRECTORY, _IN_ROOT)

    def _make_all(self, parts: Sequence[bytes]) -> int:
        for count, name in enumerate(parts):
            try:
                os.close(self._open(parts[: count + 1]))
            except FileNotFoundError:
                self._budget.add_entry()
                with linux.closing(self._open(parts[:count])) as above:
                    self._mkdir(above, name)
        return self._open(parts)

    def _mkdir(self, parent: int, name: bytes) -> None:
        # Links can make a folder deeper than its name says.
        depth = _path_of(parent).count(b"/") - self._depth_of_root + 1
        self._budget.check_depth(depth)
        os.mkdir(name, 0o755, dir_fd=parent)
        self._note(parent, name)
        os.chmod(name, 0o755, dir_fd=parent)  # whatever the umask is

    def _note(self, parent: int, name: bytes) -> None:
        place = (os.fstat(parent).st_ino, name)
        self._made.add(place)
        self._not_there.pop(place, None)

    # Whiteouts

    def _whiteout(self, parts: Sequence[bytes]) -> None:
        name = parts[-1]
        hidden = name[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise ImageError(f"{shown_bytes(name)} hides nothing that can be named")
        if hidden.startswith(_WHITEOUT) and name != _OPAQUE:
            return  # a file that aufs itself kept in its layers
        with (
            contextlib.suppress(FileNotFoundError),
            linux.closing(self._open(parts[:-1])) as parent,
        ):
            if name == _OPAQUE:
                self._clear(parent)
            else:
                self._remove_lower(parent, hidden)

    def _clear(self, parent: int) -> None:
        """Remove the entries of lower layers from a folder, once in a layer."""
        inode = os.fstat(parent).st_ino
        if inode in self._cleared:
            return
        self._cleared.add(inode)
        for name in os.listdir(parent):
            self._remove_lower(parent, os.fsencode(name))

    def _remove_lower(self, parent: int, name: bytes) -> None:
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        own = (os.fstat(parent).st_ino, name) in self._made
        if stat.S_ISDIR(status.st_mode):
            with linux.closing(os.open(name, _FOLDER, dir_fd=parent)) as fd:
                self._clear(fd)
            if not own:
                # The folder stays if this layer has put files into it.
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=parent)
        elif not own:
            os.unlink(name, dir_fd=parent)

    # Entries

    def _add(self, parent: int, name: bytes, entry: Entry, content: Reader) -> None:
        if entry.kind in (Kind.DEVICE, Kind.FIFO):
            self._leave_out(parent, name, "devices" if entry.kind is Kind.DEVICE else "FIFOs")
            return
        if entry.kind is Kind.HARDLINK:
            self._add_hard_link(parent, name, entry)
            return
        is_folder = self._make_way(parent, name, keep_folder=entry.kind is Kind.FOLDER)
        if entry.kind is Kind.FILE:
            self._add_file(parent, name, entry, content)
        elif entry.kind is Kind.SYMLINK:
            if not entry.link:
                raise ImageError(f"{shown_bytes(entry.name)} is a link without a target")
            os.symlink(entry.link, name, dir_fd=parent)
            self._give(name, entry, dir_fd=parent, follow_symlinks=False)
            when = (entry.mtime_ns, entry.mtime_ns)
            os.utime(name, ns=when, dir_fd=parent, follow_symlinks=False)
        else:
            if not is_folder:
                self._mkdir(parent, name)
            with linux.closing(os.open(name, _FOLDER, dir_fd=parent)) as fd:
                self._dress_folder(fd, entry)
        self._note(parent, name)

    def _leave_out(self, parent: int, name: bytes, what: str) -> None:
        """Leave a place empty: remove a lower layer's entry there too."""
        self._make_way(parent, name, keep_folder=False)
        self._not_there[(os.fstat(parent).st_ino, name)] = what
        self._left_out[what] += 1

    def _make_way(self, parent: int, name: bytes, *, keep_folder: bool) -> bool:
        """Remove the entry that is in the way; return whether a folder is left."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=parent)
        elif keep_folder:
            return True
        else:
            shutil.rmtree(name, dir_fd=parent)
        return False

    def _add_hard_link(self, parent: int, name: bytes, entry: Entry) -> None:
        parts = self._parts(entry.link)
        if not parts:
            raise ImageError(f"{shown_bytes(entry.name)} is a hard link to the root")
        with self._folder(parts[:-1]) as above:
            here, there = os.fstat(parent), os.fstat(above)
            if (here.st_ino, name) == (there.st_ino, parts[-1]):
                return
            if what := self._not_there.get((there.st_ino, parts[-1])):
                self._leave_out(parent, name, what)
                return
            found = os.stat(parts[-1], dir_fd=above, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                raise ImageError(f"{shown_bytes(entry.name)} is a hard link to a folder")
            self._make_way(parent, name, keep_folder=False)
            os.link(parts[-1], name, src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)
            self._note(parent, name)

    def _add_file(self, parent: int, name: bytes, entry: Entry, content: Reader) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        with open(fd, "wb") as file:
            while data := content.read(CHUNK):
                file.write(data)
            file.flush()  # a later write would change mode and time
            self._dress(fd, entry, 0o400)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _dress_folder(self, fd: int, entry: Entry) -> None:
        self._dress(fd, entry, 0o700)
        status = os.fstat(fd)
        self._times[(status.st_dev, status.st_ino)] = entry.mtime_ns

    def _dress(self, fd: int, entry: Entry, least: int) -> None:
        self._give(fd, entry)
        self._left_out["extended attributes"] += entry.xattrs
        # After the owner: changing that takes set-uid bits away.
        os.fchmod(fd, entry.mode if self._owners else entry.mode | least)

    def _give(self, what: int | bytes, entry: Entry, **options: Any) -> None:
        if not self._owners:
            return
        try:
            os.chown(what, entry.uid, entry.gid, **options)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise ImageError(
                f"{shown_bytes(entry.name)} belongs to {entry.uid}:{entry.gid}, which this user "
                "namespace does not have"
            ) from error


def _path_of(fd: int) -> bytes:
    return os.readlink(f"/proc/self/fd/{fd}".encode())
