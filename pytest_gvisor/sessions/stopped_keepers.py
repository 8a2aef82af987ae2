"""Stopped keepers whose pytest has died since: found and woken.

A stopped process handles no event, so a stopped keeper does not see its pytest's end. It holds the
session's lock, so that no sweep takes the session for dead. It still exists, so that the kernel
sends its sandboxes no parent-death signal, and they run on past their deadlines. After SIGCONT it
removes its session. A keeper whose pytest exists is not touched: a user may have stopped both. All
of this holds for the warden of a VM too.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from pytest_gvisor.programs import proc
from pytest_gvisor.programs.linux import closing, ready
from pytest_gvisor.programs.paths import KEEPER


def sessions(base: str) -> list[str]:
    """Return the session folders under ``base`` of such keepers; one may not be made yet."""
    return [path for path, _pidfd in _stopped(base)]


def wake(base: str) -> list[str]:
    """Wake them without waiting for their work; return their session folders."""
    woken = []
    for path, pidfd in _stopped(base):
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            woken.append(path)
    return woken


def _stopped(base: str) -> Iterator[tuple[str, int]]:
    """Yield session folder and pidfd of each; the next one closes the descriptor."""
    for pid in proc.pids():
        with contextlib.suppress(OSError):
            if _keeps(pid, base) is None:
                continue
            with closing(os.pidfd_open(pid)) as pidfd:
                # Asked again: before the descriptor was open, the pid may have changed hands.
                found = _keeps(pid, base)
                stat = proc.stat_of(pid)
                if found and stat and stat.state == "T" and _is_gone(pid, found[1]):
                    yield found[0], pidfd


def _keeps(pid: int, base: str) -> tuple[str, str] | None:
    """Return session folder and number of pytest's pidfd, if this is a keeper of this user's.

    Both are in its command line: see `launcher.Keeper`, and `drive.run` for a VM's warden.
    """
    # All four ids: the effective one alone, a set-uid program gives to anybody. They come first, as
    # another user can have a reader of the command line wait for ever: see leftovers.py.
    if {*proc.status_of(pid)["Uid"].split()} != {str(os.geteuid())}:
        return None
    match proc.words_of(pid):
        case [_, "-I", "-S", _, program, _, pidfd, session]:
            expected = KEEPER
        case [_, "-I", "-S", _, program, pidfd, _, session, _, *_]:
            expected = "warden.py"
        case _:
            return None
    if (
        os.path.basename(program) == expected
        and pidfd.isdecimal()
        and os.path.dirname(session) == base
    ):
        return session, pidfd
    return None


def _is_gone(keeper: int, pidfd: str) -> bool:
    """Whether the process of this pidfd of the keeper has ended.

    The kernel tells its pid, which is -1 when it was waited for, and 0 in another pid namespace. If
    another process has the pid by the time that it is looked at, pytest has ended too. So a wrong
    answer can only be False.
    """
    with open(f"/proc/{keeper}/fdinfo/{pidfd}", encoding="ascii") as lines:
        pids = [int(line.removeprefix("Pid:")) for line in lines if line.startswith("Pid:")]
    if pids in ([], [0]):
        return False
    if pids == [-1]:
        return True
    try:
        pytest = os.pidfd_open(pids[0])
    except ProcessLookupError:
        return True
    with closing(pytest):
        return bool(ready(pytest, seconds=0))
