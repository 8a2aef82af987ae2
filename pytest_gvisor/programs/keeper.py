"""The keeper: one small single-threaded program that owns every sandbox of one pytest process.

It forks, reaps (as child subreaper), kills, and removes what a run made. Started as
``python -I -S keeper.py``, it imports the standard library and its siblings only, sits in a
session of its own, and ignores the terminal's signals, so it outlives pytest's death by any
signal for as long as it takes to leave nothing behind.

An order comes over the main socket with the descriptors of one run; everything that is said about
that run goes over a socket of the run's own. When that socket closes, the caller is gone and the
run is killed. When the main socket closes or pytest's pidfd becomes readable, pytest is gone.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from pytest_gvisor.programs import child, leftovers, linux
    from pytest_gvisor.programs.order import Order
else:
    # -I leaves the script's folder out of sys.path; -S leaves site-packages out.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import child
    import leftovers
    import linux
    from order import Order

MAX_MESSAGE = 128 * 1024
MAX_FDS = 16
_FEWEST_FDS = 4
EXIT_GRACE = 0.5
DELETE_DEADLINE = 3.0
DELETE_TRIES = 3

_NOTHING = Order(id="", argv=(), term=(), delete=(), env={}, folder="", root="")
"""The order of a run whose message could not be read: there is nothing to remove."""


class State(enum.IntEnum):
    """The part of its life that a run is in: from `LEAVES` on it is being removed."""

    RUNS = enum.auto()
    RELEASED = enum.auto()  # it runs, and its removal begins with its end
    ENDED = enum.auto()  # the caller has not released it yet
    LEAVES = enum.auto()  # its last processes may end by themselves until the run is due
    CLEARS = enum.auto()  # they are killed, and what is left when it is due is told
    DELETES = enum.auto()  # `runsc delete` goes on, and is killed when it is due


class Run:
    """One sandbox, from the fork to the removal of its remains."""

    def __init__(self, keeper: Keeper, control: socket.socket) -> None:
        self.keeper = keeper
        self.control = control
        self.order = _NOTHING
        self.executable = -1
        self.report = -1
        self.pid = 0
        self.state = State.RUNS
        self.due = 0.0
        self.killed = False
        self.deletes = 0
        self.deleter = 0
        self.saver = 0

    def enter(self, state: State, seconds: float) -> None:
        """Begin a part of the removal that is due in so many seconds."""
        self.state = state
        self.due = time.monotonic() + seconds

    def tell(self, **message: object) -> None:
        """Send one message about this run. A dead caller is no error."""
        with contextlib.suppress(OSError):
            self.control.send(json.dumps(message).encode())

    def start(self, message: bytes, fds: list[int]) -> None:
        """Fork the child that the order describes.

        Its error pipe answers: text for a failed step, the end for execve. Raises OSError, and
        ValueError for a message that is no order; nothing is started then.
        """
        order = Order.from_json(message)
        if len(fds) < _FEWEST_FDS:
            raise ValueError(f"{len(fds)} descriptors came with the order")
        self.order = order
        self.executable = os.dup(fds[0])
        self._fork(fds)

    def _fork(self, fds: list[int]) -> None:
        # The child's writer is close-on-exec: the end of an empty pipe says that execve was done.
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            self.keeper.watch(reader, self.launched)
            self.report = reader
            me = os.getpid()
            self.pid = os.fork()
            if self.pid == 0:
                child.become(self.order, fds, parent=me, error_pipe=writer)
        except BaseException:
            if self.report < 0:
                os.close(reader)
            raise
        finally:
            os.close(writer)

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
            acts: dict[str, Callable[[], None]] = {
                "term": self.terminate,
                "interrupt": self.interrupt,
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
            self.enter(State.LEAVES, EXIT_GRACE)

    def abandon(self) -> None:
        """Do the same as `release` for a dead caller, without messages."""
        self.keeper.unwatch(self.control.fileno())
        self.release()

    def terminate(self) -> None:
        """Have runsc send the workload SIGTERM, if it runs by now. Does not wait."""
        if self.state < State.ENDED and self.pid:
            with contextlib.suppress(OSError):
                # A command, and no signal: `runsc run` passes one on for a terminal only.
                self._spawn(self.order.term)

    def interrupt(self) -> None:
        """Have runsc send the workload SIGINT, in the same way."""
        if self.state < State.ENDED and self.pid:
            with contextlib.suppress(OSError):
                self._spawn((*self.order.term[:-1], str(int(signal.SIGINT))))

    def save(self, argv: tuple[str, ...]) -> None:
        """Have runsc save the sandbox, and report the wait status of that command."""
        with contextlib.suppress(OSError):
            if self.state is State.RUNS and self.pid and not self.saver:
                self.saver = self._spawn(argv)
                return
        self.tell(state="saved", status=127 << 8)

    def kill(self) -> None:
        """Send runsc SIGKILL; gofer and sentry follow by their parent-death signals."""
        if self.state < State.ENDED and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        leftovers.kill_cgroups(self.order.cgroups)
        self.killed = True

    def reaped(self, status: int) -> None:
        """Take the raw wait ``status`` of runsc."""
        if self.report >= 0:
            # Both can be ready at once; why the child ended comes before that it did.
            self.launched()
        released, self.state = self.state is State.RELEASED, State.ENDED
        self.tell(state="exited", status=status)
        if released:
            self.release()

    def clean(self, now: float) -> bool:
        """Take one step of the cleanup; return True when nothing is left to do."""
        late = now > self.due
        if self.state is State.DELETES:
            if late:
                self.deletes = DELETE_TRIES  # one that hangs would hang again
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.deleter, signal.SIGKILL)
            return False
        if late and self.state is State.LEAVES:
            self.enter(State.CLEARS, EXIT_GRACE)
            late = False
        try:
            leaks = self._step(last=late)
        except OSError as error:  # out of descriptors or memory, for the moment
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
        left = leftovers.processes(order.root)
        if left:
            # PDEATHSIG reaches gofer and sentry at once; what stays is killed by pid.
            if self.killed or self.state is State.CLEARS:
                leftovers.kill(left, order.root)
            if not last:
                return None
        # A runsc that was killed leaves its state file and socket, until `runsc delete --force`.
        stale = leftovers.has_state(order.root)
        if stale and self.deletes < DELETE_TRIES:
            self.deletes += 1
            self.deleter = self._spawn(order.delete)
            self.enter(State.DELETES, DELETE_DEADLINE)
            return None
        leaks = leftovers.remove(order.folder, order.cgroups)
        if leaks and not last:
            return None
        if stale:
            leaks.append(f"`runsc delete --force {order.id}` left its state; the files are gone")
        return leaks + [f"process {pid}" for pid in left]

    def _spawn(self, argv: tuple[str, ...]) -> int:
        """Start another command of the same runsc, in a child of the same kind; return its pid."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            me = os.getpid()
            pid = os.fork()
            if pid == 0:
                fds = [self.executable, null, null, null]
                child.become(self.order.command(argv), fds, parent=me, error_pipe=null)
            return pid
        finally:
            os.close(null)

    def close(self) -> None:
        """Close this run's descriptors."""
        self._close_report()
        self.keeper.unwatch(self.control.fileno())
        self.control.close()
        if self.executable >= 0:
            os.close(self.executable)


