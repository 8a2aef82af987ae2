"""The path to a file or folder, and whether other users could redirect it.

A path is walked by descriptors, one component at a time. So every folder is judged as the very
folder that the next component was then looked up in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_gvisor.base.escape import escape
from pytest_gvisor.programs.paths import SHARED, below, within
from pytest_gvisor.programs.proc import id_map, strangers_uid

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""What says something about this process or machine, and nothing about a file."""

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
MAX_SYMLINKS = 40  # the kernel's MAXSYMLINKS: with one more, open() says ELOOP

_SYSTEM_FOLDERS = ("/usr", "/opt")
_NODE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Node(NamedTuple):
    """A file, folder or symlink that is held open by an O_PATH descriptor."""

    path: str
    fd: int
    info: os.stat_result


class Lookup(NamedTuple):
    """One step of the way: ``entry`` was looked up in ``folder``."""

    folder: Node
    entry: Node


def _open_node(path: str, name: str, folder: int | None, held: contextlib.ExitStack) -> Node:
    # O_PATH touches neither FIFO nor device: nothing blocks, nothing is rewound.
    fd = os.open(name, _NODE, dir_fd=folder)
    held.callback(os.close, fd)
    return Node(path, fd, os.fstat(fd))


class Way(NamedTuple):
    """A walk: ``stack`` is the canonical path, from ``/`` to the file, ``lookups`` each step."""

    stack: list[Node]
    lookups: list[Lookup]


def follow(path: str, held: contextlib.ExitStack, start: Sequence[Node] = ()) -> Way:
    """Follow ``path`` from the folder at the end of ``start``, a canonical path, or ``/``.

    The lookups of symlinks are included. A symlink in a folder that others may write is theirs to
    turn. So the folders of each hop count, and not only those above the canonical path. Raises
    OSError as the kernel's own walk would.
    """
    stack = [*start] or [_open_node("/", "/", None, held)]
    todo = path.split("/")[::-1]
    lookups: list[Lookup] = []
    symlinks = 0
    while todo:
        name, here = todo.pop(), stack[-1]
        if not stat.S_ISDIR(here.info.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), here.path)
        if name in {"", "."}:
            continue
        if name == "..":
            del stack[max(1, len(stack) - 1) :]
            continue
        entry = _open_node(os.path.join(here.path, name), name, here.fd, held)
        lookups.append(Lookup(here, entry))
        if not stat.S_ISLNK(entry.info.st_mode):
            stack.append(entry)
            continue
        symlinks += 1
        if symlinks > MAX_SYMLINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink("", dir_fd=entry.fd)
        if target.startswith("/"):
            del stack[1:]
        todo += target.split("/")[::-1]
    return Way(stack, lookups)


