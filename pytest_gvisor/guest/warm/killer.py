"""The killer of all processes that one exec has started.

They are the processes of its session, those with its mark in their environment, and all of their
descendants; or those of a user whom no other exec has, which none of them can leave. Standard
library only; part of the program `init_process`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import namedtuple
from collections.abc import Generator, Iterable

MARK = "PYTEST_GVISOR_EXEC"
"""The environment variable that marks what an exec has started."""

_NO_USER = 2**31 - 2
"""A user id that no process has."""

_PATIENCE = 4.5
"""Seconds. On two processors, the thousands of processes of a fork bomb take one second to end, and
now and then more than two."""

_FREEZES = 20


Process = namedtuple("Process", "parent session zombie")  # noqa: PYI024 -- typing is slow to import
"""The facts on a process in /proc/PID/stat."""


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def table() -> dict[int, Process]:
    """Return all processes but this one."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # As programs/proc.py, which no sandbox is shown: the command may hold spaces and
                # brackets, so the fields start after its last one.
                words = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
                # The state is that of the first thread: others may run on.
                ended = words[0] in b"ZX" and int(words[17]) < 2
                found[int(name)] = Process(int(words[1]), int(words[3]), zombie=ended)
    return found


def _is_marked(pid: int, mark: bytes) -> bool:
    try:
        return mark in _read(f"/proc/{pid}/environ").split(b"\0")
    except OSError:
        return False


def members(processes: dict[int, Process], session: int, mark: bytes) -> set[int]:
    """Return the live processes of a tree.

    ``session`` is 0 if another session may have got its number meanwhile.
    """
    found = {
        pid
        for pid, process in processes.items()
        if (session and session in (pid, process.session)) or _is_marked(pid, mark)
    }
    while True:
        more = {pid for pid, process in processes.items() if process.parent in found} - found
        if not more:
            return {pid for pid in found if not processes[pid].zombie}
        found |= more


def _send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def kill(session: int, mark: bytes) -> Generator[None, None, int]:
    """Kill a tree step by step, until nothing is left, or the time is up.

    Returns how many of its processes the last look found.
    """
    found: set[int] = set()
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        # A stopped process starts no other one, and stays the parent of those that it has started.
        stopped: set[int] = set()
        for _ in range(_FREEZES):
            found = members(table(), session, mark)
            if found <= stopped:
                break
            _send(found - stopped, signal.SIGSTOP)
            stopped |= found
            if time.monotonic() > deadline:
                break
        if not stopped:
            return 0
        # The leader first, because its signal is reported. If another one died first, the leader's
        # stopped process group could become an orphan, and the kernel would send it SIGHUP
        # (_exit(2)).
        _send(sorted(stopped, key=lambda pid: pid != session), signal.SIGKILL)
        yield
    return len(found)


def kill_user(user: int) -> Generator[None, None, int]:
    """Kill all processes of a user step by step, until nothing is left, or the time is up.

    Returns whether the last look found one. One call signals all of them, so that a fork bomb
    cannot start processes faster than they are killed.
    """
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        # kill(2) compares the sender's real and effective id with the receiver's real and saved
        # one. So these ids signal no process of root's, and let the user's signal this one neither.
        os.setresuid(_NO_USER, user, 0)
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return 0
        finally:
            os.setresuid(0, 0, 0)
        yield
    return 1
