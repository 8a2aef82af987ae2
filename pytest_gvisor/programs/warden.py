"""The warden: a small program that owns one command and all of its descendants.

Started by bootstrap.py, in a session of its own. It kills the command and all of its
descendants when the command ends, and at its deadline. It does so, too, when the process that asked
for it is gone, and when standard input closes. Then it writes the command's exit code, or ``late``,
to standard output. It waits until nobody needs the folder any more, and removes it.

If this program is killed, all of the command is killed too. A guard between the two sees this
program's end, and this program sees the guard's.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import NoReturn

from pytest_gvisor.programs import leftovers, linux


def become(argv: list[str], *above: int) -> NoReturn:
    """Execute the command in the child; on failure write a line and exit with status 127.

    ``above`` are pidfds of the process that has forked it, opened before the fork. Where the end of
    that one's own parent is this one's too, its pidfd is among them.
    """
    try:
        linux.set_parent_death_signal(signal.SIGKILL)
        # A parent that ended before the prctl sends nothing.
        if linux.ready(*above, seconds=0):
            os._exit(127)
        linux.reset_signals()
        # Output goes to standard error: the warden's standard output is for its own answer. All
        # else is closed: a session counts as alive while its lock is held, by the warden alone.
        linux.place_descriptors((os.open(os.devnull, os.O_RDONLY), 2, 2))
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error}\n".encode())
    finally:  # a fork of the guard must never run on
        os._exit(127)


def _fork(entry: Callable[..., NoReturn], argv: list[str], *above: int) -> int:
    """Fork; the child continues in ``entry``, with pidfds of this process and of others.

    Returns the child's pid.
    """
    me = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid == 0:
        entry(argv, me, *above)
    return pid


def guard(argv: list[str], parent: int) -> NoReturn:
    """Own the command and its descendants until it ends or the warden is gone; end like it.

    ``parent`` is a pidfd of the warden.
    """
    status: int | None = 127 << 8
    try:
        linux.set_child_subreaper()
        pid = _fork(become, argv, parent)
        # Pipes and the session's lock are the warden's: held here, they would outlive it.
        null = os.open(os.devnull, os.O_RDWR)
        linux.place_descriptors((null, null, null, parent))
        status = wait(pid, 3)
    finally:
        leftovers.kill_children()
        code = os.waitstatus_to_exitcode(signal.SIGKILL if status is None else status)
        if code < 0:
            linux.reset_signals()
            os.kill(os.getpid(), -code)
        os._exit(code if code >= 0 else 127)


def wait(pid: int, *others: int, seconds: float | None = None) -> int | None:
    """Return a child's raw status; None if the time, or the end of another, comes first."""
    child = os.pidfd_open(pid)
    ended = child in linux.ready(child, *others, seconds=seconds)
    return os.waitpid(pid, 0)[1] if ended else None


def main(arguments: list[str]) -> None:
    """Run ``PARENT_PIDFD SECONDS FOLDER COMMAND…``; write ``late`` or the exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, no child could be waited for
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    linux.set_child_subreaper()
    parent, seconds, folder, *command = arguments
    above = (0, int(parent))
    try:
        status = wait(_fork(guard, command), *above, seconds=float(seconds))
        leftovers.kill_children()
        told = "late" if status is None else str(os.waitstatus_to_exitcode(status))
        with contextlib.suppress(OSError):  # the reader may be gone
            os.write(1, told.encode())
            os.close(1)
        linux.ready(*above)
    finally:
        leftovers.kill_children()
        leftovers.remove(folder, ())