@dataclasses.dataclass(frozen=True)
class Trust:
    """The trusted owners: root, ``euid``, and two exceptions.

    What nobody may write below the folder ``store`` is trusted whoever owns it; ``""`` is no
    folder. ``overflow`` is the uid that the kernel shows for owners without a place in this user
    namespace. None means that an owner of that number is taken at face value. With ``lenient``, a
    folder that others can write counts as if it was sticky. ``package`` is a folder of code that
    this process runs: see `beside`.
    """

    euid: int
    store: str
    overflow: int | None
    lenient: bool = False
    package: Node | None = None

    @classmethod
    def here(cls, euid: int, store: str = "", *, lenient: bool = False) -> Trust:
        """Return the trust of the user ``euid`` in this process's user namespace."""
        return cls(euid, store, _overflow_uid(euid), lenient)

    def beside(self, package: str) -> Trust:
        """Return the trust in a file that was installed with the folder ``package``.

        This process runs code of that folder, a canonical path. So who can write the folder, or one
        above it, controls this process already. The folder's owner is trusted, except by root. Its
        write bits may be those of the file too, for the same group. Raises OSError.
        """
        return dataclasses.replace(self, package=Node(package, -1, os.stat(package)))

    def owns(self, node: Node) -> bool:
        """Whether the owner of ``node`` is trusted with it."""
        uid = node.info.st_uid
        if uid == self.overflow:
            return self._is_system(node) or self.is_own(node)
        return uid in self._owners()

    def is_own(self, node: Node) -> bool:
        """Whether ``node`` is this user's own, and not only of the same number."""
        if node.info.st_uid != self.euid:
            return False
        if self.euid != self.overflow:
            return True
        # Strangers' files show our number here. The kernel knows the owner (O_NOATIME in open(2)).
        flags = os.O_RDONLY | os.O_NOATIME | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            os.close(os.open(f"/proc/self/fd/{node.fd}", flags))
        except OSError as error:
            text_of(error)
            return False
        return True

    def _owners(self) -> tuple[int, ...]:
        package = [self.package.info.st_uid] if self.package and self.euid else []
        return tuple(dict.fromkeys((0, self.euid, *package)))

    def stranger(self, node: Node) -> str:
        """Return the problem of a ``node`` that `owns` refuses: its owner, and the allowed ones."""
        allowed = ", ".join(f"uid {uid}" if uid else "root" for uid in self._owners())
        return f"owned by uid {node.info.st_uid} (allowed: {allowed})"

    def others_write(self, node: Node) -> bool:
        """Whether users may write ``node`` who are not trusted with it, by its mode."""
        bits = node.info.st_mode & WRITABLE_BY_OTHERS
        if self.package and not self.package.info.st_mode & stat.S_ISVTX:
            theirs, mine = self.package.info, node.info
            same = WRITABLE_BY_OTHERS if theirs.st_gid == mine.st_gid else stat.S_IWOTH
            bits &= ~(theirs.st_mode & same)
        return bool(bits)

    def is_above_package(self, folder: Node) -> bool:
        """Whether the package lies below ``folder``."""
        return self.package is not None and below(self.package.path, folder.path)

    def sealed_in_store(self, node: Node) -> bool:
        """Whether ``node`` lies in the store and nobody may write it, whoever owns it."""
        return (
            bool(self.store)
            and below(node.path, self.store)
            and not stat.S_ISLNK(node.info.st_mode)
            and not node.info.st_mode & 0o222
        )

    def _is_system(self, node: Node) -> bool:
        # Under `unshare -r` the real root has no number, and its /usr/bin/runsc shows the overflow
        # uid. So does a file of any other stranger; the system's own folders are where strangers
        # have nothing, and what we could write there (a mount of our own) is not the system's.
        if node.path in SHARED:
            return stat.S_ISDIR(node.info.st_mode)
        roots = [*_SYSTEM_FOLDERS, *filter(None, [self.store])]
        system = any(within(node.path, root) or below(root, node.path) for root in roots)
        return system and not os.access(f"/proc/self/fd/{node.fd}", os.W_OK, effective_ids=True)


def _overflow_uid(euid: int) -> int | None:
    """Return the overflow uid if it can stand for the real root here, else None.

    With the full map, 65534 is a user like any other. With a partial map that gives that number to
    somebody, only that user and the namespace's root can tell the two apart. Root could write a
    mapped user's file and cannot write an unmapped one's.
    """
    overflow = strangers_uid()
    if overflow is None or euid in (0, overflow):
        return overflow
    taken = any(ids.inside <= overflow < ids.inside + ids.size for ids in id_map())
    return None if taken else overflow


def folder_problem(lookup: Lookup, trust: Trust) -> str | None:
    """Return why another user could replace this entry, or None."""
    folder, entry = lookup.folder, lookup.entry
    if trust.sealed_in_store(folder) or trust.is_above_package(folder):
        return None
    mode = stat.S_IMODE(folder.info.st_mode)
    known = f"the folder {escape(folder.path)} (mode {mode:04o}, owner uid {folder.info.st_uid})"
    if not trust.owns(folder):
        return f"{known} on the way to it is neither root's nor uid {trust.euid}'s"
    if not trust.others_write(folder):
        return None
    # In a sticky folder an entry can be replaced by its owner and the folder's only.
    if not mode & stat.S_ISVTX and not trust.lenient:
        return f"{known} on the way to it can be written by others"
    if trust.owns(entry) or trust.sealed_in_store(entry):
        return None
    owner = entry.info.st_uid
    return f"{known} on the way to it can be written by others, and its entry is uid {owner}'s"


