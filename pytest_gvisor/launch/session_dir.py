"""The session folder: where it is, how it is made safely, its journal, and the sweep of dead ones.

Layout::

    /run/pytest-gvisor/            0700, root's; others: $XDG_RUNTIME_DIR or the temporary directory
        .lock                      held while a session is made or swept
        s-XXXXXXXXXXXX/            0700, one a pytest process
            lock                   held (flock) by pytest and its keeper: free means both are dead
            journal                a JSON line for each sandbox, before it is made
            SANDBOX-ID/            bundle/ root/ runtime/ log …
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator

from pytest_gvisor.errors import LaunchError
from pytest_gvisor.launch import remains, stopped
from pytest_gvisor.launch.typed import stage
from pytest_gvisor.places import session_bases

# sun_path holds 108 bytes (unix(7)); below the session come the sandbox's id and a socket's name.
LONGEST_BASE = 48
LOCK_DEADLINE = 20.0
SWEEP_BUDGET = 3.0
_LEAST_PATIENCE = 0.05


def _refuse(path: str, reason: str) -> LaunchError:
    return LaunchError(
        "session_folder",
        f"{path}: {reason}",
        next_step=f"Remove or rename {path}, or set XDG_RUNTIME_DIR or TMPDIR.",
    )


def make_private(path: str) -> None:
    """Make a folder with mode 0700, whatever a test has made of the umask."""
    os.mkdir(path, 0o700)
    os.chmod(path, 0o700)


def open_private(path: str) -> int:
    """A descriptor of the folder ``path``, made 0700 if it is missing and verified by fstat.

    Raises `LaunchError` for a symlink, another owner, or permissions for others.
    """
    with stage("session_folder", f"cannot make {path}"), contextlib.suppress(FileExistsError):
        make_private(path)
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


def base_folder() -> str:
    """The folder that holds this user's sessions: the first candidate that can be used."""
    found = [path for path in map(os.path.realpath, session_bases()) if _usable(path)]
    if not found:
        raise LaunchError(
            "session_folder",
            f"no folder whose path has at most {LONGEST_BASE} bytes of UTF-8",
            next_step="Set XDG_RUNTIME_DIR or TMPDIR to a folder of yours with a short name.",
        )
    return found[0]


def _usable(path: str) -> bool:
    # runsc gets paths in JSON too, which cannot hold a name that is not UTF-8: these have lone
    # surrogates here, which do not encode.
    with contextlib.suppress(UnicodeEncodeError):
        return len(path.encode()) <= LONGEST_BASE
    return False


@contextlib.contextmanager
def _locked(base: str) -> Iterator[None]:
    """Hold the lock of the base folder, which is made and verified."""
    base_fd = open_private(base)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with stage("session_folder", f"cannot lock {base}"):
            lock = _open_lock(".lock", flags, base_fd)
    finally:
        os.close(base_fd)
    try:
        with stage("session_folder", f"cannot lock {base}"):
            _await_lock(lock, base)
        yield
    finally:
        os.close(lock)


def _await_lock(lock: int, base: str) -> None:
    deadline = time.monotonic() + LOCK_DEADLINE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LaunchError(
                    "session_folder",
                    f"another process has held {base}/.lock for {LOCK_DEADLINE:g} s",
                    next_step=f"Find it with: fuser -v {base}/.lock",
                ) from None
            time.sleep(0.005)
        else:
            return


