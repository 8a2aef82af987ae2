"""The keeper: one small single-threaded program that owns every sandbox of one pytest process.

It forks, reaps (as child subreaper), kills, and removes what a run made. It is started by
bootstrap.py, and imports the standard library and its siblings only. It runs in a session of
its own, and ignores the terminal's signals. So it outlives pytest's death by any signal, until
everything is removed.

An order comes over the main socket with the descriptors of one run. Everything about that run then
goes over a socket of the run's own. When that socket closes, the caller is gone and the run is
killed. When the main socket closes or pytest's pidfd becomes readable, pytest is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable

from pytest_gvisor.programs import leftovers, linux
from pytest_gvisor.programs.one_run import Run, State
from pytest_gvisor.programs.order import Order
from pytest_gvisor.programs.own_copy import RUNS_BEFORE, Copy

_MAX_MESSAGE = 128 * 1024
_MAX_FDS = 16


class Keeper:
    """The loop: sockets, pidfd, children, and the runs."""

    def __init__(self, main: socket.socket, pytest_pidfd: int, session: str) -> None:
        self.main = main
        self.session = session
        self.runs: list[Run] = []
        self.leaving = False
        self.copy: Copy | None = None
        self.until_copy = RUNS_BEFORE
        self.held: list[int] = []
        """Descriptors that say, by a lock on them, that this process is alive."""

        self.selector = selectors.DefaultSelector()
        self.watch(main.fileno(), self.on_request)
        self.watch(pytest_pidfd, self.leave)
        # After a signal's handler, Python begins a select anew (PEP 475). So the C handler writes a
        # byte into this pipe, which ends the select.
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
            message, fds, flags, _address = socket.recv_fds(self.main, _MAX_MESSAGE, _MAX_FDS)
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
        if not fds:
            # This process is out of descriptors, and the kernel has dropped those of the message.
            # The caller sees the end of its socket.
            return
        try:
            control = socket.socket(fileno=fds[0])
        except OSError:
            os.close(fds[0])
            return
        run = Run(self, control)
        try:
            self.watch(control.fileno(), run.on_control)
        except OSError as error:
            run.fail("fork", error)
            control.close()  # its caller sees the end, and removes the run's folder
            return
        self.runs.append(run)
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
                # Any child: orphans become children of a subreaper, as the gofer of a killed runsc.
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.copy is not None and self.copy.pid == pid:
                self.copy.ended(status)
            for run in self.runs:
                if run.pid == pid and run.state < State.ENDED:
                    run.reaped(status)
                elif pid in run.commands:
                    run.command_ended(pid, status)

    def executable(self, fd: int, order: Order) -> int:
        """Return the descriptor to execute for an order that came with ``fd``."""
        return fd if self.copy is None else self.copy.instead_of(fd, order)

    def copy_ahead(self, run: Run) -> None:
        """Begin a copy of a run's executable after some runs, while no run goes on."""
        self.until_copy -= 1
        if self.until_copy <= 0 and not (self.runs or self.leaving):
            self.until_copy = sys.maxsize  # once in a session, even if the copy fails
            with contextlib.suppress(OSError):
                self.copy = Copy(run.executable, run.order)

    def clean(self) -> None:
        """Take one step for each run that is being removed."""
        now = time.monotonic()
        for run in list(self.runs):
            if run.state > State.ENDED and run.clean(now):
                self.runs.remove(run)
                self.copy_ahead(run)
                run.close()

    def leave(self) -> None:
        """Kill and clean everything, then end: pytest is gone, or has closed the socket."""
        self.leaving = True
        # All but the pipe of `on_child`: the end of children is still waited for.
        for fd in [key.fd for key in self.selector.get_map().values() if key.data != self.on_child]:
            self.unwatch(fd)
        for run in self.runs:
            run.abandon()

    def serve(self) -> None:
        """Run until pytest is gone and nothing is left."""
        while not (self.leaving and not self.runs):
            # No event tells the end of a process that is not this one's child: poll for it.
            cleans = any(run.state > State.ENDED for run in self.runs)
            for key, _events in self.selector.select(0.005 if cleans else None):
                # The callback before this one may have closed this number, and opened another file
                # that has it now.
                if self.selector.get_map().get(key.fd) is key:
                    key.data()
            self.clean()
        leftovers.kill_children()
        leftovers.clear_session(self.session, everywhere=False)


def main(arguments: list[str]) -> None:
    """Keep, with ``MAIN_SOCKET_FD PYTEST_PIDFD SESSION_FOLDER``; the folder may not exist yet.

    Sends ``ready`` to pytest, or the errno and text of the call that was refused.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # execve keeps the mask of pytest's thread
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    caller = socket.socket(fileno=int(arguments[0]))
    try:
        linux.set_child_subreaper()
        os.umask(0o077)
        os.chdir("/")
        keeper = Keeper(caller, int(arguments[1]), arguments[2])
    except OSError as error:
        try:
            caller.send(f"{error.errno or 0} {error.strerror}".encode())
        except OSError:  # pytest is dead, and leaves its folder
            leftovers.clear_session(arguments[2], everywhere=False)
    else:
        with contextlib.suppress(OSError):
            caller.send(b"ready")
        keeper.serve()
