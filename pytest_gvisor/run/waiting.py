"""A ``runsc run`` that is started before its run, and waits for it.

Its log is a FIFO that nobody reads. ``runsc`` opens its log before it reads anything else of a run,
and the open waits for a reader (fifo(7)). By then, fork, execve and Go's start are over. The run
writes ``config.json``, and opens the FIFO. It uses that runsc only if its own order is equal.

The name, the folder, the streams and the socket of events are made with the runsc that waits.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import weakref
from typing import Final

from pytest_gvisor.completed import Completed
from pytest_gvisor.errors import GvisorError, stage
from pytest_gvisor.oci.rootfs import host_system
from pytest_gvisor.programs.order import Order
from pytest_gvisor.programs.own_copy import RUNS_BEFORE
from pytest_gvisor.run.pipes import Pipes
from pytest_gvisor.run.request import Request, Workspace
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.run.sentry import Listener, pod_init_config
from pytest_gvisor.run.supervisor import Supervisor
from pytest_gvisor.run.verdict import Verdict
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.sessions.launcher import Control, Keeper, Launcher
from pytest_gvisor.sessions.private import make_private
from pytest_gvisor.sessions.session_folder import SessionDir

ALIKE = RUNS_BEFORE + 1
"""Runs in a row with equal orders, until a runsc waits for the next one."""

_TRIALS: Final = 8
_MOST_LOG: Final = 1024 * 1024
_EVENTS: Final = "pod-init.json"

_making = threading.Lock()


class _Differs(Exception):
    """Raised where the runsc that waits is not the one that the run needs."""


class Waiting:
    """A runsc that waits, after `hand_over`. A run adopts it, or its owner closes it."""

    def __init__(self, keeper: Keeper, order: Order, request: Request) -> None:
        """Make all that another order like ``order``, of this request, needs.

        Raises `GvisorError`, `OSError` or `ValueError`.
        """
        self.keeper = keeper
        self.runsc: Runsc = request.runsc
        self.id = "g" + secrets.token_hex(4)
        self.order = Order.from_json(order.to_json().replace(order.id.encode(), self.id.encode()))
        self.folder = self.order.folder
        self.output = _output(request)
        self.seen = _seen(self.order)
        self.pid = 0
        self.listener: Listener | None = None
        self.pipes: Pipes | None = None
        self.control: Control | None = None
        self._log = -1
        self._said = b""
        self._is_over = False
        _open.add(self)
        # What is there is another run's, and is not removed.
        make_private(self.folder)
        try:
            self._make()
        except BaseException:
            self.let_go()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _make(self) -> None:
        for folder in (self.order.root, os.path.join(self.folder, "bundle")):
            make_private(folder)
        os.mkfifo(self._log_path, 0o600)
        self.listener = Listener(self.folder)
        with open(os.path.join(self.folder, _EVENTS), "x", encoding="utf-8") as file:
            file.write(pod_init_config(self.listener.endpoint))
        most, sha256 = self.output
        self.pipes = Pipes(most, sha256=sha256)

    def hand_over(self) -> None:
        """Have the keeper start it. Raises `LaunchError`."""
        if self.pipes is not None:
            self.control = self.keeper.launch(self.order, [self.runsc.fd, *self.pipes.theirs])
            self.pipes.hand_over()

    @property
    def _log_path(self) -> str:
        return os.path.join(self.folder, "log")

    def is_alive(self) -> bool:
        """Whether the keeper has reported neither an end nor a failed start."""
        control = self.control
        # Somebody may clean up old temporary files.
        if self._is_over or not os.path.exists(self._log_path):
            return False
        with contextlib.suppress(GvisorError):
            while control is not None and control.wait(0):
                message = control.read()
                pid = message.get("pid")
                if message.get("state") != "spawned" or not isinstance(pid, int):
                    self._is_over = True
                    return False
                self.pid = pid
            return control is not None
        return False

    def suits(self, order: Order) -> bool:
        """Whether it is alive, and was started with this very order, on the host as it is now."""
        with contextlib.suppress(OSError):
            return order == self.order and self.seen == _seen(order) and self.is_alive()
        return False

    def go_on(self) -> bool:
        """Open the log, which lets runsc go on; return whether it has waited for that.

        A writer that waits counts as one, so the pipe is empty and not at its end. Raises
        `LaunchError`.
        """
        with stage("log", "the log of runsc cannot be opened"):
            self._log = os.open(self._log_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                self._said = os.read(self._log, 1)
            except BlockingIOError:
                return True
        return bool(self._said)

    def end_log(self) -> None:
        """Put a file with the whole log in the place of the FIFO. A second call does nothing."""
        if self._log < 0:
            return
        data = bytearray(self._said)
        with contextlib.suppress(BlockingIOError):
            while len(data) < _MOST_LOG and (piece := os.read(self._log, 65536)):
                data += piece
        self.close_log()
        with stage("log", "the log of runsc cannot be kept"):
            os.unlink(self._log_path)
            if data:
                with open(self._log_path, "xb") as file:
                    file.write(data)

    def close_log(self) -> None:
        """Close the log. A second call does nothing."""
        log, self._log = self._log, -1
        if log >= 0:
            os.close(log)

    def close(self) -> None:
        """Have the keeper end it and remove its folder. A second call does nothing."""
        # A fork of this process may have the socket too, so its end alone might not be seen.
        if self.control is not None:
            self.control.ask("release")
        elif self.pipes is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.let_go()

    def let_go(self) -> None:
        """Close all descriptors, and ask for nothing."""
        control, self.control = self.control, None
        listener, self.listener = self.listener, None
        pipes, self.pipes = self.pipes, None
        for part in (control, listener, pipes):
            if part is not None:
                part.close()
        self.close_log()


_open: weakref.WeakSet[Waiting] = weakref.WeakSet()


def _forget_in_fork() -> None:
    """Let go in a fork: a workload's input would not end while the fork holds the pipe."""
    for waiting in list(_open):
        waiting.let_go()


