"""One sandbox of the keeper's, from the fork to the removal of its remains.

`Run` carries out the requests that come over the run's own socket, and reports the run's state
there. The keeper has the loop that calls its methods, and waits for the children.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_gvisor.programs import child, leftovers, linux, paths
from pytest_gvisor.programs.order import Order, send

if TYPE_CHECKING:
    import socket
    from typing import Protocol

    class Watcher(Protocol):
        """The part of the keeper that a run uses."""

        session: str

        def watch(self, fd: int, act: Callable[[], None]) -> None:
            """Call ``act`` whenever ``fd`` is readable."""

        def unwatch(self, fd: int) -> None:
            """Stop watching ``fd``, if it is watched."""

        def executable(self, fd: int, order: Order) -> int:
            """Return the descriptor to execute for an order that came with ``fd``."""


_FEWEST_FDS = 4
_MOST_NAMED = 1000
EXIT_GRACE = 0.5
DEATH_GRACE = 10.0
"""Seconds until killed processes are reported as leaks: the threads of a fork bomb end one by
one."""

_NOTHING = Order(id="", argv=(), term=(), env={}, folder="", root="")
"""The order of a run whose message could not be read: it names no folder to remove."""


def _check(order: Order, session: str) -> None:
    """Check that an order names only a folder in the session, and cgroups that this package made.

    The keeper may be root. It removes the folder with all of its content, and kills the processes
    that have ``root`` on their command line, and those in the cgroups. Raises ValueError.
    """
    folder, root = order.folder, order.root
    if folder:
        name = os.path.basename(folder)
        if name in {"", ".", ".."} or folder != os.path.join(session, name):
            raise ValueError(f"{folder!r} is no folder of a run in {session}")
        if not paths.below(root, folder) or os.path.normpath(root) != root:
            raise ValueError(f"{root!r} is no state folder in {folder}")
    for cgroup in order.cgroups:
        if not leftovers.is_own_cgroup(cgroup):
            raise ValueError(f"{cgroup!r} is no cgroup of a run")


class State(enum.IntEnum):
    """The part of its life that a run is in: from `LEAVES` on it is being removed."""

    RUNS = enum.auto()
    RELEASED = enum.auto()  # runsc still runs, and its removal begins with its end
    ENDED = enum.auto()  # runsc has ended, and the caller has not released the run yet
    LEAVES = enum.auto()  # gofer and sentry may end without a kill until `due`
    CLEARS = enum.auto()  # they are killed; those that are left when it is due are reported


class Run:
    """One sandbox, from the fork to the removal of its remains."""

    def __init__(self, keeper: Watcher, control: socket.socket) -> None:
        self.keeper = keeper
        self.control = control
        self.order = _NOTHING
        self.executable = -1
        self.report = -1
        self.pid = 0
        self.state = State.RUNS
        self.due = 0.0
        self.killed = False
        self.commands: set[int] = set()
        """Pids of further commands of the same runsc. Until its execve, a command has the keeper's
        command line, so that `leftovers.processes` does not find it."""

        self.saver = 0

    def enter(self, state: State, seconds: float) -> None:
        """Begin a part of the removal that is due in so many seconds."""
        self.state = state
        self.due = time.monotonic() + seconds

    def tell(self, **message: object) -> None:
        """Send one message about this run. A dead caller is no error."""
        send(self.control, **message)

    def start(self, message: bytes, fds: list[int]) -> None:
        """Fork the child that the order describes.

        Its error pipe answers: text for a failed step, the end for execve. Raises OSError, and
        ValueError for a message that is no order for this session; nothing is started then.
        """
        order = Order.from_json(message)
        _check(order, self.keeper.session)
        if len(fds) < _FEWEST_FDS:
            raise ValueError(f"{len(fds)} descriptors came with the order")
        self.order = order
        self.executable = os.dup(fds[0])
        # The child's writer is close-on-exec: the end of an empty pipe says that execve was done.
        self.report, writer = os.pipe2(os.O_CLOEXEC)
        with linux.closing(writer):
            self.keeper.watch(self.report, self.launched)
            me = os.getpid()
            fds = [self.keeper.executable(fds[0], order), *fds[1:]]
            self.pid = os.fork()
            if self.pid == 0:
                child.become(order, fds, parent=me, error_pipe=writer)

    def launched(self) -> None:
        """Read the answer in the error pipe."""
        report = os.read(self.report, 4096).decode("utf-8", "replace")
        self._close_report()
        if report:
            stage, number, detail = report.split(" ", 2)
            self.tell(state="failed", stage=stage, errno=int(number), detail=detail)
        else:
            self.tell(state="spawned", pid=self.pid)

    def _close_report(self) -> None:
        if self.report >= 0:
            self.keeper.unwatch(self.report)
            os.close(self.report)
            self.report = -1

    def fail(self, stage: str, error: Exception) -> None:
        """End this run after an error here, or after an invalid message."""
        number, detail = 0, repr(error)
        if isinstance(error, OSError):
            number, detail = error.errno or 0, error.strerror or detail
        self.tell(state="failed", stage=stage, errno=number, detail=detail[:2000])
        if self.pid == 0 and self.state < State.ENDED:
            self._close_report()
            self.reaped(127 << 8)
        self.kill()

    def on_control(self) -> None:
        """Carry out a request of the caller's about this run."""
        try:
            message = self.control.recv(4096)
        except OSError:
            message = b""
        if not message:
            self.abandon()
            return
        try:
            wish = json.loads(message)
            argv = tuple(map(str, wish.get("argv", ())))
            term = self.order.term
            acts: dict[str, Callable[[], None]] = {
                "term": lambda: self.signal(term),
                "interrupt": lambda: self.signal((*term[:-1], str(int(signal.SIGINT)))),
                "kill": self.kill,
                "release": self.release,
                "save": lambda: self.save(argv),
            }
            act = acts[wish["op"]]
        except Exception as error:  # noqa: BLE001 -- no message ends the keeper
            self.fail("request", error)
        else:
            act()

    def release(self) -> None:
        """Kill the rest and clean up: the caller needs no more."""
        if self.state < State.ENDED:
            self.state = State.RELEASED
            self.kill()
        elif self.state is State.ENDED:
            if self.order.first:
                self.kill()
            self.enter(State.LEAVES, EXIT_GRACE)

    def abandon(self) -> None:
        """Do the same as `release` for a dead caller, without messages."""
        self.keeper.unwatch(self.control.fileno())
        self.release()

    def signal(self, command: tuple[str, ...]) -> None:
        """Have runsc send the workload a signal, if runsc runs. Does not wait."""
        if self.state < State.ENDED and self.pid:
            with contextlib.suppress(OSError):
                # By `runsc kill`: `runsc run` passes a signal on only if it has a terminal.
                self._spawn(command)

    def save(self, argv: tuple[str, ...]) -> None:
        """Have runsc save the sandbox, and report the wait status of that command."""
        with contextlib.suppress(OSError):
            if self.state is State.RUNS and self.pid and not self.saver:
                self.saver = self._spawn(argv)
                return
        self.tell(state="saved", status=127 << 8)

    def command_ended(self, pid: int, status: int) -> None:
        """Take the raw wait ``status`` of a further command."""
        self.commands.remove(pid)
        if pid == self.saver:
            self.saver = 0
            self.tell(state="saved", status=status)

    def kill(self) -> None:
        """Send runsc SIGKILL; gofer and sentry follow by their parent-death signals."""
        if self.state < State.ENDED and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.killed = True
        # This process may be out of descriptors for a moment: `clean` kills the rest.
        with contextlib.suppress(OSError):
            if self.order.first:  # its sandbox is no child of the killed runsc
                leftovers.kill(leftovers.processes(self.order.root), self.order.root)
            leftovers.kill_cgroups(self.order.cgroups)

    def reaped(self, status: int) -> None:
        """Take the raw wait ``status`` of runsc."""
        if self.report >= 0:
            # Both can be ready at once: report the failed step before the end that it caused.
            self.launched()
        released, self.state = self.state is State.RELEASED, State.ENDED
        self.tell(state="exited", status=status)
        if released:
            self.release()

    def clean(self, now: float) -> bool:
        """Take one step of the cleanup; return True when nothing is left to do."""
        late = now > self.due
        if late and self.state is State.LEAVES:
            self.enter(State.CLEARS, DEATH_GRACE)
            late = False
        try:
            leaks = self._step(last=late)
        except OSError as error:  # this process may be out of descriptors for a moment
            leaks = [f"{self.order.folder}: {error}"] if late else None
        if leaks is None:
            return False
        self.tell(state="cleaned", leaks=leaks)
        return True

    def _step(self, *, last: bool) -> list[str] | None:
        """Return the leaks, or None if the cleanup needs more time, and this is not the last."""
        order = self.order
        if not order.folder:
            return []
        left = sorted({*leftovers.processes(order.root), *self.commands})
        if left:
            # The parent-death signal reaches gofer and sentry at once; the rest is killed by pid.
            if self.killed or self.state is State.CLEARS:
                leftovers.kill(left, order.root)
            if not last:
                return None
        # A killed runsc leaves a state file, a socket and null-netns, and so does each
        # `runsc restore`. All three are in the folder. `runsc delete` would remove nothing more:
        # with --ignore-cgroups the cgroups are not runsc's, and the overlay is in memory.
        leaks = leftovers.remove(order.folder, order.cgroups)
        if leaks and not last:
            return None
        # A message on all of a fork bomb would be too long, and a keeper that is silent is killed.
        leaks += [f"process {pid}" for pid in left[:_MOST_NAMED]]
        more = len(left) - _MOST_NAMED
        return [*leaks, f"{more} more processes"] if more > 0 else leaks

    def _spawn(self, argv: tuple[str, ...]) -> int:
        """Start another command of the same runsc, in a child of the same kind; return its pid."""
        with linux.closing(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) as null:
            me = os.getpid()
            pid = os.fork()
            if pid == 0:
                fds = [self.executable, null, null, null]
                child.become(self.order.command(argv), fds, parent=me, error_pipe=null)
            self.commands.add(pid)
            return pid

    def close(self) -> None:
        """Close this run's descriptors."""
        self._close_report()
        self.keeper.unwatch(self.control.fileno())
        self.control.close()
        if self.executable >= 0:
            os.close(self.executable)
