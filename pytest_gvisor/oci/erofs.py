"""A file tree as one EROFS image, which runsc can serve without a gofer.

The image has what gVisor reads (pkg/erofs): extended inodes and plain data. It has neither
compression nor inline data nor extended attributes. Trees that need more are `Unsuitable`. The
format is described in the kernel's Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

LARGEST: Final = 256 * 1024**2
"""Bytes of a tree that is packed: it takes up as much again."""

_BLOCK: Final = 4096
_MAGIC: Final = 0xE0F5E1E2
_SUPER_AT: Final = 1024
_SUPER: Final = struct.Struct("<IIIBBHQQIIII16s16sIHHH38x")
_INODE: Final = struct.Struct("<HHHHQIIIIqII16x")
_ENTRY: Final = struct.Struct("<QHBx")
_SLOT: Final = 32
_EXTENDED: Final = 1
_KINDS: Final = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFLNK: 7}
# The label of SELinux, which gVisor does not show.
_IGNORED: Final = {"security.selinux"}


class Unsuitable(Exception):
    """The tree has something that the image cannot have."""


@dataclass(kw_only=True)
class _Node:
    """A file, folder or link, and its place in the image."""

    path: bytes
    status: os.stat_result
    number: int
    links: int = 0
    entries: dict[bytes, _Node] = dataclasses.field(default_factory=dict)
    data: bytes = b""
    """The content of a folder or link."""

    size: int = 0
    block: int = 0

    @property
    def nid(self) -> int:
        """The inode's place in slots: inodes begin at the second block."""
        return (_BLOCK + self.number * _INODE.size) // _SLOT

    @property
    def kind(self) -> int:
        """The type of file, as a folder's entries have it."""
        return _KINDS[stat.S_IFMT(self.status.st_mode)]


def pack(root: str, target: str) -> None:
    """Write the tree below ``root`` to the new file ``target``, which is there whole or not at all.

    The caller's own files belong to root in it, as a sandbox shows them. Raises `Unsuitable`, or
    `OSError`, also where ``target`` exists.
    """
    nodes: list[_Node] = []
    _collect(os.fsencode(root), nodes)
    blocks = _place(nodes)
    # Without a name until it is whole: nothing is left of it where this process is killed.
    flags = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
    fd = os.open(os.path.dirname(target), flags, 0o400)
    try:
        os.ftruncate(fd, blocks * _BLOCK)
        os.pwrite(fd, _super(nodes, blocks), _SUPER_AT)
        os.pwrite(fd, b"".join(_inode(node) for node in nodes), _BLOCK)
        for node in nodes:
            if node.kind == _KINDS[stat.S_IFREG]:
                _copy(node, fd)
            else:
                os.pwrite(fd, node.data, node.block * _BLOCK)
        # With a descriptor, os.link calls linkat(2), which follows the link to the nameless file.
        os.link(f"/proc/self/fd/{fd}", target, src_dir_fd=fd)
    finally:
        os.close(fd)


_asked: set[str] = set()


def again(root: str, target: str) -> str:
    """Return ``target``, an image of ``root``; empty at the first call of a process for it.

    Packing takes longer than one start without a gofer saves. Also empty where none can be made.
    """
    if is_whole(target):
        return target
    if target not in _asked:
        _asked.add(target)
        return ""
    try:
        pack(root, target)
    except FileExistsError:
        return target if is_whole(target) else ""  # another process was faster
    except (OSError, Unsuitable):
        return ""
    return target


def is_whole(path: str) -> bool:
    """Whether a file is an image as long as its first block says."""
    try:
        with open(path, "rb") as file:
            file.seek(_SUPER_AT)
            fields = _SUPER.unpack(file.read(_SUPER.size))
            return bool(fields[0] == _MAGIC and fields[9] * _BLOCK == os.stat(path).st_size)
    except (OSError, struct.error):
        return False


