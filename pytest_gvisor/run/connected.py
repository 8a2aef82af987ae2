"""A run whose first process this process drives for as long as it lives.

Its standard input is a socket, which the caller reads and writes; its standard output and error are
captured, together. Everything else is as in any other run.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import NamedTuple

from pytest_gvisor.completed import Completed
from pytest_gvisor.errors import GvisorError, SnapshotError
from pytest_gvisor.run import saved
from pytest_gvisor.run.budget import Budget
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.run.supervisor import Supervisor


class Ended(NamedTuple):
    """The end of a driven run: ``error`` is None if its process ended by itself, with 0."""

    completed: Completed | None
    error: GvisorError | None


class Driven:
    """One driven run: `start`, then the supervisor's turns by the caller, then `end`."""

    def __init__(self, runner: Runner, undo: contextlib.ExitStack) -> None:
        """``undo`` removes what was made for the run. A run that is started takes it over."""
        self.runner = runner
        self.request, self.record, self.workspace = runner.request, runner.record, runner.workspace
        self._undo = undo
        self._too_large = False

    def start(self) -> Supervisor:
        """Make the streams and hand the run to the keeper. Raises the errors of `run` before a
        start.
        """
        self.runner.start(self._undo, math.inf)
        self._undo = self._undo.pop_all()
        return self.runner.supervisor

    def begin_save(self) -> None:
        """Begin to save the sandbox, whose guest is at rest; see `Supervisor.saved`.

        Raises `SnapshotError` where that cannot be.
        """
        self._too_large = False
        self.runner.supervisor.save(saved.begin(self.workspace, self.request))

    def is_saved(self) -> bool:
        """Whether the command that saves has ended. Call it each `saved.WATCH` seconds.

        An image that becomes too large is emptied meanwhile.
        """
        self._too_large = saved.is_too_large(self.workspace) or self._too_large
        return self.runner.supervisor.saved is not None

    def finish_save(self) -> str:
        """Return the folder of the image when the command that saves has ended.

        The image is removed with the run, unless it is moved. Raises `SnapshotError`.
        """
        return saved.finish(self.workspace, self.runner.supervisor.saved, too_large=self._too_large)

    def save(self, budget: Budget) -> str:
        """Save the sandbox, in the thread that drives it; return the folder of `finish_save`.

        The sandbox runs on. At the end of the time it is of no use any more: end it.
        """
        self.begin_save()
        supervisor = self.runner.supervisor
        while not self.is_saved() and not supervisor.over:
            if (left := budget.left) <= 0:
                raise SnapshotError("the sandbox was not saved in time")
            supervisor.turn(min(left, saved.WATCH))
        return self.finish_save()

    def oom_kills(self) -> int:
        """Return the number of its processes that the kernel has killed for memory."""
        return self.runner.cgroups.oom_kills()

    def end(self, patience: float = 0.0) -> Ended:
        """Wait ``patience`` seconds for its end, kill the rest, and remove everything."""
        with self._undo:
            return self._finish(patience, self.runner.clean)

    def leave(self, patience: float = 0.0) -> Ended:
        """End it like `end`, and return while the keeper removes everything; then `settle`.

        What cannot be removed is not in the result.
        """
        with contextlib.ExitStack() as undo:
            undo.push(self._undo)
            ended = self._finish(patience, self.runner.supervisor.release)
            undo.pop_all()
        return ended

    def settle(self) -> None:
        """Wait until everything is removed, after `leave`. A second call does nothing."""
        self._undo.close()

    def _finish(self, patience: float, remove: Callable[[], None]) -> Ended:
        """End it, and have it removed by ``remove``."""
        error: GvisorError | None = None
        try:
            killed = self.runner.supervisor.end(patience)
            _completed, found = self.runner.finish(remove)
            error = None if killed else found
        except GvisorError as caught:
            error = caught
        self.record.error = error
        return Ended(completed=self.record.completed, error=error)