def _open_lock(name: str, flags: int, folder: int | None = None) -> int:
    """A lock file's descriptor; its mode lets its owner open it again, whatever the umask."""
    lock = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        os.fchmod(lock, 0o600)
    except BaseException:
        os.close(lock)
        raise
    return lock


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionDir:
    """One pytest process's folder."""

    path: str
    held: list[int]
    """The descriptor whose flock says that the process is alive, until it is let go of."""

    @property
    def lock(self) -> int:
        """That descriptor; -1 once it is let go of."""
        return self.held[0] if self.held else -1

    @staticmethod
    def choose(base: str | None = None) -> tuple[str, list[str]]:
        """Sweep what dead sessions left under ``base``; the path for a new one, not made yet, and
        the folders that went.

        The keeper is told the path before there is anything at it: from the first moment on there
        is someone to remove it.
        """
        base = base_folder() if base is None else base
        swept = sweep(base)
        return SessionDir.new_path(base), swept

    @staticmethod
    def new_path(base: str) -> str:
        """A path under ``base`` for a new session, at which nothing is."""
        return os.path.join(base, f"s-{secrets.token_hex(6)}")

    @classmethod
    def create(cls, path: str) -> SessionDir:
        """Make the session folder ``path`` and take its lock.

        Raises `LaunchError` where the folder cannot be made or is not safe.
        """
        with _locked(os.path.dirname(path)), stage("session_folder", f"cannot make {path}"):
            make_private(path)
            try:
                lock = _take_lock(path)
            except BaseException:
                os.rmdir(path)
                raise
        return cls(path=path, held=[lock])

    def journal(self, **entry: object) -> None:
        """Append one line to the journal; it is complete on return, or `LaunchError` is raised."""
        # The line feed comes first, so that a line that a full disk cut short spoils no other.
        line = b"\n" + json.dumps(entry).encode()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        with stage("session_folder", f"cannot write the journal of {self.path}"):
            fd = os.open(os.path.join(self.path, remains.JOURNAL), flags, 0o600)
            try:
                os.fchmod(fd, 0o600)
                if os.write(fd, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(fd)

    def remove(self) -> list[str]:
        """Remove the folder, and what may be left of its runs, and let go of the lock.

        Returns what could not be removed, in words; it is left to the next sweep. A second call
        tries that once more.
        """
        leaks = remains.clear_session(self.path) if os.path.isdir(self.path) else []
        # Out of the list first: after a Ctrl-C in between, the number may be another's.
        with contextlib.suppress(IndexError, OSError):  # a test may have closed it
            os.close(self.held.pop())
        return leaks


def _take_lock(session: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = _open_lock(os.path.join(session, remains.LOCK), flags)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _is_dead(session: str) -> bool:
    """Whether nobody holds the session's lock. The caller holds the base's lock."""
    try:
        lock = os.open(
            os.path.join(session, remains.LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        )
    except FileNotFoundError:
        # Made and locked under the base's lock, and the last to go of a session that ends.
        return True
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def sweep(base: str | None = None, *, although_waited: bool = False) -> list[str]:
    """Remove what dead sessions left under ``base``; returns the session folders that went.

    A keeper that is stopped and whose pytest is dead goes on first, and does that itself. What
    cannot be removed holds up this process, and all that wait for the lock, for `SWEEP_BUDGET`
    seconds at most, in which what goes is not counted; the rest is left to the next sweep. Who has
    waited as long as that for the lock, for another's sweep most likely, does not sweep again
    unless ``although_waited``.
    """
    base = base_folder() if base is None else base
    if not os.path.isdir(base):
        return []
    began = time.monotonic()
    with _locked(base), stage("session_folder", f"cannot read {base}"), os.scandir(base) as entries:
        if not although_waited and time.monotonic() - began > SWEEP_BUDGET:
            return []
        found = [entry for entry in entries if _is_session(entry)]
        # In any order, so that it is not always the same ones that are left to the next.
        secrets.SystemRandom().shuffle(found)
        return _swept(base, [entry.path for entry in found])


def dead(base: str) -> list[str]:
    """The session folders under ``base`` that nobody holds, or only a keeper that is stopped and
    whose pytest is dead; none where there is no ``base``.
    """
    if not os.path.isdir(base):
        return []
    with _locked(base), stage("session_folder", f"cannot read {base}"), os.scandir(base) as entries:
        paths = sorted(entry.path for entry in entries if _is_session(entry))
        held = stopped.sessions(base) if paths else []
        return [path for path in paths if path in held or _is_dead(path)]


def _is_session(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith("s-") and entry.is_dir(follow_symlinks=False)


def _swept(base: str, paths: list[str]) -> list[str]:
    """Those of the sessions' folders that were dead, and are gone."""
    gone = []
    budget = SWEEP_BUDGET
    if paths:
        budget -= _wake(base)
    for path in filter(_is_dead, paths):
        # Half of what there is for each: one that is stuck does not use up all of it.
        patience = min(remains.PATIENCE, budget / 2)
        if patience < _LEAST_PATIENCE:
            break
        began = time.monotonic()
        if remains.clear_session(path, patience=patience):
            budget -= time.monotonic() - began
        else:
            gone.append(path)
    return gone


def _wake(base: str) -> float:
    """Have stopped keepers of dead pytests go on until their sessions are dead too.

    The seconds that were waited for nothing.
    """
    began = time.monotonic()
    deadline = began + min(remains.PATIENCE, SWEEP_BUDGET / 2)
    woken = stopped.wake(base)
    while not all(map(_is_dead, woken)):
        if time.monotonic() > deadline:
            return time.monotonic() - began
        time.sleep(0.01)
    return 0.0
