"""A copy of runsc in memory, on huge pages: a run starts seven processes from that file.

Each of them maps it anew. A page fault of a file on disk maps a few small pages only. The copy
costs its size in memory and some hundred milliseconds. So a process beside the keeper makes it
after several runs. It is sealed (memfd_create(2)), so nobody can change it. It is used only if it
could be executed, and if the file has not changed since before the copy.

A release with sidecars looks for them beside the file that /proc/self/exe names, unless a variable
names their folder. So it is copied if it knows that variable. If its sentry has the same bytes,
as in a build from source, the copy serves for the sentry too.

Standard library and its siblings only.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import resource
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

if TYPE_CHECKING or __package__:
    from pytest_gvisor.programs import child, linux
    from pytest_gvisor.programs.order import Order
else:  # a sibling of the keeper program, whose -I -S leaves the package out of sys.path
    import child
    import linux
    from order import Order

RUNS_BEFORE = 8
"""Runs of a session until the copy is made."""

MAX_SIZE = 128 * 1024 * 1024
SHARE_OF_MEMORY = 1 / 16
"""The largest share of the memory that is available to copies."""

SENTRY = "gvisor_sentry"
PREWARMER = "gvisor-sentry-prewarmer"
"""Reads the sentry's file before it executes it; a link to a descriptor is no such file."""

VARIABLE = b"GVISOR_SIDECAR_BINARIES_DIR"
LINKS = "sidecars"
"""The folder in the session's that has a link to the copy, and to each other sidecar."""

_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of the cgroup that a container sees at the top, in versions 2 and 1."""

_HUGE = 2 * 1024 * 1024
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_SOURCE, _TARGET, _NULL = 3, 4, 5
_PIECE = 1024 * 1024
_TRIAL = ("runsc", "--version")


def identity(fd: int) -> tuple[int, ...]:
    """Return the facts of a file that a change of its content changes. Raises `OSError`."""
    info = os.fstat(fd)
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def available() -> int:
    """Return how many bytes of memory may still be used, by this machine or container."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    for limit, usage in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such cgroup, or ``max``
            found.append(_number(limit) - _number(usage))
    return min(found, default=0)


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())


class Copy:
    """A copy of one file. `pid` is the process that makes it, or that compares the sentry."""

    def __init__(self, executable: int, order: Order, session: str) -> None:
        """Begin to copy the open file ``executable``, for runs like this one. Raises `OSError`."""
        self.ready = False
        self.pid = 0
        self.fd = -1
        self._of = identity(executable)
        self._sidecars = order.sidecars
        self._sentry: tuple[int, ...] = ()
        self._links = os.path.join(session, LINKS)
        self._shares = False
        size = self._of[2]
        if not 0 < size <= min(MAX_SIZE, available() * SHARE_OF_MEMORY):
            raise OSError(0, "a file of another size")
        self.fd = linux.memfd_create_executable("runsc")
        word = VARIABLE if order.sidecars else b""
        trial = order.command(_TRIAL)
        try:
            me = os.getpid()
            self.pid = os.fork()
            if self.pid == 0:
                _make(executable, self.fd, self._of, word=word, parent=me, order=trial)
        except BaseException:
            os.close(self.fd)
            raise

    def ended(self, status: int) -> None:
        """Take the wait status of the process: 0 if it made a copy that can be executed."""
        self.pid = 0
        if self.ready:
            self._shares = status == 0
            return
        self.ready = status == 0
        if not self.ready:
            os.close(self.fd)
        elif self._sidecars:
            with contextlib.suppress(OSError):
                self._compare()

    def _compare(self) -> None:
        """Begin to compare the sentry with the copy, if it may be executed from that."""
        names = os.listdir(self._sidecars)
        if SENTRY not in names or PREWARMER in names:
            return
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= child.LINKS_FD:
            return
        sentry = os.open(os.path.join(self._sidecars, SENTRY), os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._sentry = identity(sentry)
            if self._sentry[2] != self._of[2]:
                return
            os.mkdir(self._links)
            os.chmod(self._links, 0o755)
            for name in names:
                there = os.path.join(self._sidecars, name)
                target = f"/proc/self/fd/{child.SENTRY_FD}" if name == SENTRY else there
                os.symlink(target, os.path.join(self._links, name))
            me = os.getpid()
            self.pid = os.fork()
            if self.pid == 0:
                _equal(sentry, self.fd, self._sentry, parent=me)
        finally:
            os.close(sentry)

    def instead_of(self, executable: int, order: Order) -> tuple[int, Order]:
        """Return the copy's descriptor if it is a copy of this file as it is, else this one's.

        The order comes back with the folder of sidecars, which the copy does not find by itself.
        """
        if not self.ready or identity(executable) != self._of or order.sidecars != self._sidecars:
            return executable, order
        if not order.sidecars:
            return self.fd, order
        shares = self._shares and self._same_sentry()
        folder = f"/proc/self/fd/{child.LINKS_FD}" if shares else order.sidecars
        env = {**order.env, VARIABLE.decode(): folder}
        return self.fd, order._replace(env=env, links=self._links if shares else "")

    def _same_sentry(self) -> bool:
        path = os.path.join(self._sidecars, SENTRY)
        try:
            sentry = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return identity(sentry) == self._sentry
        finally:
            os.close(sentry)


def _settle(source: int, target: int, parent: int) -> None:
    """Keep these two descriptors and one of nothing in the child, and no other of the keeper's."""
    child.settle(parent)
    null = os.open(os.devnull, os.O_RDWR)
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _NULL + 1) for fd in (source, target, null)]
    for fd, number in zip(high, (_SOURCE, _TARGET, _NULL)):  # noqa: B905 -- equal by its lines
        os.dup2(fd, number, inheritable=False)
    linux.close_from(_NULL + 1)


def _make(
    source: int, target: int, known: tuple[int, ...], *, word: bytes, parent: int, order: Order
) -> NoReturn:
    """Copy a file that contains ``word`` in the child, and execute the copy."""
    try:
        _settle(source, target, parent)
        _fill(_SOURCE, _TARGET, known[2], word)
        if identity(_SOURCE) == known:
            fds = [_TARGET, _NULL, _NULL, _NULL]
            child.become(order, fds, parent=parent, error_pipe=_NULL, settled=True)
    finally:
        sys.stderr.flush()
        os._exit(127)


def _equal(sentry: int, copy: int, known: tuple[int, ...], *, parent: int) -> NoReturn:
    """Compare in the child; end with status 0 if both files have the same bytes."""
    status = 1
    try:
        _settle(sentry, copy, parent)
        done = 0
        while done < known[2]:
            piece = os.pread(_SOURCE, _PIECE, done)
            if not piece or piece != os.pread(_TARGET, len(piece), done):
                break
            done += len(piece)
        else:
            status = int(identity(_SOURCE) != known)
    finally:
        sys.stderr.flush()
        os._exit(status)


def _fill(source: int, target: int, size: int, word: bytes = b"") -> None:
    """Copy a file that contains ``word`` on huge pages, and seal the copy.

    Raises `OSError` for a file without it, and where the kernel gives no huge pages.
    """
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
        with mmap.mmap(target, size, prot=mmap.PROT_READ) as content:
            if content.find(word) < 0:
                raise OSError(0, "a release that cannot be told where its sidecars are")
        linux.madvise(address, whole, linux.MADV_COLLAPSE)
    os.ftruncate(target, size)
    fcntl.fcntl(target, fcntl.F_ADD_SEALS, _SEALS)
