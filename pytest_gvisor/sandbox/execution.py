"""One `Sandbox.exec`, from the input of its program to the result in the test's report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from pytest_gvisor.base.completed import Completed, Outcome
from pytest_gvisor.base.errors import GvisorError, NotReady, on_exception
from pytest_gvisor.programs import clock
from pytest_gvisor.run.request import Record, Request, check_forbidden, forget
from pytest_gvisor.sandbox.process import TERM_GRACE, Process


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """A program that has been started, up to its result.

    ``request`` and ``ours`` are those of the sandbox; ``records`` is where the program is noted,
    for the test's report.
    """

    process: Process
    request: Request
    ours: Record
    records: list[Record]

    def run(self, chunks: Iterable[bytes] | None, timeout: float, deadline: float) -> Completed:
        """Feed the program and wait for its end, or end it. Raises as `Sandbox.exec`."""
        process = self.process
        with on_exception(self._cut_short):
            try:
                if not self._follow(chunks, deadline):
                    self._expire(timeout)
            finally:
                if not process.over:  # after a Ctrl-C, say, or an error of the iterable's own
                    process.kill()
            completed = self._note(None)
        process.channel.driven.check_relays()
        return completed

    def _follow(self, chunks: Iterable[bytes] | None, deadline: float) -> bool:
        """Feed the program and wait for its end; False at the deadline."""
        process = self.process
        try:
            if chunks is not None:
                process.check_started(deadline)
                process.feed(chunks, deadline)
        except NotReady:
            if clock.monotonic() < deadline:  # of the iterable's own
                raise
            return False
        over = process.wait_over(deadline)
        process.check_refused()
        return over

    def _expire(self, timeout: float) -> None:
        """End a program whose deadline has passed, and raise."""
        process = self.process
        process.terminate()
        process.wait_over(clock.monotonic() + TERM_GRACE)
        confirmed = process.kill_tree()
        if not confirmed:
            process.channel.kill("a program lived on after its deadline", replaceable=True)
            process.channel.join()
        raise process.timed_out(timeout, confirmed=confirmed)

    def _cut_short(self, error: BaseException) -> None:
        """Check a program that this error has ended, which may be of its input's iterable."""
        if isinstance(error, GvisorError):
            with on_exception(self._cut_short):
                self._note(error)
        elif self.request.settings.forbid:
            check_forbidden(self.request, self.process.completed(Outcome.CANCELLED))

    def _note(self, error: GvisorError | None) -> Completed:
        """Record how the program has ended, and check whether it did what is forbidden."""
        ours, completed = self.ours, self.process.completed()
        noted = Record(
            args=self.process.args, argv=ours.argv, order=ours.order, command=ours.command,
            spec=ours.spec, completed=completed, error=error,
        )  # fmt: skip
        self.records.append(noted)
        forget(self.records)
        check_forbidden(self.request, completed)
        return completed
