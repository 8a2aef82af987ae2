"""The states of one run, as an explicit machine: forward only, and exactly one verdict.

    resolved → bundled → spawned → running → verdict → reaped → cleaned

``spawned`` and ``running`` may be passed over, by a launch that fails and by a runsc that ends
before the workload; nothing else may. There is no state in which a workload runs that runsc did
not start.
"""

from __future__ import annotations

import enum

from pytest_gvisor.completed import Outcome


class State(enum.IntEnum):
    """Where a run is; the order is the only way through."""

    RESOLVED = 0
    BUNDLED = 1
    SPAWNED = 2
    RUNNING = 3
    VERDICT = 4
    REAPED = 5
    CLEANED = 6


_MAY_BE_PASSED_OVER = frozenset({State.SPAWNED, State.RUNNING})


class Lifecycle:
    """One run's way through the states; `AssertionError` on any step that is not on the way."""

    def __init__(self) -> None:
        self.state = State.RESOLVED
        self.history = [State.RESOLVED]
        self.verdict: Outcome | None = None

    def advance(self, to: State) -> None:
        """Go forward to ``to``, which is not `State.VERDICT`: see `decide`."""
        if to is State.VERDICT:
            raise AssertionError("a verdict is reached by decide()")
        self._step(to)

    def decide(self, verdict: Outcome) -> None:
        """Reach the one verdict of this run."""
        if self.verdict is not None:
            raise AssertionError(f"already decided: {self.verdict}, now {verdict}")
        self._step(State.VERDICT)
        self.verdict = verdict

    def _step(self, to: State) -> None:
        between = {state for state in State if self.state < state < to}
        if to <= self.state or not between <= _MAY_BE_PASSED_OVER:
            raise AssertionError(f"no way from {self.state.name} to {to.name}")
        self.state = to
        self.history.append(to)
