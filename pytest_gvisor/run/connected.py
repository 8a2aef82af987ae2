"""A run whose first process this process drives for as long as it lives.

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
    """A supervisor that the caller drives: watches the keeper, the sentry, standard error."""

    pipes: Streams

    @property
    def over(self) -> bool:
        """Whether runsc has ended, or was never started."""
        return self.status is not None or self.failure is not None

    def add(self, fd: int, event: int, act: Callable[[], bool]) -> None:
        """Call ``act`` whenever ``fd`` is ready, until it returns False."""
        self._selector.register(fd, event, act)

    def change(self, fd: int, event: int, act: Callable[[], bool]) -> None:
        """Wait for another event of ``fd``, or for none, whether it was watched or not."""
        watched = fd in self._selector.get_map()
        if not event:
            if watched:
                self._selector.unregister(fd)
        elif watched:
            self._selector.modify(fd, event, act)
        else:
            self._selector.register(fd, event, act)

    def turn(self, timeout: float | None) -> None:
        """Wait until something is ready or due, and handle it.

        ``timeout`` is at most `NAP`; None waits for ever.
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
        """Send runsc SIGKILL, which ends the whole sandbox."""
        self._ask("kill")

    def wait(self, seconds: float) -> None:
        """Go on until runsc has ended or ``seconds`` have passed; then read the sentry's last
        messages.
        """
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
    """The end of a driven run: ``error`` is None if its process ended by itself, with 0."""

    completed: Completed | None
    error: GvisorError | None


class Driven(Runner):
    """One driven run: `start`, then the supervisor's turns by the caller, then `end`."""

    supervisor: DrivenSupervisor
    workspace: Workspace
    _undo: contextlib.ExitStack

    def start(self) -> DrivenSupervisor:
        """Make the streams and hand the run to the keeper. Raises the errors of `run` before a
        start.
        """
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
        """Return the number of its processes that the kernel has killed for memory."""
        return self._cgroups.oom_kills()

    def end(self, patience: float = 0.0) -> Ended:
        """Wait ``patience`` seconds for its end, kill the rest, and remove everything."""
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
        """Wait, and kill a run that does not end; return whether that was needed."""
        self.supervisor.wait(patience)
        if self.supervisor.over:
            return False
        self.supervisor.kill()
        self.supervisor.wait(KILL_DEADLINE)
        if not self.supervisor.over:
            self.supervisor.give_up()
        return True
