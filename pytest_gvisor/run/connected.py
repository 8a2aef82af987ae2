"""A run whose first process is driven by this one for as long as it lives.

Its standard input is a socket, which the caller reads and writes; its standard output and error are
captured, together. Everything else is as in any other run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable

from pytest_gvisor.completed import Completed
from pytest_gvisor.errors import GvisorError, stage
from pytest_gvisor.programs.order import Order
from pytest_gvisor.run.pipes import Streams
from pytest_gvisor.run.request import Workspace
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.run.supervisor import KILL_DEADLINE, LINGER, NAP, Supervisor
from pytest_gvisor.sessions.launcher import Keeper


class DrivenSupervisor(Supervisor):
    """Watches what the caller does not: the keeper, the sentry's events, standard error."""

    pipes: Streams

    @property
    def over(self) -> bool:
        """Whether runsc has ended, or was never started."""
        return self.status is not None or self.failure is not None

    def add(self, fd: int, event: int, act: Callable[[], bool]) -> None:
        """Call ``act`` whenever ``fd`` is ready, until it returns False."""
        self._selector.register(fd, event, act)

    def change(self, fd: int, event: int, act: Callable[[], bool]) -> None:
        """Wait for something else of ``fd``, or for nothing; whether it was waited for or not."""
        watched = fd in self._selector.get_map()
        if not event:
            if watched:
                self._selector.unregister(fd)
        elif watched:
            self._selector.modify(fd, event, act)
        else:
            self._selector.register(fd, event, act)

    def turn(self, timeout: float | None) -> None:
        """Wait for something to be ready or due, and do what belongs to it; for `NAP` at most,
        or for ever with None.
        """
        due = self._act()
        if due is not None:
            timeout = due if timeout is None else min(timeout, due)
        timeout = None if timeout is None else min(timeout, NAP)
        for key, _events in self._selector.select(timeout):
            # What an earlier one of this turn has closed is waited for no more.
            if self._selector.get_map().get(key.fd) is key and not key.data():
                self._end_stream(key.fd)

    def terminate(self) -> None:
        """Send the first process SIGTERM."""
        self._ask("term")

    def kill(self) -> None:
        """SIGKILL runsc and with it all of the sandbox."""
        self._ask("kill")

    def wait(self, seconds: float) -> None:
        """Go on until runsc has ended or so long has passed; then take what was said last."""
        deadline = time.monotonic() + seconds
        while not self.over and time.monotonic() < deadline:
            self.turn(deadline - time.monotonic())
        deadline = time.monotonic() + (LINGER if self.over else 0)
        while self._streams_open() and time.monotonic() < deadline:
            self.turn(deadline - time.monotonic())
        self._stop_lingering()
        self.drain_events()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
    """How a driven run has ended: ``error`` is None where its process ended by itself, with 0."""

    completed: Completed | None
    error: GvisorError | None


class Driven(Runner):
    """One driven run: `start`, then the supervisor's turns by the caller, then `end`."""

    supervisor: DrivenSupervisor
    workspace: Workspace
    _undo: contextlib.ExitStack

    def start(self) -> DrivenSupervisor:
        """Make what it needs and hand it to the keeper. Raises as `run` does before a start."""
        try:
            with contextlib.ExitStack() as undo:
                keeper, self.workspace, order = self._prepare(undo)
                self.supervisor = self._supervise(order, undo)
                self._hand_over(keeper)
                self._undo = undo.pop_all()
        except GvisorError as error:
            self.record.error = error
            raise
        return self.supervisor

    def _supervise(self, order: Order, undo: contextlib.ExitStack) -> DrivenSupervisor:
        settings = self.request.settings
        with stage("pipes", "cannot make the workload's streams"):
            pipes = undo.enter_context(contextlib.closing(Streams(settings.max_output)))
            made = DrivenSupervisor(order, pipes, timeout=settings.timeout, listener=self._listener)
            return undo.enter_context(contextlib.closing(made))

    def _hand_over(self, keeper: Keeper) -> None:
        try:
            self._launch(self.supervisor, keeper)
        except BaseException:
            self._clean(self.supervisor)
            raise

    def oom_kills(self) -> int:
        """How many processes of it the kernel has killed for memory so far."""
        return self._cgroups.oom_kills()

    def end(self, patience: float = 0.0) -> Ended:
        """Wait so long for its end, kill what runs then, and remove everything."""
        error: GvisorError | None = None
        with self._undo:
            try:
                self._finish(patience)
            except GvisorError as caught:
                self.record.error = error = caught
        return Ended(completed=self.record.completed, error=error)

    def _finish(self, patience: float) -> None:
        try:
            killed = self._wait(patience)
            verdict = self._judge(self.workspace, self.supervisor)
            if self.keep is not None:
                self.keep(self.workspace, self.record)
        finally:
            leaks = self._clean(self.supervisor)
        completed = self._completed(verdict, self.supervisor, leaks)
        if not killed:
            self._raise_for(verdict, completed, self.supervisor)

    def _wait(self, patience: float) -> bool:
        """Wait, and kill what does not end; whether that was needed."""
        self.supervisor.wait(patience)
        if self.supervisor.over:
            return False
        self.supervisor.kill()
        self.supervisor.wait(KILL_DEADLINE)
        if not self.supervisor.over:
            self.supervisor.give_up()
        return True
