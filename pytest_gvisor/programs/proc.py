"""Readers of /proc: one for each file on processes, mounts or ids (proc(5)).

A process that has ended, or that this user may not look at, has neither a command line nor a state
here. Standard library only, because the keeper runs with ``-I -S``.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_MAX_COMMAND_LINE = 64 * 1024
_OCTAL = re.compile(r"\\([0-7]{3})")


class Stat(NamedTuple):
    """The first fields of /proc/PID/stat."""

    state: str
    """One letter: ``T`` is stopped, ``Z`` a zombie."""

    parent: int


class IdRange(NamedTuple):
    """A line of uid_map: ``size`` ids, from ``inside`` on, that a user namespace may use."""

    inside: int
    outside: int
    size: int


ALL_IDS = (IdRange(inside=0, outside=0, size=2**32 - 1),)
"""The map of the initial user namespace."""


class Mount(NamedTuple):
    """A line of mountinfo."""

    device: str
    """``MAJOR:MINOR``."""

    root: str
    """The folder of the file system that is seen at `point`."""

    point: str
    kind: str
    """The type of the file system."""

    options: str
    """The file system's own options, with commas between them."""


def pids() -> list[int]:
    """All processes, in no order."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def words_of(pid: int) -> list[str]:
    """The arguments of a process, of at most 64 KiB; a zombie has none."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read(_MAX_COMMAND_LINE)
    except OSError:
        return []
    return os.fsdecode(line.removesuffix(b"\0")).split("\0") if line else []


def text_in(path: str, raises: frozenset[int] = frozenset()) -> str:
    """The text of a small file, of at most 1 MiB; ``""`` if it cannot be read.

    Raises `OSError` if the error's number is one of ``raises``.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1024 * 1024)
    except OSError as error:
        if error.errno in raises:
            raise
        return ""


def stat_of(pid: int) -> Stat | None:
    """The state of a process and its parent; None where there is no such process."""
    # The name of the program may hold spaces and brackets: it ends at the last bracket.
    match text_in(f"/proc/{pid}/stat").rpartition(")")[2].split(None, 2):
        case [state, parent, _]:
            return Stat(state=state, parent=int(parent))
    return None


def status_of(pid: int | str = "self", where: str = "/proc") -> dict[str, str]:
    """Return the fields of /proc/PID/status (proc_pid_status(5)). Raises `OSError`."""
    with open(f"{where}/{pid}/status", encoding="ascii", errors="replace") as lines:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def id_map(kind: str = "uid") -> tuple[IdRange, ...]:
    """Return this user namespace's ids: its ``uid`` or ``gid`` map. Raises `OSError`."""
    try:
        with open(f"/proc/self/{kind}_map", encoding="ascii") as lines:
            return tuple(IdRange(*map(int, line.split())) for line in lines)
    except FileNotFoundError:  # a kernel without user namespaces
        return ALL_IDS


def strangers_uid() -> int | None:
    """Return the uid that the kernel shows for owners without a place in this user namespace.

    None if all have one. With a partial map, somebody may have this number too. Raises `OSError`.
    """
    if any(ids.size >= 2**32 - 1 for ids in id_map()):
        return None
    with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
        return int(file.read())


def children_of_self() -> list[int]:
    """The pids whose parent is this process, zombies included."""
    return children_of(os.getpid())


def children_of(parent: int) -> list[int]:
    """The pids whose parent is a thread of the process ``parent``, zombies included."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as children:
                found += map(int, children.read().split())
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN, or a thread that has ended
        return children_by_scan(parent)
    return found


def children_by_scan(parent: int) -> list[int]:
    """The same, found by reading the state of every process."""
    return [pid for pid in pids() if (stat := stat_of(pid)) and stat.parent == parent]


def mounts(path: str = "/proc/self/mountinfo") -> list[Mount]:
    """The mounts of a mountinfo file, in the order in which they were mounted. Raises `OSError`."""
    with open(path, "rb") as file:
        return [_mount(os.fsdecode(line.rstrip(b"\n"))) for line in file]


def _mount(line: str) -> Mount:
    # Before the dash there are any number of optional fields.
    before, _, after = line.partition(" - ")
    _id, _parent, device, root, point, *_ = before.split(" ")
    kind, _source, options = after.split(" ", 2)
    root, point = _unescaped(root), _unescaped(point)
    return Mount(device=device, root=root, point=point, kind=kind, options=options)


def _unescaped(path: str) -> str:
    """A path in which the kernel wrote blank, tab, newline and backslash as octal numbers."""
    return _OCTAL.sub(lambda code: chr(int(code[1], 8)), path) if "\\" in path else path
