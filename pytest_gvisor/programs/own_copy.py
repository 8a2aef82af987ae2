"""A copy of runsc in memory, on huge pages: a run starts seven processes from that file.

Each of them maps it anew, and a page fault of a file on disk maps a few small pages only. The
copy costs its size in memory and some hundred milliseconds, so it is made after several runs, by a
process beside the keeper. It is sealed (memfd_create(2)), so nobody can change it, and it is used
only if it could be executed, and if the file is as it was before it was copied.

Standard library and its siblings only.
"""

from __future__ import annotations

import fcntl
import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING or __package__:
    from pytest_gvisor.programs import child, linux
    from pytest_gvisor.programs.order import Order
else:  # a sibling of the keeper program, whose -I -S leaves the package out of sys.path
    import child
    import linux
    from order import Order

RUNS_BEFORE = 8
"""Runs of a session until the copy is made."""

MAX_SIZE = 64 * 1024 * 1024

_HUGE = 2 * 1024 * 1024
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_SOURCE, _TARGET, _NULL = 3, 4, 5
_TRIAL = ("runsc", "--version")


def identity(fd: int) -> tuple[int, ...]:
    """Return the facts of a file that a change of its content changes. Raises `OSError`."""
    info = os.fstat(fd)
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


class Copy:
    """A copy of one file. `pid` is the process that makes it."""

    def __init__(self, executable: int, order: Order) -> None:
        """Begin to copy the open file ``executable``, for runs like this one. Raises `OSError`."""
        self.ready = False
        self._of = identity(executable)
        if not 0 < self._of[2] <= MAX_SIZE:
            raise OSError(0, "a file of another size")
        self.fd = linux.memfd_create_executable("runsc")
        try:
            me = os.getpid()
            self.pid = os.fork()
            if self.pid == 0:
                _make(executable, self.fd, self._of, parent=me, order=order.command(_TRIAL))
        except BaseException:
            os.close(self.fd)
            raise

    def ended(self, status: int) -> None:
        """Take the wait status of the process: 0 if it made a copy that can be executed."""
        self.ready = status == 0
        if not self.ready:
            os.close(self.fd)

    def instead_of(self, executable: int) -> int:
        """Return the copy's descriptor if it is a copy of this file as it is, else this one's."""
        return self.fd if self.ready and identity(executable) == self._of else executable


def _make(
    source: int, target: int, known: tuple[int, ...], *, parent: int, order: Order
) -> NoReturn:
    """Copy in the child, and execute the copy. No other descriptor of the keeper's stays open."""
    try:
        child.settle(parent)
        null = os.open(os.devnull, os.O_RDWR)
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _NULL + 1) for fd in (source, target, null)]
        for fd, number in zip(high, (_SOURCE, _TARGET, _NULL)):  # noqa: B905 -- equal by its lines
            os.dup2(fd, number, inheritable=False)
        linux.close_from(_NULL + 1)
        fill(_SOURCE, _TARGET, known[2])
        if identity(_SOURCE) == known:
            fds = [_TARGET, _NULL, _NULL, _NULL]
            child.become(order, fds, parent=parent, error_pipe=_NULL, settled=True)
    finally:
        sys.stderr.flush()
        os._exit(127)


def fill(source: int, target: int, size: int) -> None:
    """Copy on huge pages, and seal the copy. Raises `OSError` where the kernel gives none."""
    whole = -(-size // _HUGE) * _HUGE
    os.ftruncate(target, whole)
    with linux.mapped(target, whole, alignment=_HUGE) as (address, memory):
        done = 0
        while done < size:
            count = os.preadv(source, [memory[done:size]], done)
            if not count:
                raise OSError(0, "the file became shorter")
            done += count
        memory.release()
        linux.madvise(address, whole, linux.MADV_COLLAPSE)
    os.ftruncate(target, size)
    fcntl.fcntl(target, fcntl.F_ADD_SEALS, _SEALS)
