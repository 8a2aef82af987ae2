"""The trace of the test that runs in a sandbox, for its fixtures and for a failure's report.

A drop is reported with the next event. So before a fixture gets the trace, the pytest inside has to
open a file whose name nobody there could know before. The event of this comes after all others.
"""

from __future__ import annotations

import dataclasses
import pickle
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_gvisor.base.errors import TraceError
from pytest_gvisor.guest.tests.gate import COLLECTS
from pytest_gvisor.programs import clock
from pytest_gvisor.run.supervisor import Supervisor

if TYPE_CHECKING:
    from pytest_gvisor.base.traced import Trace
    from pytest_gvisor.trace.recorder import Recorder


_FILES = ("read", "write")
"""What forbids all reads and writes."""

_AMID = 1.0
"""Seconds in which the event of a call that a background process is amid comes. Later it is taken
for one that gVisor cannot report, and the trace has a gap."""


class TestTrace:
    """All that a traced sandbox has done since its current test began."""

    def __init__(
        self, supervisor: Supervisor, recorder: Recorder, forbid: Sequence[str] = ()
    ) -> None:
        self._supervisor, self.recorder = supervisor, recorder
        self.forbid = forbid
        self._dropped = 0
        recorder.mark = COLLECTS
        self._in_tests = False
        self._before = ""
        """Forbidden acts since the test before, or in the collection: the next test has them."""

        self._judged: Trace | None = None
        """The trace of the test that has ended; what comes after it is the next one's."""

    def begin(self, op: str) -> None:
        """Begin anew for a command that runs a test, or ends the session."""
        if op in ("run", "finish"):
            acts = self._forbidden(self._end())
            self._before = f"before this test began: {acts}" if acts and op == "run" else acts
            self._judged, self._in_tests = None, op == "run"

    def _end(self) -> Trace:
        """Return what was done so far, and begin anew after its last event."""
        trace = self._so_far()
        self.recorder.begin_anew()
        self.recorder.mark, self._dropped = "", self._supervisor.listener.dropped
        return trace

    def answer(self, *, marked: bool) -> dict[str, Any]:
        """Return the answers to the pytest inside: first the name of a file, then the trace."""
        if not marked:
            return {"mark": self.mark()}
        # The pytest inside may trust this process, but never the other way round.
        return {"trace": pickle.dumps(self._so_far()).hex()}

    def mark(self) -> str:
        """Return the name of the file that is to be opened next."""
        self.recorder.mark = f"/{secrets.token_hex(16)}"
        return self.recorder.mark

    def marked(self) -> bool:
        """Whether it has been opened."""
        return not self.recorder.mark

    def verdict(self) -> tuple[Sequence[str], str]:
        """Return the test's calls that gVisor does not implement, and its forbidden acts as a text.

        The text is why these are not known if the trace has a gap, and else nothing.
        """
        trace = self._judged = self._end()
        return trace.unsupported, "\n".join(filter(None, (self._before, self._forbidden(trace))))

    def after_last(self) -> str:
        """Return the forbidden acts after the last test, when the sandbox has ended.

        None where it was not asked to end.
        """
        if self._in_tests:
            return ""
        acts = self._forbidden(self._so_far())
        return "\n".join(filter(None, (self._before, acts)))

    def _forbidden(self, trace: Trace) -> str:
        """Return the forbidden acts of a trace, or why they are not known.

        Outside of tests, pytest itself reads and writes files, and nobody waits for each event.
        """
        forbid = self.forbid
        if not self._in_tests:
            forbid = [one for one in forbid if one not in _FILES]
            trace = dataclasses.replace(trace, gaps=())
        try:
            if forbid:
                trace.check(forbid=forbid)
        except (AssertionError, TraceError) as error:
            return str(error)
        return ""

    def latest(self) -> Trace:
        """Return the trace of the test that has ended last, or of the one that runs."""
        return self._judged or self._so_far()

    def _so_far(self) -> Trace:
        listener, recorder = self._supervisor.listener, self.recorder
        until = clock.monotonic() + _AMID
        while listener.fileno() >= 0:  # it is closed with the sandbox
            self._supervisor.drain_events()
            if clock.monotonic() > until or not any(recorder.pending.values()):
                break
            time.sleep(0.001)
        # Without the event of the mark, this is not known to be the last number of drops.
        dropped = listener.dropped - self._dropped + bool(recorder.mark)
        return recorder.trace(dropped=dropped, broken=listener.broken, ended=True)
