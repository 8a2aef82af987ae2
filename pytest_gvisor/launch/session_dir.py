"""The session folder: where it is, how it is made safely, its journal, and the sweep of dead ones.

Layout::

    /run/pytest-gvisor/            0700, root's; others: $XDG_RUNTIME_DIR or the temporary directory
        .lock                      held while a session is made or swept
        s-XXXXXXXX/                0700, one a pytest process
            lock                   held (flock) by pytest and its keeper: free means both are dead
            journal                a JSON line for each sandbox, before it is made
            SANDBOX-ID/            bundle/ root/ runtime/ log …
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator

from pytest_gvisor.errors import LaunchError
from pytest_gvisor.launch import remains

SYSTEM_BASE = "/run/pytest-gvisor"
# sun_path holds 108 bytes (unix(7)); below the session come the sandbox's id and a socket's name.
LONGEST_BASE = 48


def _refuse(path: str, reason: str) -> LaunchError:
    return LaunchError(
        "session_folder",
        f"{path}: {reason}",
        next_step=f"Remove or rename {path}, or set XDG_RUNTIME_DIR or TMPDIR.",
    )


def open_private(path: str) -> int:
    """A descriptor of the folder ``path``, made 0700 if it is missing and verified by fstat.

    Raises `LaunchError` for a symlink, another owner, or permissions for others.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _refuse(path, error.strerror or str(error)) from error
    found = os.fstat(fd)
    problem = None
    if found.st_uid != os.geteuid():
        problem = f"owned by uid {found.st_uid}, not by uid {os.geteuid()}"
    elif stat.S_IMODE(found.st_mode) & 0o077:
        problem = f"mode {stat.S_IMODE(found.st_mode):04o} lets others in"
    if problem:
        os.close(fd)
        raise _refuse(path, problem)
    return fd


def _candidates() -> Iterator[str]:
    if os.geteuid() == 0 and os.stat("/run").st_uid == 0 and os.access("/run", os.W_OK):
        yield SYSTEM_BASE
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if (
        os.path.isabs(runtime)
        and os.path.isdir(runtime)
        and os.stat(runtime).st_uid == os.geteuid()
    ):
        yield os.path.join(runtime, "pytest-gvisor")
    yield os.path.join(tempfile.gettempdir(), f"pytest-gvisor-{os.geteuid()}")
    yield f"/tmp/pytest-gvisor-{os.geteuid()}"


def base_folder() -> str:
    """The folder that holds this user's sessions: the first candidate that is short enough."""
    return next(
        path
        for path in map(os.path.realpath, _candidates())
        if len(os.fsencode(path)) <= LONGEST_BASE
    )


@contextlib.contextmanager
def _locked(base_fd: int) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(".lock", flags, 0o600, dir_fd=base_fd)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionDir:
    """One pytest process's folder. ``lock`` is the descriptor whose flock says that it is alive."""

    path: str
    lock: int

    @classmethod
    def create(cls, base: str | None = None) -> SessionDir:
        """Sweep what dead sessions left, then make a new session folder under ``base``.

        Raises `LaunchError` where the folder cannot be made or is not safe.
        """
        base = base_folder() if base is None else base
        base_fd = open_private(base)
        try:
            with _locked(base_fd):
                sweep_locked(base)
                try:
                    path = tempfile.mkdtemp(prefix="s-", dir=base)
                    lock = _take_lock(path)
                except OSError as error:
                    raise LaunchError(
                        "session_folder",
                        f"cannot make a session under {base}",
                        errno=error.errno or 0,
                    ) from error
        finally:
            os.close(base_fd)
        return cls(path=path, lock=lock)

    def journal(self, **entry: object) -> None:
        """Append one line to the journal; it is complete on return."""
        line = json.dumps(entry).encode() + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(os.path.join(self.path, "journal"), flags, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Remove the folder and let go of the lock; a second call does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self.lock)


def _take_lock(session: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(os.path.join(session, "lock"), flags, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _is_dead(session: str) -> bool:
    """Whether nobody holds the session's lock. The caller holds the base's lock."""
    try:
        lock = os.open(os.path.join(session, "lock"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # made and locked under the base's lock: without a lock file it never lived
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _journal_of(session: str) -> list[dict[str, object]]:
    entries = []
    with (
        contextlib.suppress(OSError),
        open(os.path.join(session, "journal"), encoding="utf-8", errors="replace") as lines,
    ):
        for line in lines:
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    entries.append(entry)
    return entries


def sweep(base: str | None = None) -> list[str]:
    """Remove what dead sessions left under ``base``; returns the session folders that went."""
    base = base_folder() if base is None else base
    if not os.path.isdir(base):
        return []
    base_fd = open_private(base)
    try:
        with _locked(base_fd):
            return sweep_locked(base)
    finally:
        os.close(base_fd)


def sweep_locked(base: str) -> list[str]:
    """`sweep` for a caller that holds the base's lock."""
    swept = []
    for entry in os.scandir(base):
        if (
            entry.name.startswith("s-")
            and entry.is_dir(follow_symlinks=False)
            and _is_dead(entry.path)
        ):
            _sweep_session(entry.path)
            swept.append(entry.path)
    return swept


def _sweep_session(session: str) -> None:
    cgroups: list[str] = []
    for entry in _journal_of(session):
        listed = entry.get("cgroups")
        if isinstance(listed, list):
            # Only a name of our own making is removed, whatever the journal says.
            cgroups += [str(path) for path in listed if is_own_cgroup(str(path))]
    pids = remains.processes(session, everywhere=True)
    remains.kill(pids, session)
    remains.kill_cgroups(cgroups)
    remains.remove(session, cgroups)


def is_own_cgroup(path: str) -> bool:
    """Whether ``path`` is a cgroup folder with a name that only this package makes."""
    return (
        path.startswith("/sys/fs/cgroup/")
        and os.path.normpath(path) == path
        and os.path.basename(path).startswith("pytest-gvisor-")
    )
