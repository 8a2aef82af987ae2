"""When the counters of a relay on the host are whole: all that a program had sent is counted.

The relay asks the relay in the sandbox, which answers when it has passed on what had come. Then
each connection that it has opened must be made or refused. If there was a new one, its data may
still be in the sandbox, and the relay asks again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from pytest_gvisor.guest.wire.mux import MuxError

SETTLED = 2.0
"""Seconds after which the counters are told as they are."""

SETTLE = b"settled"
"""The question of pytest for counters that are whole."""

_ROUNDS = 10
"""Further questions to a sandbox whose programs connect all the time."""


class Settling:
    """The wait for whole counters. Connections are known by their numbers, which grow."""

    def __init__(self, ask: Callable[[], None]) -> None:
        """``ask`` asks the sandbox."""
        self.due = 0.0
        """When pytest has an answer at the latest (monotonic); 0 if it waits for none."""

        self._ask = ask
        self._open = 0  # questions to the sandbox without an answer
        self._rounds = 0
        self._before = self._until = 0  # the last connection at a question, and at its answer

    def begin(self, last: int) -> None:
        """Begin to wait; ``last`` is the last connection so far."""
        self.due = time.monotonic() + SETTLED
        self._rounds = _ROUNDS
        self._question(last)

    def _question(self, last: int) -> None:
        self._open += 1
        self._before = last
        self._ask()

    def answered(self, last: int) -> None:
        """Take the answer of the sandbox. Raises `MuxError` if nobody has asked."""
        if not self._open:
            raise MuxError("an answer that nobody has asked for")
        self._open -= 1
        self._until = last

    def problem(self, last: int, attempts: Iterable[int]) -> str | None:
        """Return ``""`` when the counters are whole, the problem when it is late, and else None.

        ``attempts`` are the connections that are neither made nor refused.
        """
        if not self.due:
            return None
        if time.monotonic() >= self.due:
            return f"not all is counted: after {SETTLED:g} s, a connection is not settled"
        if self._open or any(number <= self._until for number in attempts):
            return None
        if self._before == self._until or not self._rounds:
            return ""
        self._rounds -= 1
        self._question(last)
        return None
