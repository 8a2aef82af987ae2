"""A run whose first process this process drives for as long as it lives.

Its standard input is a socket, which the caller reads and writes; its standard output and error are
captured, together. Everything else is as in any other run.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_gvisor.completed import Completed
from pytest_gvisor.errors import GvisorError, SnapshotError, stage
from pytest_gvisor.programs.order import Order
from pytest_gvisor.run import saved
from pytest_gvisor.run.pipes import SharedStreams, Streams
from pytest_gvisor.run.request import Workspace
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.run.supervisor import Phase, Supervisor
from pytest_gvisor.sessions.launcher import Keeper


class DrivenSupervisor(Supervisor):
    """A supervisor that the caller drives: watches the keeper, the sentry, standard error."""

    pipes: Streams

    @property
    def over(self) -> bool:
        """Whether runsc has ended, was never started, or is given up."""
        ended = self.status is not None or self.failure is not None
        return ended or self._phase is Phase.LOST

    def terminate(self) -> None:
        """Send the first process SIGTERM."""
        self._ask("term")

    def interrupt(self) -> None:
        """Send the first process SIGINT."""
        self._ask("interrupt")

    def save(self, argv: Sequence[str]) -> None:
        """Have runsc save the sandbox; `saved` is that command's status when it has ended."""
        self.saved = None
        self._ask("save", argv)

    def count_from_here(self) -> None:
        """Count the seconds of the start from now on: nobody has waited for it so far."""
        self.started_at, self._since = time.monotonic(), time.time_ns()

    def release(self) -> None:
        """Have the keeper remove everything of this run; `clean` waits for that."""
        self._ask("release")

    def end(self, patience: float) -> bool:
        """Wait ``patience`` seconds for its end and kill the rest; return whether that was needed.

        The output and the sentry's last messages are read then.
        """
        until = time.monotonic() + patience
        while not self.over and (left := until - time.monotonic()) > 0:
            self.turn(left)
        killed = not self.over
        if self.status is None and self._phase is not Phase.LOST:
            self._kill()
        self.watch()
        self.drain_events()
        return killed


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The end of a driven run: ``error`` is None if its process ended by itself, with 0."""

    completed: Completed | None
    error: GvisorError | None


class Driven(Runner):
    """One driven run: `start`, then the supervisor's turns by the caller, then `end`."""

    supervisor: DrivenSupervisor
    workspace: Workspace
    _undo: contextlib.ExitStack
    _leaves = False
    _too_large = False

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
        kind = SharedStreams if self.request.shared else Streams
        with stage("pipes", "cannot make the workload's streams"):
            pipes = undo.enter_context(contextlib.closing(kind(self.request.settings.max_output)))
            watch = DrivenSupervisor(order, pipes, timeout=math.inf, listener=self._listener)
            return undo.enter_context(contextlib.closing(watch))

    def _hand_over(self, keeper: Keeper) -> None:
        try:
            self._launch(self.supervisor, keeper)
        except BaseException:
            self._clean(self.supervisor)
            raise

    def begin_save(self) -> None:
        """Begin to save the sandbox, whose guest is at rest; see `DrivenSupervisor.saved`.

        Raises `SnapshotError` where that cannot be.
        """
        self._too_large = False
        self.supervisor.save(saved.begin(self.workspace, self.request))

    def is_saved(self) -> bool:
        """Whether the command that saves has ended. Call it each `saved.WATCH` seconds.

        An image that becomes too large is emptied meanwhile.
        """
        self._too_large = saved.is_too_large(self.workspace) or self._too_large
        return self.supervisor.saved is not None

    def finish_save(self) -> str:
        """Return the folder of the image when the command that saves has ended.

        The image is removed with the run, unless it is moved. Raises `SnapshotError`.
        """
        status = self.supervisor.saved
        return saved.finish(
            self.workspace, 127 << 8 if status is None else status, too_large=self._too_large
        )

    def save(self, deadline: float) -> str:
        """Save the sandbox, in the thread that drives it; return the folder of `finish_save`.

        The sandbox runs on. At ``deadline`` (monotonic) it is of no use any more: end it.
        """
        self.begin_save()
        supervisor = self.supervisor
        while not self.is_saved() and not supervisor.over:
            if (left := deadline - time.monotonic()) <= 0:
                raise SnapshotError("the sandbox was not saved in time")
            supervisor.turn(min(left, saved.WATCH))
        return self.finish_save()

    def oom_kills(self) -> int:
        """Return the number of its processes that the kernel has killed for memory."""
        return self._cgroups.oom_kills()

    def end(self, patience: float = 0.0) -> Ended:
        """Wait ``patience`` seconds for its end, kill the rest, and remove everything."""
        with self._undo:
            return self._finish(patience)

    def leave(self, patience: float = 0.0) -> Ended:
        """End it like `end`, and return while the keeper removes everything; then `settle`.

        What cannot be removed is not in the result.
        """
        with contextlib.ExitStack() as undo:
            undo.push(self._undo)
            ended = self._finish(patience, leaves=True)
            undo.pop_all()
        self._leaves = True
        return ended

    def settle(self) -> None:
        """Wait until everything is removed, after `leave`. A second call does nothing."""
        if self._leaves:
            self._leaves = False
            with self._undo:
                self._clean(self.supervisor)

    def _finish(self, patience: float, *, leaves: bool = False) -> Ended:
        """End it, and have the keeper remove it; ``leaves`` is not to wait for that."""
        error: GvisorError | None = None
        leaks: tuple[str, ...] = ()
        try:
            try:
                killed = self.supervisor.end(patience)
                verdict = self._judge(self.workspace, self.supervisor)
            finally:
                if leaves:
                    self.supervisor.release()
                else:
                    leaks = self._clean(self.supervisor)
            completed = self._completed(verdict, self.supervisor, leaks)
            if not killed:
                self._raise_for(verdict, completed, self.supervisor)
        except GvisorError as caught:
            self.record.error = error = caught
        return Ended(completed=self.record.completed, error=error)
