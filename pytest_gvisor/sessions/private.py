"""Private folders, for sessions and images, that no other user can enter, and locks in them.

The folders above such a folder are checked by the rules for runsc (see `trust`). It is made and
opened by the descriptor of the folder above it. A symlink in its own place is refused. After that,
its canonical path can go to other programs: only root and this user can exchange it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

from pytest_gvisor.base.errors import LaunchError, on_error, stage
from pytest_gvisor.base.trust import Node, Trust, follow, way_problems
from pytest_gvisor.programs import clock
from pytest_gvisor.programs.linux import closing
from pytest_gvisor.programs.paths import within

written: set[str] = set()
"""Canonical paths of the host that sandboxes of this process were allowed to write, and those of
missing folders for sessions that they would see."""

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""The flags that open a folder, and no link."""

_PAUSE = 0.01
_STAGE = "session_folder"
_NO_NAME = frozenset({"", ".", ".."})
_NO_FOLDER = frozenset({errno.ELOOP, errno.ENOTDIR})


def make_private(path: str, folder: int | None = None) -> None:
    """Make a folder with mode 0700, whatever umask a test has set."""
    os.mkdir(path, 0o700, dir_fd=folder)
    # Not by its name, which may be that of a link by now, and without a right to read it.
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with closing(os.open(path, flags, dir_fd=folder)) as fd:
        if os.fstat(fd).st_uid == os.geteuid():
            os.chmod(f"/proc/self/fd/{fd}", 0o700)


class Place(NamedTuple):
    """The place of a private folder: ``name`` in the folder of the descriptor ``above``.

    ``path`` is canonical. The folders above it were checked by the rules of ``trust``.
    """

    above: int
    name: str
    path: str
    trust: Trust

    def is_taken(self) -> bool:
        """Whether anything is at the place. Raises `OSError` if this user may not see it."""
        try:
            os.stat(self.name, dir_fd=self.above, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def open(self) -> int:
        """Open the folder, made 0700 if it is missing and verified by fstat.

        Raises `LaunchError` for a symlink, another owner, or permissions for others, and for a
        folder that a sandbox of this process may have written or would see.
        """
        if was_written(self.path):
            raise _refuse(self.path, "a sandbox was allowed to write there, or would see it")
        doing = f"cannot make {self.path}"
        with stage(_STAGE, doing), contextlib.suppress(FileExistsError):
            if not self.is_taken():
                make_private(self.name, self.above)
        try:
            fd = os.open(self.name, FOLDER, dir_fd=self.above)
        except OSError as error:
            why = "is a symlink, or no folder" if error.errno in _NO_FOLDER else "cannot be opened"
            raise _refuse(self.path, why, error.errno or 0) from error
        if problem := self._problem(Node(self.path, fd, os.fstat(fd))):
            os.close(fd)
            raise _refuse(self.path, problem)
        return fd

    def _problem(self, found: Node) -> str:
        if not self.trust.is_own(found):
            return f"owned by uid {found.info.st_uid}, not by uid {self.trust.euid}"
        mode = stat.S_IMODE(found.info.st_mode)
        return f"mode {mode:04o} lets others in" if mode & 0o077 else ""


@contextlib.contextmanager
def place(path: str, *, lenient: bool = False) -> Iterator[Place]:
    """Check the way to the absolute ``path``, and yield the place of its private folder.

    ``lenient`` is that of `Trust`. Raises `LaunchError` if other users could exchange a folder on
    the way, or if the folder above is missing.
    """
    above, name = os.path.split(path.rstrip("/"))
    if not os.path.isabs(above) or name in _NO_NAME:
        raise _refuse(path, "is not the absolute path of a folder below another one")
    with contextlib.ExitStack() as held:
        with stage(_STAGE, f"cannot reach {above}"):
            way = follow(above, held)
            trust = Trust.here(os.geteuid(), lenient=lenient)
        if problems := way_problems(way, trust):
            raise _refuse(path, "; ".join(problems))
        last = way.stack[-1]
        yield Place(above=last.fd, name=name, path=os.path.join(last.path, name), trust=trust)


def temporary() -> str:
    """Return the folder for temporary files, without links.

    Raises `LaunchError` if another user could replace what is made in it.
    """
    with place(os.path.join(os.path.abspath(tempfile.gettempdir()), "any")) as found:
        return os.path.dirname(found.path)


def open_private(path: str, *, lenient: bool = False) -> int:
    """Open the folder ``path`` by `Place.open`. Raises the errors of that and of `place`."""
    with place(path, lenient=lenient) as found:
        return found.open()


def was_written(path: str) -> bool:
    """Whether a sandbox of this process was allowed to write at, above or below ``path``."""
    real = os.path.realpath(path)
    # A copy: other threads begin runs that write.
    return any(within(real, one) or within(one, real) for one in [*written])


def make_above(path: str) -> None:
    """Make the missing folders above the absolute ``path``, each private.

    The folders above these are checked leniently. Raises `LaunchError` as `open_private` does.
    """
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        if not os.path.isabs(above):
            raise _refuse(path, "is not an absolute path")
        make_above(above)
        os.close(open_private(above, lenient=True))


def write(path: str, text: str) -> None:
    """Write a whole file of this user's alone, or nothing. Raises `OSError`."""
    new = f"{path}.{os.urandom(4).hex()}"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with on_error(os.unlink, new):
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.replace(new, path)


def open_lock(path: str, folder: int | None = None) -> int:
    """Open the file of a lock, made if it is missing; no link is followed. Raises `OSError`.

    The kernel releases a lock of flock(2) when the last process that holds it ends. The file's mode
    is 0600, so that its owner can open it again under any umask.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600, dir_fd=folder)
    with on_error(os.close, fd):
        os.fchmod(fd, 0o600)
    return fd


@contextlib.contextmanager
def closing_lock(fd: int) -> Iterator[int]:
    """Yield the descriptor of a lock. At the end of the block the lock is free, if it was taken.

    A close alone would not do: a fork of this process may have a copy of the descriptor.
    """
    with closing(fd):
        try:
            yield fd
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)


def take_lock(fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take the lock of an open file if it is free; return whether it was. Raises another
    `OSError`.
    """
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def take_lock_in(seconds: float, fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take the lock as soon as it is free; False where it is not free within ``seconds``.

    flock(2) itself has no deadline, and a signal that would end its wait is not a library's to set.
    """
    deadline = clock.monotonic() + seconds
    while not take_lock(fd, kind):
        if clock.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)
    return True


def _refuse(path: str, reason: str, number: int = 0) -> LaunchError:
    return LaunchError(
        _STAGE,
        f"{path}: {reason}",
        errno=number,
        next_step=f"Remove or rename {path}, or set XDG_RUNTIME_DIR or TMPDIR.",
    )
