"""This process's end of the keeper: starting it, and handing it a run with its descriptors."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from pytest_gvisor.errors import LaunchError, ProtocolError
from pytest_gvisor.launch.session_dir import SessionDir

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "keeper.py")
_START_DEADLINE = 10.0
_STOP_DEADLINE = 8.0
_MAX_MESSAGE = 64 * 1024


class Control:
    """The socket of one run: what is asked of it, and what the keeper says of it."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._socket.fileno()

    def ask(self, wish: str) -> None:
        """Ask for ``term``, ``kill`` or ``release``; a keeper that is gone is seen by `read`."""
        with contextlib.suppress(OSError):
            self._socket.send(json.dumps({"op": wish}).encode())

    def read(self) -> dict[str, object]:
        """The next message. Raises `ProtocolError` when the keeper is gone."""
        try:
            message = self._socket.recv(_MAX_MESSAGE)
        except OSError as error:
            raise ProtocolError(f"the keeper cannot be heard: {error}") from error
        if not message:
            raise ProtocolError(
                "the keeper died; the kernel has killed its sandboxes with it",
                next_step="The next run starts a new keeper; what this one left is swept later.",
            )
        decoded = json.loads(message)
        if not isinstance(decoded, dict):
            raise ProtocolError(f"not an object: {message[:200]!r}")
        return decoded

    def close(self) -> None:
        """Close the socket: for the keeper that ends the run, if it has not ended."""
        self._socket.close()


class Keeper:
    """One keeper process. Made at the first run, used by every thread of this process."""

    def __init__(self, session: SessionDir) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pidfd = os.pidfd_open(os.getpid())
        try:
            with theirs:
                self._process = self._spawn(theirs.fileno(), pidfd, session)
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(pidfd)
        self._socket = ours
        self._await_ready()

    @staticmethod
    def _spawn(main: int, pidfd: int, session: SessionDir) -> subprocess.Popen[bytes]:
        # -I -S: no site-packages, no user site, no environment: 10 ms instead of 30, and nothing
        # that a project put on sys.path can run in the process that starts every sandbox.
        # fmt: off
        argv = [sys.executable, "-I", "-S", _PROGRAM, str(main), str(pidfd), session.path]
        # fmt: on
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            pass_fds=(main, pidfd, session.lock),
            start_new_session=True,
            cwd="/",
        )

    def _await_ready(self) -> None:
        self._socket.settimeout(_START_DEADLINE)
        try:
            ready = self._socket.recv(64)
        except OSError as error:
            ready = b""
            reason = str(error)
        else:
            reason = f"exit status {self._process.wait()}" if not ready else ""
        if ready != b"ready":
            self.close()
            raise LaunchError(
                "keeper", f"{sys.executable} -I -S {_PROGRAM} did not come up ({reason})"
            )

    @property
    def pid(self) -> int:
        """The keeper's process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the keeper still runs."""
        return self._process.poll() is None

    def launch(self, request: Mapping[str, object], fds: Sequence[int]) -> Control:
        """Hand over one run; ``fds`` are the executable, three streams, and cgroups to join.

        Raises `LaunchError` where the keeper cannot be reached.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                message = json.dumps(request).encode()
                socket.send_fds(self._socket, [message], [theirs.fileno(), *fds])
        except OSError as error:
            ours.close()
            raise LaunchError(
                "keeper", "the request cannot be sent", errno=error.errno or 0
            ) from error
        return Control(ours)

    def close(self) -> None:
        """End the keeper, which kills and removes whatever it still owns; bounded."""
        self._socket.close()
        try:
            self._process.wait(_STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Launcher:
    """The session folder and the keeper of this process, made when they are first needed."""

    def __init__(self, base: str | None = None) -> None:
        self._base = base
        self._guard = threading.Lock()
        self._session: SessionDir | None = None
        self._keeper: Keeper | None = None
        self._owner = os.getpid()

    def session(self) -> SessionDir:
        """The session folder. Raises `LaunchError` where it cannot be made."""
        with self._guard:
            return self._ensure_session()

    def _ensure_session(self) -> SessionDir:
        if self._owner != os.getpid():
            raise LaunchError(
                "fork", "this process is a fork of the one that made the session",
                next_step="Use gvisor in the process that pytest started, not in a fork of it.",
            )  # fmt: skip
        if self._session is None:
            self._session = SessionDir.create(self._base)
        return self._session

    def keeper(self) -> Keeper:
        """The keeper, started again if it has died. Raises `LaunchError` where it cannot start."""
        with self._guard:
            session = self._ensure_session()
            if self._keeper is not None and not self._keeper.alive():
                self._keeper.close()
                self._keeper = None
            if self._keeper is None:
                os.makedirs(session.path, 0o700, exist_ok=True)
                self._keeper = Keeper(session)
            return self._keeper

    def close(self) -> None:
        """End the keeper and remove the session folder; a second call does nothing."""
        with self._guard:
            if self._owner != os.getpid():
                return
            if self._keeper is not None:
                self._keeper.close()
                self._keeper = None
            if self._session is not None:
                self._session.remove()
                self._session = None