class Keeper:
    """The loop: sockets, pidfd, children, and the runs."""

    def __init__(self, main: socket.socket, pytest_pidfd: int, session: str) -> None:
        self.main = main
        self.session = session
        self.runs: list[Run] = []
        self.leaving = False
        self.held: list[int] = []
        """Descriptors that say, by a lock on them, that this process is alive."""

        self.selector = selectors.DefaultSelector()
        self.watch(main.fileno(), self.on_request)
        self.watch(pytest_pidfd, self.leave)
        # select goes on after a signal's handler (PEP 475): a byte in this pipe ends it.
        self.wake_reader, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.watch(self.wake_reader, self.on_child)

    def watch(self, fd: int, act: Callable[[], None]) -> None:
        """Call ``act`` whenever ``fd`` is readable."""
        self.selector.register(fd, selectors.EVENT_READ, act)

    def unwatch(self, fd: int) -> None:
        """Stop watching ``fd``, if it is watched."""
        if fd in self.selector.get_map():
            self.selector.unregister(fd)

    def on_request(self) -> None:
        """Take one request and its descriptors, and start the run."""
        try:
            message, fds, flags, _address = socket.recv_fds(self.main, MAX_MESSAGE, MAX_FDS)
        except OSError:
            message, fds, flags = b"", [], 0
        if not message:
            self.leave()
        elif message == b"hold":
            self.held += fds
        else:
            try:
                self._take(message, fds, cut=bool(flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)))
            finally:
                for fd in fds[1:]:
                    os.close(fd)

    def _take(self, message: bytes, fds: list[int], *, cut: bool) -> None:
        if not fds:  # cut off for want of descriptors here; the caller sees the end of its socket
            return
        try:
            control = socket.socket(fileno=fds[0])
        except OSError:
            os.close(fds[0])
            return
        run = Run(self, control)
        self.runs.append(run)
        self.watch(control.fileno(), run.on_control)
        try:
            if cut:
                raise OSError(errno.EMFILE, "the request or its descriptors did not arrive whole")
            run.start(message, fds[1:])
        except OSError as error:
            run.fail("fork", error)
        except Exception as error:  # noqa: BLE001 -- no request ends the keeper
            run.fail("request", error)

    def on_child(self) -> None:
        """Reap everything that has ended: runs, deletions and adopted orphans alike."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_reader, 4096)
        # Signals of one kind do not queue (signal(7)): one SIGCHLD may stand for many children.
        while True:
            try:
                # Of any child: a subreaper's are the orphans too, such as a killed runsc's gofer.
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for run in self.runs:
                if run.pid == pid and run.state < State.ENDED:
                    run.reaped(status)
                elif run.saver == pid:
                    run.saver = 0
                    run.tell(state="saved", status=status)
                elif run.deleter == pid:
                    run.deleter = 0
                    run.enter(State.LEAVES, EXIT_GRACE)

    def clean(self) -> None:
        """Take one step for each run that is being removed."""
        now = time.monotonic()
        for run in list(self.runs):
            if run.state > State.ENDED and run.clean(now):
                self.runs.remove(run)
                run.close()

    def leave(self) -> None:
        """Kill and clean everything, then end: pytest is gone, or has closed the socket."""
        self.leaving = True
        # The end of children is still waited for.
        for fd in [key.fd for key in self.selector.get_map().values() if key.data != self.on_child]:
            self.unwatch(fd)
        for run in self.runs:
            run.abandon()

    def serve(self) -> None:
        """Run until pytest is gone and nothing is left."""
        while not (self.leaving and not self.runs):
            # Nothing tells the end of a process that is no child here: look again, and often.
            cleans = any(run.state > State.ENDED for run in self.runs)
            for key, _events in self.selector.select(0.005 if cleans else None):
                # What an earlier one of this turn has closed may be another's number by now.
                if self.selector.get_map().get(key.fd) is key:
                    key.data()
            self.clean()
        leftovers.kill_children()
        leftovers.clear_session(self.session, everywhere=False)  # what stays keeps its folder


def main(arguments: list[str]) -> None:
    """Run ``keeper.py MAIN_SOCKET_FD PYTEST_PIDFD SESSION_FOLDER``; the folder may be missing yet.

    Says ``ready``, or the errno and text of the call that was refused.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # execve keeps the mask of who started this
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    caller = socket.socket(fileno=int(arguments[0]))
    try:
        linux.set_child_subreaper()
        os.umask(0o077)
        os.chdir("/")
        keeper = Keeper(caller, int(arguments[1]), arguments[2])
    except OSError as error:
        caller.send(f"{error.errno or 0} {error.strerror}".encode())
    else:
        caller.send(b"ready")
        keeper.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