def is_strangers(lookup: Lookup) -> bool:
    """Whether an entry is another user's, neither root's nor this one's, where such may put one."""
    mine = Trust.here(os.geteuid())
    return not mine.owns(lookup.entry) and folder_problem(lookup, mine) is not None


def leads_to_strangers(path: str) -> bool:
    """Whether another user has put a part of the way to an existing file into a shared folder.

    ``path`` is absolute. If root runs a project of another user, its folders are that user's.
    Raises `OSError`.
    """
    mine = Trust.here(os.geteuid())
    with contextlib.ExitStack() as held:
        for folder, entry in follow(path, held).lookups:
            is_its = entry.info.st_uid == folder.info.st_uid and not mine.owns(folder)
            if add_problem(folder) and not (is_its or mine.owns(entry)):
                return True
    return False


def is_planted(lookup: Lookup) -> bool:
    """Whether an entry is a link that the kernel would not follow for this user, as in ``/tmp``.

    See protected_symlinks in proc_sys_fs(5). In a user namespace, the owner of ``/tmp`` and a
    stranger have one number.
    """
    is_shared = lookup.folder.info.st_mode & 0o1002 == 0o1002
    return stat.S_ISLNK(lookup.entry.info.st_mode) and is_shared and is_strangers(lookup)


def file_problems(node: Node, folder: Node, trust: Trust) -> Iterator[str]:
    """Yield why the file ``node``, looked up in ``folder``, must not be executed."""
    mode = node.info.st_mode
    # A POSIX ACL that lets others write shows in the group bits: they are its mask.
    if trust.others_write(node):
        yield "its group or others may write it"
    if mode & (stat.S_ISUID | stat.S_ISGID):
        yield "it is set-uid or set-gid"
    sealed = trust.sealed_in_store(node) and trust.sealed_in_store(folder)
    if not sealed and not trust.owns(node):
        yield trust.stranger(node)


def way_problems(way: Way, trust: Trust) -> list[str]:
    """Return why other users could redirect the way to its last folder, or replace files there."""
    found = [folder_problem(lookup, trust) for lookup in way.lookups]
    # What would be looked up in it: an entry whose owner is trusted, as the folder's own is by now.
    last = way.stack[-1]
    found.append(folder_problem(Lookup(last, last), trust))
    return list(dict.fromkeys(filter(None, found)))


def folder_problems(path: str, trust: Trust) -> list[str]:
    """Return why the way to a file of this user's in the folder ``path`` would be refused."""
    with contextlib.ExitStack() as held:
        way = follow(path, held)
        return [*way_problems(way, trust), *noexec_problem(way.stack[-1].fd)]


def noexec_problem(fd: int) -> tuple[str, ...]:
    """Return why no file on the file system of ``fd`` can be executed, or nothing."""
    return ("its file system is mounted noexec",) if os.fstatvfs(fd).f_flag & os.ST_NOEXEC else ()


def add_problem(folder: Node) -> str:
    """Return why other users could add a file to a folder, sticky or not, or ``""``."""
    mode = stat.S_IMODE(folder.info.st_mode)
    if not mode & WRITABLE_BY_OTHERS:
        return ""
    return f"the folder {escape(folder.path)} (mode {mode:04o}) can be written by others"


def text_of(error: OSError) -> str:
    """Return the text of an error that says something about a file; raise any other one."""
    if error.errno in SHORTAGES:
        raise error
    return os.strerror(error.errno or 0)
