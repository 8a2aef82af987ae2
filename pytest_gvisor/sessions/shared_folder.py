"""A folder that several pytest processes of one run share; none of them owns it.

It lies beside the session folders and has a lock like theirs, except that all its users hold it
together: the last one that ends removes the folder. If all are killed, the last of their keepers
does (`Launcher.share`), or else the next session's sweep.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil

from pytest_gvisor.errors import LaunchError, stage
from pytest_gvisor.sessions import private, session_folder


class SharedDir:
    """The folder of the run with this name, made when a process first asks for its path."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._path: str | None = None
        self._lock = -1
        self._owner = -1

    @property
    def lock(self) -> int:
        """The descriptor whose shared flock lets this process use the folder, or -1."""
        return self._lock

    def path(self) -> str:
        """Return the folder's path. Raises `LaunchError` if it cannot be made or is not safe."""
        if self._path is not None and not os.path.lexists(self._path):
            # A cleaner of temporary folders may have taken it: the lock is one of a removed file.
            os.close(self._lock)
            self._path, self._lock = None, -1
        if self._path is None:
            path = self.place()
            with (
                session_folder._locked(os.path.dirname(path)),
                stage("shared_folder", f"cannot make {path}"),
            ):
                with contextlib.suppress(FileExistsError):
                    private.make_private(path)
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._lock = os.open(os.path.join(path, "lock"), flags, 0o600)
                os.fchmod(self._lock, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_SH)
            self._path, self._owner = path, os.getpid()
        return self._path

    def close(self) -> list[str]:
        """Release the folder, and remove it if nobody else uses it.

        A second call does nothing, nor does a call in a fork of the process that asked for the
        folder.

        Returns what could not be removed, in words.
        """
        # A flock belongs to the open file, which a fork has in common with its parent.
        if self._path is None or self._owner != os.getpid():
            return []
        path, self._path = self._path, None
        try:
            if os.path.lexists(path):  # a cleaner may have taken it, and all above it
                with session_folder._locked(os.path.dirname(path)):
                    self._remove(path)
        except LaunchError as error:
            return [f"{path}: {error}"]
        finally:
            os.close(self._lock)
            self._lock = -1
        return []

    def _remove(self, path: str) -> None:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)

    def place(self) -> str:
        """Return the folder's path, whether the folder exists or not."""
        return os.path.join(session_folder.base_folder(), f"s-run-{self._name}")