os.register_at_fork(after_in_child=_forget_in_fork)


class Lobby:
    """The one runsc of a launcher that waits, and the number of runs that were alike."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: Waiting | None = None
        self._last = b""
        self._alike = 0
        self._proven: Runsc | None = None
        self._trials = 0

    @classmethod
    def of(cls, launcher: Launcher) -> Lobby:
        """Return the launcher's, which it closes."""
        with _making:
            found = launcher.lobby
            if not isinstance(found, cls):
                found = launcher.lobby = cls()
            return found

    def take(self, request: Request, launcher: Launcher) -> Waiting | None:
        """Return a runsc that waits for a run like this; end another one.

        The first one of a release is a trial without ``config.json``: has it waited at its log?
        Raises `LaunchError` where no keeper comes up.
        """
        with self._guard:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            return None
        with contextlib.ExitStack() as undo:
            undo.callback(waiting.close)
            alike = waiting.runsc is request.runsc and waiting.output == _output(request)
            if alike and waiting.keeper is launcher.keeper() and waiting.is_alive():
                if self._proven is request.runsc:
                    undo.pop_all()
                    return waiting
                with contextlib.suppress(GvisorError):
                    if waiting.go_on():
                        self._proven = request.runsc
            self._trials += self._proven is not request.runsc
            return None

    def wants(self, order: Order) -> bool:
        """Count a run that has started; return whether a runsc shall wait for the next one."""
        plain = order.to_json().replace(order.id.encode(), b"")
        with self._guard:
            self._alike = self._alike + 1 if plain == self._last else 1
            self._last = plain
            return self._alike >= ALIKE and self._trials < _TRIALS and self._waiting is None

    def put(self, waiting: Waiting) -> bool:
        """Hand over a runsc for the next run; return False if another one waits.

        Raises `LaunchError`.
        """
        with self._guard:
            if self._waiting is not None:
                return False
            waiting.hand_over()
            self._waiting = waiting
            return True

    def close(self) -> None:
        """End the one that waits, and begin to count anew."""
        with self._guard:
            waiting, self._waiting = self._waiting, None
            self._last, self._alike = b"", 0
        if waiting is not None:
            waiting.close()


