"""The time and the bytes that one phase of a sandbox may take, whatever the sandbox sends.

A phase is a start, a collection, a test, the return of files, or the end of a session. Each loop
that reads what comes from inside draws on the budget of its phase. Bytes, messages and warnings
take from it, and add nothing. Bytes that the host has asked for add time, up to a maximum. A line
that the user types at a terminal begins the time anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pytest_gvisor.base.errors import ProtocolError
from pytest_gvisor.programs import clock

MOST_MESSAGES = 256 * 1024 * 1024
"""Bytes of messages in a phase. The reports in them stay in memory until the session ends."""

MOST_SHOWN = 16 * 1024 * 1024
"""Bytes of output in a phase that the user is shown as they come."""

LATE = 5.0
"""Seconds after the end of a phase in which messages that have come by then are still taken."""

LONGEST_MORE = 300.0
"""Seconds that bytes which were asked for may add to a phase."""

_SLOWEST = 1024 * 1024
"""Bytes a second that the host has asked for: a sandbox that sends fewer is taken to hang."""

_LAP = 2.0
"""The most seconds that count between two looks at the clock. A wait lasts a second at most. If
more has passed, the host took it: this process was stopped, or a hook of a plugin was slow."""


class Budget:
    """The budget of one phase, which begins now."""

    def __init__(
        self, seconds: float, *, size: int = MOST_MESSAGES, shown: int = MOST_SHOWN
    ) -> None:
        self._seconds = self._left = seconds
        self._more = LONGEST_MORE
        self._size = self._room = size
        self.latest = 0
        """Bytes of the last message."""

        self._shown = shown
        self._last = clock.monotonic()

    @property
    def left(self) -> float:
        """The seconds that are left; below 0 after the end."""
        now = clock.monotonic()
        self._left -= min(now - self._last, _LAP)
        self._last = now
        return self._left

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        """Count no time in the block, in which the host waits for its user."""
        before = self.left
        try:
            yield
        finally:
            self._left, self._last = before, clock.monotonic()

    def renew(self) -> None:
        """Begin with the time anew, because the user has typed a line."""
        self._left, self._last = self._seconds, clock.monotonic()

    def earn(self, size: int, spent: float = 0.0) -> None:
        """Add time for bytes that the host asked for, and the seconds that it ``spent`` on them."""
        more = min(size / _SLOWEST + spent, self._more)
        self._more -= more
        self._left += more

    def spend(self, size: int) -> None:
        """Take the bytes of a message. Raises `ProtocolError` if there are too many."""
        self.latest = size
        self._room -= size
        if self._room < 0:
            raise ProtocolError(f"more than {self._size} bytes of messages from inside at once")

    def shown(self, data: bytes) -> bytes:
        """Return the part of an output that is shown; the last part says that there is more."""
        part = data[: max(self._shown, 0)]
        said = self._shown < 0
        self._shown -= len(data)
        if self._shown < 0 and not said:
            part += b"\n[pytest-gvisor: there is more output, which is not shown]\n"
        return part
