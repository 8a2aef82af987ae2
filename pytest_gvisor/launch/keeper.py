"""The keeper: one small single-threaded program that owns every sandbox of one pytest process.

It forks, reaps (as child subreaper), kills, and removes what a run made. Started as
``python -I -S keeper.py``, it imports the standard library and its two siblings only, sits in a
session of its own, and ignores the terminal's signals, so it outlives pytest's death by any
signal for as long as it takes to leave nothing behind.

A request comes over the main socket with the descriptors of one run; everything that is said about
that run goes over a socket of the run's own. When that socket closes, the caller is gone and the
run is killed. When the main socket closes or pytest's pidfd becomes readable, pytest is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from pytest_gvisor.launch import _linux, child, remains
else:
    # -I leaves the script's folder out of sys.path; -S leaves site-packages out.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import _linux
    import child
    import remains

MAX_MESSAGE = 128 * 1024
MAX_FDS = 16
EXIT_GRACE = 0.5
DELETE_DEADLINE = 5.0
DELETE_TRIES = 2


class Run:
    """One sandbox, from the fork to the removal of all that it made."""

    def __init__(self, keeper: Keeper, request: dict[str, Any], control: socket.socket) -> None:
        self.keeper = keeper
        self.control = control
        self.id: str = request["id"]
        self.folder: str = request["folder"]
        self.root: str = request["root"]
        self.delete_argv: list[str] = request["delete"]
        self.env: dict[str, str] = request["env"]
        self.cgroups: list[str] = request["cgroup_folders"]
        self.executable = -1
        self.pid = 0
        self.released = False
        self.killed_at: float | None = None
        self.status: int | None = None
        self.deletes = 0
        self.deleter = 0
        self.deadline = float("inf")

    def tell(self, **message: object) -> None:
        """Send one message about this run; a caller that is gone is not an error."""
        with contextlib.suppress(OSError):
            self.control.send(json.dumps(message).encode())

    def start(self, start: child.Start) -> None:
        """Fork the child. Its error pipe answers: text for a failed step, the end for execve."""
        self.executable = os.dup(start.executable)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        me = os.getpid()
        try:
            self.pid = os.fork()
        except OSError as error:
            os.close(reader)
            os.close(writer)
            self.tell(state="failed", stage="fork", errno=error.errno or 0, detail=str(error))
            self.status = 127 << 8
            self.keeper.finish(self)
            return
        if self.pid == 0:
            child.become(start, parent=me, error_pipe=writer)
        os.close(writer)
        self.keeper.watch(reader, lambda: self._launched(reader))

    def _launched(self, reader: int) -> None:
        report = os.read(reader, 4096).decode("utf-8", "replace")
        self.keeper.unwatch(reader)
        os.close(reader)
        if report:
            stage, number, detail = report.split(" ", 2)
            self.tell(state="failed", stage=stage, errno=int(number), detail=detail)
        else:
            self.tell(state="spawned", pid=self.pid)

    def on_control(self) -> None:
        """Carry out what the caller asks of this run."""
        try:
            message = self.control.recv(4096)
        except OSError:
            message = b""
        if not message:
            self.abandon()
            return
        wish = json.loads(message)["op"]
        if wish == "term":
            self.signal(signal.SIGTERM)
        elif wish == "kill":
            self.kill()
        elif wish == "release":
            self.released = True
            if self.status is None:
                self.kill()
            else:
                self.keeper.finish(self)

    def abandon(self) -> None:
        """The caller is gone: kill, clean up, tell nobody."""
        self.keeper.unwatch(self.control.fileno())
        self.released = True
        if self.status is None:
            self.kill()
        else:
            self.keeper.finish(self)

    def signal(self, number: int) -> None:
        """Send a signal to runsc, which forwards it to the workload once that runs."""
        if self.status is None and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL runsc; gofer and sentry follow by their parent-death signals."""
        self.signal(signal.SIGKILL)
        remains.kill_cgroups(self.cgroups)
        self.killed_at = time.monotonic()

    def reaped(self, status: int, usage: tuple[float, int]) -> None:
        """Runsc has ended with the raw wait ``status``."""
        self.status = status
        seconds, kilobytes = usage
        self.tell(state="exited", status=status, cpu=seconds, maxrss=kilobytes * 1024)
        if self.released:
            self.keeper.finish(self)

    def clean(self, now: float) -> bool:
        """One step towards nothing left; True when there is nothing more to do."""
        if self.deleter:
            if now > self.deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.deleter, signal.SIGKILL)
            return False
        if self.deadline == float("inf"):
            self.deadline = now + EXIT_GRACE
        left = remains.processes(self.root)
        if left:
            # PDEATHSIG reaches gofer and sentry at once; what stays is killed by pid.
            if self.killed_at is not None or now > self.deadline:
                remains.kill(left, self.root)
            if now < self.deadline + EXIT_GRACE:
                return False
        if remains.has_state(self.root) and self.deletes < DELETE_TRIES:
            self._delete(now)
            return False
        leaks = remains.remove(self.folder, self.cgroups)
        if leaks and now < self.deadline + EXIT_GRACE:
            return False
        leaks += [f"process {pid}" for pid in left]
        self.tell(state="cleaned", leaks=leaks)
        return True

    def _delete(self, now: float) -> None:
        """Start ``runsc delete --force`` in a child of the same kind, under a deadline."""
        self.deletes += 1
        self.deadline = now + DELETE_DEADLINE
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        start = child.Start(
            argv=self.delete_argv,
            env=self.env,
            executable=self.executable,
            streams=(null, null, null),
        )
        me = os.getpid()
        with contextlib.suppress(OSError):
            self.deleter = os.fork()
            if self.deleter == 0:
                child.become(start, parent=me, error_pipe=null)
        os.close(null)

    def close(self) -> None:
        """Let go of this run's descriptors."""
        self.keeper.unwatch(self.control.fileno())
        self.control.close()
        if self.executable >= 0:
            os.close(self.executable)