class PromptRunner(Runner):
    """A runner that goes on with a runsc that waits, if there is one for such a run."""

    _ahead: Waiting | None = None
    _adopted: Waiting | None = None
    _next: Waiting | None = None

    def _run(self) -> Completed:
        ahead = None
        if self._is_plain():
            ahead = self._lobby.take(self.request, self.launcher)
        if ahead is not None:
            self._ahead = ahead
            try:
                return super()._run()
            except _Differs:
                self._ahead = self._listener = None
            finally:
                if self._adopted is None:
                    ahead.close()
                else:
                    ahead.let_go()
        return super()._run()

    @property
    def _lobby(self) -> Lobby:
        return Lobby.of(self.launcher)

    def _is_plain(self) -> bool:
        """Whether the run has no parts that a runsc cannot be given before."""
        request = self.request
        return not (request.restores or request.terminal or self._wants_logs())

    def _make_workspace(self, session: SessionDir) -> Workspace:
        ahead = self._ahead
        if ahead is None:
            return super()._make_workspace(session)
        if os.path.dirname(ahead.folder) != session.path:
            raise _Differs
        netns = os.path.join(ahead.folder, "netns")
        return Workspace(id=ahead.id, folder=ahead.folder, shared=session.path, netns=netns)

    def _listen(self, workspace: Workspace) -> str:
        if self._ahead is None:
            return super()._listen(workspace)
        self._listener, self._ahead.listener = self._ahead.listener, None
        return workspace.path(_EVENTS)

    def _make_pipes(self) -> Pipes:
        if self._ahead is None:
            return super()._make_pipes()
        pipes, self._ahead.pipes = self._ahead.pipes, None
        if pipes is None:
            raise _Differs
        pipes.give(self.request.input)
        return pipes

    def _launch(self, supervisor: Supervisor, keeper: Keeper) -> None:
        ahead = self._ahead
        if ahead is None:
            super()._launch(supervisor, keeper)
            return
        self.request.runsc.check_unchanged()
        control = ahead.control
        if control is None or ahead.keeper is not keeper or not ahead.suits(supervisor.order):
            raise _Differs
        self._adopted, ahead.control = ahead, None
        supervisor.pid = ahead.pid
        supervisor.adopt(keeper, control)
        ahead.go_on()

    def _watch(self, supervisor: Supervisor) -> None:
        """Make what the next run needs while the workload of this one runs."""
        if self._is_plain() and may_wait(supervisor.order):
            supervisor.watch(until_start=True)
            with contextlib.suppress(GvisorError, OSError, ValueError):
                if supervisor.start is not None and self._lobby.wants(supervisor.order):
                    self._next = Waiting(self.launcher.keeper(), supervisor.order, self.request)
        super()._watch(supervisor)

    def _judge(self, workspace: Workspace, supervisor: Supervisor) -> Verdict:
        if self._adopted is not None:
            self._adopted.end_log()
        return super()._judge(workspace, supervisor)

    def _clean(self, supervisor: Supervisor) -> tuple[str, ...]:
        following, self._next = self._next, None
        waits = False
        try:
            leaks = super()._clean(supervisor)
            # Not before: the keeper does one thing after the other.
            if following is not None and supervisor.status is not None:
                with contextlib.suppress(GvisorError):
                    waits = self._lobby.put(following)
        finally:
            if following is not None and not waits:
                following.close()
        return leaks


def may_wait(order: Order) -> bool:
    """Whether a runsc can wait with this order.

    Limits, namespaces and mounts are made for one run. So are read-only binds of a user's folders:
    another folder may have the name of such a source by then. The host's own folders are always
    the same.
    """
    system = {source for _target, source in host_system().binds}
    alone = order.cgroups or order.netns or order.binds or order.writable
    hides = order.hide_net_sysctls or order.terminal
    return not (alone or hides) and system.issuperset(order.readonly)


def _output(request: Request) -> tuple[int, bool]:
    return request.settings.max_output, request.settings.sha256


def _seen(order: Order) -> tuple[object, ...]:
    """Return what `child.protect` sees of the host: its mounts, and the folders to protect."""
    with open("/proc/self/mountinfo", "rb") as file:
        mounts = file.read()
    infos = map(os.stat, order.readonly)
    return mounts, *((info.st_dev, info.st_ino) for info in infos)
