"""The counters of a relay on the host, and when they are whole: all that programs had sent counts.

The relay asks the relay in the sandbox, which answers when it has passed on what had come, and no
connection waits for credit. Then each connection must be made or refused, and its host must have
taken what has come.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pytest_gvisor.guest.wire.mux import MuxError

SETTLED = 2.0
"""Seconds after which the counters are told as they are."""

SETTLE = b"settled"
"""The question of pytest for counters that are whole."""


class Counted:
    """The counters of an entry, or of a name that the sandbox has sent."""

    def __init__(self) -> None:
        self.counts = {"reached": 0, "refused": 0, "sent": 0, "received": 0}
        self.problem = ""

    def refuse(self, problem: str) -> None:
        """Count a refusal."""
        self.counts["refused"] += 1
        self.problem = problem

    def told(self) -> dict[str, object]:
        """Return the counters for pytest."""
        return {**self.counts, "problem": self.problem}


class Settling:
    """The wait for whole counters."""

    def __init__(self, ask: Callable[[], None]) -> None:
        """``ask`` asks the sandbox."""
        self.due = 0.0
        """When pytest has an answer at the latest (monotonic); 0 if it waits for none."""

        self._ask = ask
        self._open = 0  # questions to the sandbox without an answer

    def begin(self) -> None:
        """Begin to wait."""
        self.due = time.monotonic() + SETTLED
        self._open += 1
        self._ask()

    def answered(self) -> None:
        """Take the answer of the sandbox. Raises `MuxError` if nobody has asked."""
        if not self._open:
            raise MuxError("an answer that nobody has asked for")
        self._open -= 1

    def problem(self, *, waits: bool) -> str | None:
        """Return ``""`` when the counters are whole, the problem when it is late, and else None.

        ``waits`` is whether a connection is neither made nor refused, or has data for its host.
        """
        if not self.due:
            return None
        if time.monotonic() >= self.due:
            return f"not all is counted: after {SETTLED:g} s, a connection is not settled"
        return None if self._open or waits else ""
