"""The trace of the test that runs in a sandbox, for its fixtures and for a failure's report.

A drop is reported with the next event. So before a fixture gets the trace, the pytest inside has to
open a file whose name nobody there could know before. The event of this comes after all others.
"""

from __future__ import annotations

import pickle
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pytest_gvisor.base.errors import TraceError
from pytest_gvisor.run.supervisor import Supervisor

if TYPE_CHECKING:
    from pytest_gvisor.base.traced import Trace
    from pytest_gvisor.trace.recorder import Recorder


class TestTrace:
    """All that a sandbox has done since its current test began; nothing where it is not traced."""

    def __init__(self, supervisor: Supervisor, forbid: Sequence[str] = ()) -> None:
        self._supervisor = supervisor
        self.forbid = forbid
        self._dropped = 0
        self._recorder = cast("Recorder | None", supervisor.listener.recorder)

    def begin(self) -> None:
        """Forget what came before a test."""
        if self._recorder is not None:
            self._supervisor.drain_events()
            self._recorder.begin_anew()
            self._dropped = self._supervisor.listener.dropped

    def answer(self, *, marked: bool) -> dict[str, Any]:
        """Return the answers to the pytest inside: first the name of a file, then the trace."""
        if self._recorder is None:
            return {"trace": None}
        if not marked:
            return {"mark": self.mark()}
        # The pytest inside may trust this process, but never the other way round.
        return {"trace": pickle.dumps(self._so_far(self._recorder)).hex()}

    def mark(self) -> str:
        """Return the name of the file that is to be opened next."""
        assert self._recorder is not None
        self._recorder.mark = f"/{secrets.token_hex(16)}"
        return self._recorder.mark

    def marked(self) -> bool:
        """Whether it has been opened."""
        return self._recorder is None or not self._recorder.mark

    def verdict(self) -> tuple[Sequence[str], str]:
        """Return the test's calls that gVisor does not implement, and its forbidden acts as a text.

        The text is why these are not known if the trace has a gap, and else nothing.
        """
        if self._recorder is None:
            return (), ""
        trace = self._so_far(self._recorder)
        try:
            if self.forbid:
                trace.check(forbid=self.forbid)
        except (AssertionError, TraceError) as error:
            return trace.unsupported, str(error)
        return trace.unsupported, ""

    def acts(self, *, tree: bool = False) -> str:
        """Return the first lines of what the test did so far, or all of it as a tree."""
        if self._recorder is None:
            return ""
        trace = self._so_far(self._recorder)
        return trace.tree() if tree else trace.first_lines()

    def _so_far(self, recorder: Recorder) -> Trace:
        listener = self._supervisor.listener
        if listener.fileno() >= 0:  # it is closed with the sandbox
            self._supervisor.drain_events()
        # Without the event of the mark, this is not known to be the last number of drops.
        dropped = listener.dropped - self._dropped + bool(recorder.mark)
        return recorder.trace(dropped=dropped, broken=listener.broken, ended=True)
