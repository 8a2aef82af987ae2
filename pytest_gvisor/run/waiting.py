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

from pytest_gvisor.errors import GvisorError, stage
from pytest_gvisor.programs.order import Order
from pytest_gvisor.programs.own_copy import RUNS_BEFORE
from pytest_gvisor.run.pipes import Pipes
from pytest_gvisor.run.request import Request
from pytest_gvisor.run.sentry import EVENTS, Listener, pod_init_config
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.sessions.launcher import Control, Keeper, Launcher
from pytest_gvisor.sessions.private import make_private

ALIKE = RUNS_BEFORE + 1
"""Runs in a row with equal orders, until a runsc waits for the next one."""

_TRIALS: Final = 8
_MOST_LOG: Final = 1024 * 1024

_making = threading.Lock()


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
        with open(os.path.join(self.folder, EVENTS), "x", encoding="utf-8") as file:
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


def _output(request: Request) -> tuple[int, bool]:
    return request.settings.max_output, request.settings.sha256


def _seen(order: Order) -> tuple[object, ...]:
    """Return what `child.protect` sees of the host: its mounts, and the folders to protect."""
    with open("/proc/self/mountinfo", "rb") as file:
        mounts = file.read()
    infos = map(os.stat, order.readonly)
    return mounts, *((info.st_dev, info.st_ino) for info in infos)
