"""The client of the keeper: starts it, and hands over a run with its descriptors."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

from pytest_gvisor import programs
from pytest_gvisor.base.errors import LaunchError, ProtocolError, UsageError, on_error, stage
from pytest_gvisor.guest.wire.checked_json import loads
from pytest_gvisor.programs import clock
from pytest_gvisor.programs.linux import closing
from pytest_gvisor.programs.order import Order, send
from pytest_gvisor.programs.paths import ENVIRONMENT, KEEPER, command
from pytest_gvisor.sessions.session_folder import SessionDir
from pytest_gvisor.sessions.starts import Starts

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(programs.__file__)), KEEPER)
_START_DEADLINE = 10.0
_STOP_DEADLINE = 8.0
_MAX_MESSAGE = 64 * 1024


class Control:
    """The socket of one run: requests to the keeper, and its messages."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._socket.fileno()

    def ask(self, wish: str, argv: Sequence[str] = ()) -> None:
        """Ask for ``term``, ``interrupt``, ``kill`` or ``release``; `read` notices a dead keeper.

        ``save`` is for another command of the same runsc, whose end the keeper reports.
        """
        send(self._socket, op=wish, argv=argv)

    def wait(self, deadline: float) -> bool:
        """Wait until there is something to `read`; False at the deadline."""
        with stage("keeper", "cannot wait for it"), selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            return bool(selector.select(max(0.0, deadline - clock.monotonic())))

    def read(self) -> dict[str, object]:
        """Read the next message. Raises `ProtocolError` when the keeper is gone."""
        try:
            message = self._socket.recv(_MAX_MESSAGE)
        except OSError as error:
            raise ProtocolError(f"the keeper cannot be heard: {error}") from error
        if not message:
            raise ProtocolError(
                "the keeper died, and the kernel has killed its sandboxes with it",
                next_step="The next run starts a new keeper.",
            )
        try:
            decoded = loads(message)
        except ValueError:
            decoded = None
        if not isinstance(decoded, dict):
            raise ProtocolError(f"the keeper's message is not an object: {message[:200]!r}")
        return decoded

    def close(self) -> None:
        """Close the socket, which makes the keeper end the run if it has not ended."""
        self._socket.close()


