"""The points of the sentry that a trace asks for, and the session that has them sent.

``runsc trace metadata`` lists the points of a binary. An event with a text that is no UTF-8 is not
sent, and no drop is counted: gVisor cannot encode it. So each call whose event has texts is also
asked for by its number. Such a raw event has registers alone, and is always sent. openat2(2) has no
other one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from pytest_gvisor.base.errors import TraceError

_CALLS: Mapping[str, Mapping[str, int]] = {
    "x86_64": {
        "open": 2, "openat": 257, "creat": 85, "openat2": 437, "execve": 59, "execveat": 322,
        "sendto": 44, "sendmsg": 46, "sendmmsg": 307, "socketpair": 53, "recvmsg": 47,
        "recvmmsg": 299, "pidfd_getfd": 438,
        "truncate": 76, "rename": 82, "mkdir": 83, "rmdir": 84, "link": 86, "unlink": 87,
        "symlink": 88, "chmod": 90, "fchmod": 91, "mkdirat": 258, "unlinkat": 263, "renameat": 264,
        "linkat": 265, "symlinkat": 266, "fchmodat": 268, "renameat2": 316,
        "pivot_root": 155, "chroot": 161, "mount": 165, "setns": 308,
        "open_tree": 428, "move_mount": 429, "fsmount": 432,
    },
    "aarch64": {
        "openat": 56, "openat2": 437, "execve": 221, "execveat": 281,
        "sendto": 206, "sendmsg": 211, "sendmmsg": 269, "socketpair": 199, "recvmsg": 212,
        "recvmmsg": 243, "pidfd_getfd": 438,
        "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37, "renameat": 38,
        "truncate": 45, "fchmod": 52, "fchmodat": 53, "renameat2": 276,
        "mount": 40, "pivot_root": 41, "chroot": 51, "setns": 268,
        "open_tree": 428, "move_mount": 429, "fsmount": 432,
    },
}  # fmt: skip
"""The calls that are counted by their numbers, for each machine."""

OPENS = ("open", "openat", "creat", "openat2")
EXECS = ("execve", "execveat")
SENDS = {"sendto": 8, "sendmsg": 7, "sendmmsg": 8}
"""Each with the field of its flags in a raw event."""

RECEIVES = ("recvmsg", "recvmmsg", "pidfd_getfd")
"""The calls by which a process gets a descriptor of another one."""

MOUNTS = ("mount", "pivot_root", "chroot", "setns", "open_tree", "move_mount", "fsmount")
"""The calls after which a file may have another path."""

CHANGES = {*_CALLS["x86_64"]} - {*OPENS, *EXECS, *SENDS, *RECEIVES, *MOUNTS, "socketpair"}
"""The calls that change files without opening them. No event has their paths."""

LISTEN = "syscall/listen/exit"
"""The point that releases before 2026 do not have: there a bind stands for it."""

Known = Mapping[str, Collection[str]]
"""The points of a runsc, each with its fields."""

_LINE = re.compile(
    r"^Name: (\S+), optional fields: \[(.*?)\], context fields: \[(.*?)\]", re.MULTILINE
)
_UNSUPPORTED = re.compile(r'"(\d{1,4})": \{\s*"name": "(\w{1,64})",\s*"support": "Unimpl')
_WHO = ("thread_id", "group_id")


class Point(NamedTuple):
    """A point, and the fields that its events are to have."""

    name: str
    context: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


def parse(metadata: str) -> dict[str, frozenset[str]]:
    """Return the points in the answer of ``runsc trace metadata``, each with its fields."""
    return {
        name: frozenset((*optional.split("|"), *context.split("|")))
        for name, optional, context in _LINE.findall(metadata)
    }


def unsupported(table: str) -> dict[int, str]:
    """Return the calls that the answer of ``runsc help syscalls`` has as unimplemented, by number.

    The answer has a table for each machine: amd64, then arm64.
    """
    tables = table.partition('"arm64"')
    found = _UNSUPPORTED.findall(tables[0 if os.uname().machine == "x86_64" else 2])
    return {int(number): name for number, name in found}


def calls() -> Mapping[str, int]:
    """Return the calls and their numbers on this machine. Raises `TraceError`."""
    machine = os.uname().machine
    if machine not in _CALLS:
        raise TraceError(f"system calls of {machine} cannot be traced")
    return _CALLS[machine]


def changes() -> dict[int, str]:
    """Return the `CHANGES` that this machine has, by number. Raises `TraceError`."""
    return {number: name for name, number in calls().items() if name in CHANGES}


USUAL = (Point("container/start", ("time",)), Point("sentry/task_exit", _WHO))
"""The points of each run: the workload's start, and its end."""


def of_trace(known: Known, version: str) -> list[Point]:
    """Return the points of a traced run, for a runsc that has the points and fields ``known``.

    Raises `TraceError`, which names those that it does not have.
    """
    asked = [*USUAL, *wanted(calls())]
    missing = [
        one.name
        for one in asked
        if not {*one.context, *one.optional} <= {*known.get(one.name, ())} or one.name not in known
    ]
    if missing not in ([], [LISTEN]):
        raise TraceError(
            f"runsc {version} cannot trace: it does not have {', '.join(missing)}",
            next_step="`runsc trace metadata` lists the points of a binary, and their fields.",
        )
    return [one for one in asked if one.name not in missing]


def entered(number: int) -> Point:
    """Return the point of a call's begin, by its number."""
    return Point(f"syscall/sysno/{number}/enter", _WHO)


def wanted(numbers: Mapping[str, int]) -> Iterator[Point]:
    """Yield the points of what a workload does, where its system calls have these numbers."""
    yield Point("sentry/clone", _WHO)
    yield Point("sentry/execve", _WHO)
    # Another thread may send by a socket before the end of the call that makes it is reported.
    for name in (
        "socket/enter", "socket/exit", "connect/enter", "connect/exit", "bind/exit", "listen/exit",
    ):  # fmt: skip
        yield Point(f"syscall/{name}", _WHO)
    yield Point("syscall/close/enter", _WHO, ("fd_path",))
    for name, number in numbers.items():
        # On 2024 the exit of a call by its number says whose it is only where its enter is asked
        # for too. openat2 may be missing, and its exit alone tells of that.
        if name != "openat2":
            yield entered(number)
        if name == "openat2" or name in CHANGES or name in MOUNTS:
            yield Point(f"syscall/sysno/{number}/exit", _WHO)
        # On 2026 the exit of an execve that fails tells of no error.
        end = "enter" if name in EXECS else "exit"
        if name in EXECS or (name in OPENS and name != "openat2"):
            folder = ("fd_path",) if name in ("openat", "execveat") else ()
            environment = ("envv",) if name in EXECS else ()
            yield Point(f"syscall/{name}/{end}", (*_WHO, "cwd"), (*folder, *environment))


def session(endpoint: str, points: Collection[Point] = USUAL, **more: object) -> str:
    """Return the text of the ``--pod-init-config`` file that sends points to ``endpoint``.

    Without ``points`` these are the points of each run.
    """
    asked = [
        {"name": name, "context_fields": context, "optional_fields": optional}
        for name, context, optional in points
    ]
    # A full socket makes the sentry try again, with pauses of up to 10 ms, before it drops what it
    # has to say: a workload may end a thousand processes while this one has no time to listen.
    sinks = [{"name": "remote", "config": {"endpoint": endpoint, "retries": 500}}]
    made = {"name": "Default", "points": asked, "sinks": sinks, **more}
    return json.dumps({"trace_session": made})
