"""The session folder: its place, its lock, its journal, and the sweep of dead ones.

Layout::

    /run/pytest-gvisor/            0700, root's; others: see `places.session_bases`
        .lock                      held while a session is made or swept
        s-XXXXXXXXXXXX/            0700, one a pytest process; held (flock) by it and its keeper
            lock                   held like the folder: both are free if both processes are dead
            journal                a JSON line for each sandbox, before it is made
            SANDBOX-ID/            bundle/ root/ runtime/ log …
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from pytest_gvisor.base.errors import LaunchError, on_error, stage
from pytest_gvisor.base.trust import SHORTAGES, noexec_problem
from pytest_gvisor.programs import clock, leftovers
from pytest_gvisor.programs.linux import closing
from pytest_gvisor.programs.paths import LOCK
from pytest_gvisor.sessions import private, stopped_keepers
from pytest_gvisor.sessions.places import session_bases

# sun_path holds 108 bytes (unix(7)); below the session come the sandbox's id and a socket's name.
LONGEST_BASE = 48
LOCK_DEADLINE = 20.0
SWEEP_BUDGET = 3.0
_LEAST_PATIENCE = 0.05


def choose_base() -> tuple[str, list[str]]:
    """Return the folder for this user's new sessions, and the reasons against better ones.

    It is the first usable candidate, and is made if it is missing. One on a file system that is
    mounted noexec comes last, such as /run on Debian: runsc's gofer is in a user namespace, where
    the kernel does not let it mount a root file system from there again. Raises `LaunchError` where
    there is none, or where this process is short of what it takes to look.
    """
    passed, noexec = [], []
    for candidate in dict.fromkeys(session_bases()):
        try:
            with private.place(candidate) as found:
                _check_length(found.path)
                with closing(found.open()) as fd:
                    problems = noexec_problem(fd)
        except LaunchError as error:
            if error.errno in SHORTAGES:
                raise
            passed.append(error.detail)
        else:
            if not problems:
                return found.path, passed
            noexec.append(found.path)
            passed.append(f"{found.path}: {problems[0]}")
    if noexec:
        return noexec[0], passed
    raise LaunchError(
        "session_folder",
        "\n  ".join(["no folder can hold sessions:", *passed]),
        next_step="Set XDG_RUNTIME_DIR or TMPDIR to a folder of yours with a short name, which "
        "no other user can write to.",
    )


def base_folder() -> str:
    """Return the path of `choose_base`; raises its errors."""
    return choose_base()[0]


def _check_length(path: str) -> None:
    # runsc also gets paths in JSON, which must be UTF-8. Python reads other bytes of a name as lone
    # surrogates, which do not encode.
    with contextlib.suppress(UnicodeEncodeError):
        if len(path.encode()) <= LONGEST_BASE:
            return
    raise LaunchError(
        "session_folder", f"{path}: its path has more than {LONGEST_BASE} bytes, or is not UTF-8"
    )


def base_folders() -> list[str]:
    """Return this user's existing candidates: the one for new sessions, then the others."""
    found = [base_folder()]
    for candidate in session_bases():
        with contextlib.suppress(LaunchError, OSError), private.place(candidate) as other:
            if other.is_taken():
                os.close(other.open())
                found.append(other.path)
    return list(dict.fromkeys(found))


@contextlib.contextmanager
def _locked(base: str, patience: float | None = None) -> Iterator[None]:
    """Hold the lock of the base folder, which is made and verified.

    Raises `LaunchError` where it is not free in ``patience`` seconds (default: `LOCK_DEADLINE`).
    """
    patience = LOCK_DEADLINE if patience is None else patience
    with contextlib.ExitStack() as held:
        with (
            closing(private.open_private(base)) as folder,
            stage("session_folder", f"cannot lock {base}"),
        ):
            lock = held.enter_context(private.closing_lock(private.open_lock(".lock", folder)))
            if not private.take_lock_in(patience, lock):
                raise LaunchError(
                    "session_folder",
                    f"another process has held {base}/.lock for {patience:g} s",
                    next_step=f"Find it with: fuser -v {base}/.lock",
                )
        yield