class Keeper:
    """The loop: sockets, pidfd, children; and the runs."""

    def __init__(self, main: socket.socket, pytest_pidfd: int, session: str) -> None:
        self.main = main
        self.session = session
        self.runs: list[Run] = []
        self.finishing: list[Run] = []
        self.leaving = False
        self.selector = selectors.DefaultSelector()
        self.watched: set[int] = set()
        self.watch(main.fileno(), self.on_request)
        self.watch(pytest_pidfd, self.leave)
        wake_reader, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.wake_reader = wake_reader
        self.watch(wake_reader, self.on_child)

    def watch(self, fd: int, act: Callable[[], None]) -> None:
        """Call ``act`` whenever ``fd`` is readable."""
        self.selector.register(fd, selectors.EVENT_READ, act)
        self.watched.add(fd)

    def unwatch(self, fd: int) -> None:
        """Stop watching ``fd``, if it is watched."""
        if fd in self.watched:
            self.watched.discard(fd)
            self.selector.unregister(fd)

    def on_request(self) -> None:
        """Take one request and its descriptors, and start the run."""
        try:
            message, fds, _flags, _address = socket.recv_fds(self.main, MAX_MESSAGE, MAX_FDS)
        except OSError:
            message, fds = b"", []
        if not message:
            self.leave()
            return
        request = json.loads(message)
        control = socket.socket(fileno=fds[0])
        run = Run(self, request, control)
        self.runs.append(run)
        self.watch(control.fileno(), run.on_control)
        start = child.Start(
            argv=request["argv"],
            env=request["env"],
            executable=fds[1],
            streams=(fds[2], fds[3], fds[4]),
            cgroups=tuple(fds[5:]),
            hide_net_sysctls=request["hide_net_sysctls"],
            netns=request["netns"],
        )
        try:
            run.start(start)
        finally:
            for fd in fds[1:]:
                os.close(fd)

    def on_child(self) -> None:
        """Reap everything that has ended: runs, deletions and adopted orphans alike."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_reader, 4096)
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for run in self.runs:
                if run.pid == pid and run.status is None:
                    run.reaped(status, (usage.ru_utime + usage.ru_stime, usage.ru_maxrss))
                elif run.deleter == pid:
                    run.deleter = 0
                    run.deadline = time.monotonic() + EXIT_GRACE

    def finish(self, run: Run) -> None:
        """Begin the removal of what ``run`` made."""
        if run not in self.finishing:
            self.finishing.append(run)

    def clean(self) -> None:
        """Take one step for each run that is being removed."""
        now = time.monotonic()
        for run in list(self.finishing):
            if run.clean(now):
                self.finishing.remove(run)
                self.runs.remove(run)
                run.close()

    def leave(self) -> None:
        """Pytest is gone, or has closed: kill and clean everything, then end."""
        self.leaving = True
        for fd in list(self.watched - {self.wake_reader}):
            self.unwatch(fd)
        for run in self.runs:
            run.abandon()

    def serve(self) -> None:
        """Run until pytest is gone and nothing is left."""
        while not (self.leaving and not self.runs):
            for key, _events in self.selector.select(0.005 if self.finishing else None):
                if key.fd in self.watched:
                    key.data()
            self.clean()
        shutil.rmtree(self.session, ignore_errors=True)


def main(arguments: list[str]) -> None:
    """``keeper.py MAIN_SOCKET_FD PYTEST_PIDFD SESSION_FOLDER``."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    _linux.set_child_subreaper()
    os.umask(0o077)
    os.chdir("/")
    keeper = Keeper(socket.socket(fileno=int(arguments[0])), int(arguments[1]), arguments[2])
    keeper.main.send(b"ready")
    keeper.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