def _collect(root: bytes, nodes: list[_Node]) -> None:
    """Make a node of everything in the tree, the root first; hard links are one node."""
    files: dict[tuple[int, int], _Node] = {}
    nodes.append(_node(root, os.lstat(root), 0))
    nodes[0].links = 1
    total = 0
    pending = [(nodes[0], nodes[0])]
    while pending:
        folder, above = pending.pop()
        folder.entries = {b".": folder, b"..": above}
        folder.links += 1
        with os.scandir(folder.path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            status = entry.stat(follow_symlinks=False)
            place = (status.st_dev, status.st_ino)
            if (node := files.get(place)) is None:
                node = _node(entry.path, status, len(nodes))
                nodes.append(node)
                total += status.st_size
                if total > LARGEST:
                    raise Unsuitable(f"more than {LARGEST} bytes")
            folder.entries[entry.name] = node
            node.links += 1
            if stat.S_ISDIR(status.st_mode):
                folder.links += 1
                pending.append((node, folder))
            else:
                files[place] = node


def _node(path: bytes, status: os.stat_result, number: int) -> _Node:
    if stat.S_IFMT(status.st_mode) not in _KINDS:
        raise Unsuitable(f"{path!r} is neither a file nor a folder nor a link")
    if not _IGNORED.issuperset(os.listxattr(path, follow_symlinks=False)):
        raise Unsuitable(f"{path!r} has extended attributes")
    own = (os.geteuid(), os.getegid())
    if own[0] and (status.st_uid, status.st_gid) != own:
        raise Unsuitable(f"{path!r} belongs to somebody else")
    return _Node(path=path, status=status, number=number)


def _place(nodes: list[_Node]) -> int:
    """Give each node its blocks, and return their number in the image."""
    block = 1 + -(-len(nodes) * _INODE.size // _BLOCK)
    for node in nodes:
        if node.entries:
            node.data = _folder(node)
        elif stat.S_ISLNK(node.status.st_mode):
            node.data = os.readlink(node.path)
        regular = stat.S_ISREG(node.status.st_mode)
        node.size = node.status.st_size if regular else len(node.data)
        node.block = block
        block += -(-node.size // _BLOCK)
    return block


def _folder(node: _Node) -> bytes:
    """Return a folder's content: blocks of entries, each with its names after them."""
    blocks: list[list[bytes]] = [[]]
    room = _BLOCK
    for name in sorted(node.entries):
        room -= _ENTRY.size + len(name)
        if room < 0:
            blocks.append([])
            room = _BLOCK - _ENTRY.size - len(name)
        blocks[-1].append(name)
    made = [b"".join(_entries(node, names)) for names in blocks]
    return b"".join(block.ljust(_BLOCK, b"\0") for block in made[:-1]) + made[-1]


def _entries(node: _Node, names: list[bytes]) -> Iterator[bytes]:
    at = len(names) * _ENTRY.size
    for name in names:
        entry = node.entries[name]
        yield _ENTRY.pack(entry.nid, at, entry.kind)
        at += len(name)
    yield from names


def _super(nodes: list[_Node], blocks: int) -> bytes:
    bits = _BLOCK.bit_length() - 1
    return _SUPER.pack(
        _MAGIC, 0, 0, bits, 0, nodes[0].nid, len(nodes), 0, 0, blocks, 0, 0, b"", b"", 0, 0, 0, 0
    )  # fmt: skip


def _inode(node: _Node) -> bytes:
    status = node.status
    seconds, nanoseconds = divmod(status.st_mtime_ns, 1_000_000_000)
    own = os.geteuid()
    uid, gid = (0, 0) if own else (status.st_uid, status.st_gid)
    return _INODE.pack(
        _EXTENDED, 0, status.st_mode, 0, node.size, node.block, node.number + 1, uid, gid,
        seconds, nanoseconds, node.links,
    )  # fmt: skip


def _copy(node: _Node, fd: int) -> None:
    source = os.open(node.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.lseek(fd, node.block * _BLOCK, os.SEEK_SET)
        left = node.size
        while left:
            sent = os.sendfile(fd, source, node.size - left, left)
            if not sent:
                raise Unsuitable(f"{node.path!r} has become shorter")
            left -= sent
    finally:
        os.close(source)
