"""A copy of runsc in memory, on huge pages, which makes the start of its processes faster.

A run starts seven processes from runsc's file, and each maps it anew. A page fault in a file on
disk maps only a few small pages, and one in a huge page maps 2 MiB. The copy takes its size in
memory and some hundred milliseconds. So the keeper has a child make it, after several runs. It is
sealed (memfd_create(2)), so nobody can change it. It is used only if it could be executed, and if
the file has not changed since before the copy.

A release with sidecars looks for them beside the file that /proc/self/exe names, unless a variable
names their folder. So such a release is copied only if it knows that variable. The sidecars run
from their own files.

Standard library and its siblings only.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import signal
import sys
from typing import NoReturn

from pytest_gvisor.programs import child, linux, proc
from pytest_gvisor.programs.order import Order
from pytest_gvisor.programs.paths import SIDECARS_VARIABLE

RUNS_BEFORE = 8
"""Runs of a session until the copy is made."""

MAX_SIZE = 128 * 1024 * 1024
SHARE_OF_MEMORY = 1 / 16
"""The largest share of the memory that is available to copies."""

_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of the cgroup that a container sees at the top, in versions 2 and 1."""

_HUGE = 2 * 1024 * 1024
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_SOURCE, _TARGET, _NULL = 3, 4, 5
_TRIAL = ("runsc", "--version")


def identity(fd: int) -> tuple[int, ...]:
    """Return the facts of a file that a change of its content changes. Raises `OSError`."""
    info = os.fstat(fd)
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def available() -> int:
    """Return how many bytes of memory may still be used, by this machine or container."""
    lines = proc.text_in("/proc/meminfo").splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    for limit, usage in _LIMITS:
        with contextlib.suppress(ValueError):  # no such cgroup, or ``max``
            found.append(int(proc.text_in(limit)) - int(proc.text_in(usage)))
    return min(found, default=0)


class Copy:
    """A copy of one file. `pid` is the process that makes it."""

    def __init__(self, executable: int, order: Order) -> None:
        """Begin to copy the open file ``executable``, for runs like this one. Raises `OSError`."""
        self.ready = False
        self._of = identity(executable)
        self._is_told = SIDECARS_VARIABLE in order.env
        size = self._of[2]
        if not 0 < size <= min(MAX_SIZE, available() * SHARE_OF_MEMORY):
            raise OSError(0, "a file of another size")
        self.fd = os.memfd_create("runsc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        word = SIDECARS_VARIABLE.encode() if self._is_told else b""
        trial = order.command(_TRIAL)
        try:
            me = os.getpid()
            self.pid = os.fork()
            if self.pid == 0:
                _make(executable, self.fd, self._of, word=word, parent=me, order=trial)
        except OSError:
            os.close(self.fd)
            raise

    def ended(self, status: int) -> None:
        """Take the wait status of the process: 0 if it made a copy that can be executed."""
        self.pid = 0
        self.ready = status == 0
        if not self.ready:
            os.close(self.fd)

    def instead_of(self, executable: int, order: Order) -> int:
        """Return the copy's descriptor if it is a copy of this file as it is, else this one's.

        A copy of a file that need not know `SIDECARS_VARIABLE` is not for a run that sets it.
        """
        same = self.ready and identity(executable) == self._of
        return self.fd if same and self._is_told == (SIDECARS_VARIABLE in order.env) else executable


def _make(
    source: int, target: int, known: tuple[int, ...], *, word: bytes, parent: int, order: Order
) -> NoReturn:
    """Copy a file that contains ``word`` in the child, and execute the copy."""
    try:
        # If the keeper has ended before this call, `child.become` notices.
        linux.set_parent_death_signal(signal.SIGKILL)
        null = os.open(os.devnull, os.O_RDWR)
        # No other descriptor of the keeper's stays open.
        linux.place_descriptors((source, target, null), _SOURCE)
        _fill(_SOURCE, _TARGET, known[2], word)
        if identity(_SOURCE) == known:
            fds = [_TARGET, _NULL, _NULL, _NULL]
            child.become(order, fds, parent=parent, error_pipe=_NULL)
    finally:
        sys.stderr.flush()
        os._exit(127)


def _fill(source: int, target: int, size: int, word: bytes = b"") -> None:
    """Copy a file that contains ``word`` on huge pages, and seal the copy.

    Raises `OSError` for a file without it, and where the kernel gives no huge pages.
    """
    whole = -(-size // _HUGE) * _HUGE
    os.ftruncate(target, whole)
    done = 0
    while done < size:
        count = os.sendfile(target, source, done, size - done)
        if not count:
            raise OSError(0, "the file became shorter")
        done += count
    with mmap.mmap(target, size, prot=mmap.PROT_READ) as content:
        if content.find(word) < 0:
            raise OSError(0, "a release that cannot be told where its sidecars are")
    linux.collapse(target, whole, _HUGE)
    os.ftruncate(target, size)
    fcntl.fcntl(target, fcntl.F_ADD_SEALS, _SEALS)