class Keeper:
    """One keeper process, made at the first run and shared by this process's threads.

    ``session`` is the path of the session folder, which is made after the keeper has started.
    """

    def __init__(self, session: str) -> None:
        self.session = session
        with stage("keeper", "socketpair was refused"):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with on_error(ours.close), theirs:
            with stage("keeper", "pidfd_open was refused"):
                pidfd = os.pidfd_open(os.getpid())
            # One errno stands for all calls of Python in the child before it is the keeper.
            doing = f"fork, setsid or execve of {sys.executable} was refused"
            with closing(pidfd), stage("keeper", doing):
                self._process = subprocess.Popen(
                    command(_PROGRAM, theirs.fileno(), pidfd, session),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=ENVIRONMENT,
                    pass_fds=(theirs.fileno(), pidfd),
                    start_new_session=True,
                    cwd="/",
                )
        self._socket = ours
        self._ready = False

    def await_ready(self) -> None:
        """Wait until it has come up. Raises `LaunchError` where it has not."""
        if self._ready:
            return
        with on_error(self.kill):
            message = self._first_message()
            if message != "ready":
                refused = re.fullmatch(r"(\d{1,4}) (.+)", message)
                number, reason = (int(refused[1]), refused[2]) if refused else (0, message)
                detail = f"{sys.executable} -I -S {_PROGRAM} did not come up ({reason})"
                raise LaunchError("keeper", detail, errno=number)
        self._ready = True

    def _first_message(self) -> str:
        """Return ``ready``, or the reason why the keeper does not say so."""
        self._socket.settimeout(_START_DEADLINE)
        try:
            try:
                message = self._socket.recv(4096)
            except ConnectionResetError:
                # The keeper ended and left a message of ours unread. The kernel reports that once,
                # and hands out the keeper's own message at the next call.
                message = self._socket.recv(4096)
        except OSError as error:
            return str(error)
        return message.decode("utf-8", "replace") or "it ended"

    @property
    def pid(self) -> int:
        """The keeper's process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the keeper still runs."""
        return self._process.poll() is None

    def launch(self, order: Order, fds: Sequence[int]) -> Control:
        """Hand over one run; ``fds`` are the executable, three streams, and cgroups to join.

        Raises `LaunchError` where the keeper cannot be reached.
        """
        with stage("keeper", "the request cannot be sent"):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with on_error(ours.close), theirs:
                socket.send_fds(self._socket, [order.to_json()], [theirs.fileno(), *fds])
        return Control(ours)

    def hold(self, fds: Sequence[int]) -> None:
        """Have the keeper hold descriptors open until it ends.

        Does nothing if the keeper has ended: `await_ready` raises the reason.
        """
        ended = contextlib.suppress(BrokenPipeError, ConnectionResetError)
        with stage("keeper", "a descriptor cannot be sent"), ended:
            socket.send_fds(self._socket, [b"hold"], fds)

    def close(self) -> None:
        """End the keeper, which kills and removes everything that it still owns; bounded."""
        # A fork of this process may hold the socket too, so its end would not come by a close here.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        try:
            self._process.wait(_STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL a keeper that does not answer; the kernel kills each runsc of its with it."""
        # The socket last: at its end, a keeper that is only slow would begin to clean up.
        try:
            self._process.kill()
            self._process.wait()
        finally:
            self._socket.close()


class Launcher:
    """The session folder and the keeper of this process, made when they are first needed."""

    def __init__(self, base: str | None = None) -> None:
        self._base = base
        self._guard = threading.Lock()
        self._session: SessionDir | None = None
        self._keeper: Keeper | None = None
        self._lost: list[tuple[Keeper | None, SessionDir]] = []
        self._owner = os.getpid()
        self.starts = Starts()
        self.over = False
        """Whether no session is to be made any more."""

        self.swept = 0
        """The number of dead sessions that were removed when the session was made."""

        self.left = 0
        """The number of files and processes of runs that could not be removed. `close` returns
        those of the session."""

    def check_open(self) -> None:
        """Raise `UsageError` if no session is to be made any more."""
        if self.over:
            raise UsageError("this session is closed: nothing is started any more")

    def session(self) -> SessionDir:
        """Return the session folder. Raises `LaunchError` if it cannot be made."""
        return self._ensure()[1]

    def keeper(self) -> Keeper:
        """Return the keeper; start a new one if it has died. Raises `LaunchError`."""
        keeper = self._ensure()[0]
        with self._guard:
            keeper.await_ready()
        return keeper

    def _ensure(self) -> tuple[Keeper, SessionDir]:
        # Before the lock is taken: a fork has a copy of it, which stays held for ever if another
        # thread had it at the fork.
        # For another user the session only seems to be gone, and root would go on in that user's.
        if self._owner != os.getpid() or (self._session and self._session.user != os.geteuid()):
            raise LaunchError(
                "fork", "this process is a fork of the one that made the session, or another user",
                next_step="Use gvisor in the process that pytest started, by the same user.",
            )  # fmt: skip
        with self._guard:
            self.check_open()
            # At a user's last logout, systemd removes XDG_RUNTIME_DIR. Sandboxes run on without it.
            if self._session is not None and not os.path.isdir(self._session.path):
                self._lost.append((self._keeper, self._session))
                self._keeper = self._session = None
            keeper, session = self._keeper, self._session
            if keeper is not None and session is not None and keeper.alive():
                return keeper, session
            self._close_keeper()
            if session is None:
                path, swept = SessionDir.choose(self._base)
                self.swept += len(swept)
            else:
                path = session.path
            with contextlib.ExitStack() as on_failure:
                keeper = Keeper(path)
                on_failure.callback(keeper.close)
                if session is None:
                    session = SessionDir.create(keeper.session)
                    on_failure.callback(session.remove)
                keeper.hold(session.held)
                on_failure.pop_all()
            self._keeper, self._session = keeper, session
            return keeper, session

    def _close_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
        self._keeper = None

    def close(self) -> list[str]:
        """End the keeper and remove the session folder. A second call does nothing.

        Returns the files and processes that could not be removed, as texts.
        """
        if self._owner != os.getpid():
            return []
        with self._guard:
            self._close_keeper()
            leaks = [] if self._session is None else self._session.remove()
            self._session = None
            while self._lost:
                self._keeper, lost = self._lost.pop()
                self._close_keeper()
                lost.remove()
            return leaks