@dataclass(frozen=True, kw_only=True)
class SessionDir:
    """The folder of one pytest process."""

    path: str
    held: list[int]
    """The descriptors whose flocks say that the process is alive, until they are let go of."""

    user: int = field(default_factory=os.geteuid)
    """The effective uid of the process that has made it."""

    @staticmethod
    def choose(base: str | None = None) -> tuple[str, list[str]]:
        """Sweep; return the path for a new session under ``base``, and the removed folders.

        The keeper gets the path before the folder is made, so that there is a process to remove it
        from the first moment on.
        """
        swept = sweep(base)
        return SessionDir.new_path(base_folder() if base is None else base), swept

    @staticmethod
    def new_path(base: str) -> str:
        """Return an unused path under ``base`` for a new session."""
        return os.path.join(base, f"s-{secrets.token_hex(6)}")

    @classmethod
    def create(cls, path: str) -> SessionDir:
        """Make the session folder ``path`` and take its lock.

        Raises `LaunchError` where the folder cannot be made or is not safe.
        """
        with (
            _locked(os.path.dirname(path)),
            stage("session_folder", f"cannot make {path}"),
        ):
            private.make_private(path)
            with on_error(shutil.rmtree, path, ignore_errors=True):
                return cls(path=path, held=_take_locks(path))

    def journal(self, **entry: object) -> None:
        """Append one line to the journal; it is complete on return, or `LaunchError` is raised."""
        # The line feed comes first, so that a line that a full disk cut short spoils no other.
        line = b"\n" + json.dumps(entry).encode()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        path = os.path.join(self.path, leftovers.JOURNAL)
        with (
            stage("session_folder", f"cannot write the journal of {self.path}"),
            closing(os.open(path, flags, 0o600)) as fd,
        ):
            os.fchmod(fd, 0o600)
            if os.write(fd, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def remove(self) -> list[str]:
        """Remove the folder and the remains of its runs, and release the lock.

        Returns a text for each thing that could not be removed. It is left to the next sweep, and a
        second call tries it once more.
        """
        leaks = leftovers.clear_session(self.path) if os.path.isdir(self.path) else []
        self.release()
        return leaks

    def release(self) -> None:
        """Let go of the locks. A second call does nothing."""
        # Out of the list first: if a Ctrl-C came between the two steps, a second call would close
        # a number that may belong to another file by then.
        while self.held:
            with contextlib.suppress(OSError):  # a test may have closed it
                os.close(self.held.pop())


def _take_locks(session: str) -> list[int]:
    """Lock the session's file, which other machines see on NFS, and its folder.

    systemd-tmpfiles removes old files from /tmp, and leaves a locked folder as it is.
    """
    with contextlib.ExitStack() as on_failure:
        folder = os.open(session, private.FOLDER)
        on_failure.callback(os.close, folder)
        lock = private.open_lock(LOCK, folder)
        on_failure.callback(os.close, lock)
        if not private.take_lock(lock):
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        private.take_lock(folder)  # systemd-tmpfiles itself may hold it for a moment
        on_failure.pop_all()
    return [lock, folder]


def _is_dead(session: str) -> bool:
    """Whether nobody holds a lock of the session. The caller holds the base's lock."""
    try:
        with private.closing_lock(os.open(session, private.FOLDER)) as folder:
            if not private.take_lock(folder):
                return False
        lock = os.open(os.path.join(session, LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        # The file is made under the base's lock, and removed last when a session ends. So a session
        # without it was killed in its first or last moment.
        return True
    except OSError:
        return False
    with contextlib.suppress(OSError), private.closing_lock(lock):
        return private.take_lock(lock)
    return False


def sweep(base: str | None = None, *, waits: bool = False) -> list[str]:
    """Remove the remains of dead sessions under ``base``, or in each folder of this user's.

    Returns the removed session folders. A stopped keeper whose pytest is dead is woken first, and
    removes its session itself.

    A remnant that cannot be removed holds up this process, and each one that waits for the lock. So
    failed removals take `SWEEP_BUDGET` seconds at most together, and the rest is left to the next
    sweep. If another process holds the lock of a base folder, it is most likely sweeping there:
    this sweep leaves the folder out, unless it ``waits``.
    """
    left = SWEEP_BUDGET
    gone: list[str] = []
    for folder in base_folders() if base is None else [base]:
        refused = () if waits else (LaunchError,)
        with contextlib.suppress(*refused), _sessions(folder, None if waits else 0.0) as found:
            # In random order, so that each sweep leaves other ones to the next.
            secrets.SystemRandom().shuffle(found)
            left -= _wake(folder) if found else 0
            for path in filter(_is_dead, found):
                # Half of the remaining seconds, so that a remnant that is stuck leaves some.
                patience = min(leftovers.PATIENCE, left / 2)
                if patience < _LEAST_PATIENCE:
                    break
                began = clock.monotonic()
                if leftovers.clear_session(path, patience=patience):
                    left -= clock.monotonic() - began
                else:
                    gone.append(path)
    return gone


def dead(base: str) -> list[str]:
    """Return the dead session folders under ``base``: held by nobody, or by a stopped keeper.

    The pytest of such a keeper is dead. Without ``base`` there are none.
    """
    with _sessions(base) as paths:
        held = stopped_keepers.sessions(base) if paths else []
        return sorted(path for path in paths if path in held or _is_dead(path))


@contextlib.contextmanager
def _sessions(base: str, patience: float | None = None) -> Iterator[list[str]]:
    """Hold the lock of a base folder that exists, and yield the session folders in it."""
    if not os.path.isdir(base):
        yield []
        return
    with _locked(base, patience), stage("session_folder", f"cannot read {base}"):
        with os.scandir(base) as entries:
            folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        yield [folder.path for folder in folders if folder.name.startswith("s-")]


def _wake(base: str) -> float:
    """Wake stopped keepers of dead pytests, and wait until their sessions are dead too.

    Returns the seconds of a wait in vain; 0 if all of them went.
    """
    began = clock.monotonic()
    deadline = began + min(leftovers.PATIENCE, SWEEP_BUDGET / 2)
    woken = stopped_keepers.wake(base)
    while not all(map(_is_dead, woken)):
        if clock.monotonic() > deadline:
            return clock.monotonic() - began
        time.sleep(0.01)
    return 0.0
