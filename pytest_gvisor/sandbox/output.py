"""The output of a program in a warm sandbox as it comes, bounded and read on demand.

While nobody reads, everything is taken and kept as in any `Completed`: head and tail. From the
first read on the program waits for its reader, as with a pipe.
"""

from __future__ import annotations

import codecs
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from pytest_gvisor.guest.wire.frames import WINDOW, FrameError
from pytest_gvisor.programs import clock
from pytest_gvisor.run.capture import Capture
from pytest_gvisor.sandbox.peers import Peer

_STEP = WINDOW // 4
_OVERLAP = 64 * 1024
_LOOK = 16 * 1024
"""Bytes that a search takes at once. A search cannot be interrupted, and the text is untrusted."""

Pattern = re.Pattern[str] | re.Pattern[bytes]
Match = re.Match[str] | re.Match[bytes]


class Stream:
    """One output stream from the guest. All methods are called with the channel's lock held."""

    def __init__(self, limit: int, give: Callable[[int], None]) -> None:
        self.capture = Capture(limit)
        self.ended = False
        self._give = give
        self._credit = WINDOW
        self._taps: list[bytearray] = []

    def feed(self, data: memoryview) -> None:
        """Take bytes. Raises `FrameError` for more than the guest has credit for."""
        if self.ended or len(data) > self._credit:
            raise FrameError("more of a stream than was asked for")
        self._credit -= len(data)
        self.capture.feed(data)
        for tap in self._taps:
            tap.extend(data)
        self.settle()

    def finish(self) -> None:
        """Note the stream's end. Raises `FrameError` for a second one."""
        if self.ended:
            raise FrameError("a second end of a stream")
        self.ended = True

    def tap(self) -> bytearray:
        """Return a buffer for a reader, with the kept bytes; those that come are added to it.

        The reader removes what it takes, and calls `settle`.
        """
        tap = bytearray(self.capture.data())
        self._taps.append(tap)
        return tap

    def close(self, tap: bytearray) -> None:
        """Add nothing more to a reader's buffer."""
        self._taps = [one for one in self._taps if one is not tap]
        self.settle()

    def settle(self) -> None:
        """Give the guest credit for the bytes that the slowest reader has taken."""
        if self.ended:
            return
        backlog = max(map(len, self._taps), default=0)
        missing = WINDOW - backlog - self._credit
        if missing >= _STEP:
            self._credit += missing
            self._give(missing)


class Watch:
    """A search for a pattern in one stream, which keeps its place and an overlap."""

    def __init__(self, stream: Stream, pattern: Pattern) -> None:
        """Begin the search; the lock is held."""
        self.stream = stream
        self._pattern = pattern
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._kept: Any = pattern.pattern[:0]  # text or bytes, as the pattern is
        self._cut = False
        self._tap = stream.tap()
        self._early = len(self._tap)

    def close(self) -> None:
        """End the search; the lock is held."""
        self.stream.close(self._tap)

    @property
    def waits(self) -> bool:
        """Whether there are bytes to search."""
        return bool(self._tap)

    @property
    def behind(self) -> bool:
        """Whether bytes from before the search are still unsearched: these need no waiting."""
        return self._early > 0

    def look(self, lock: threading.RLock) -> Match | None:
        """Search the bytes that have come since."""
        with lock:
            data = _take(self._tap, _LOOK)
            self._early -= len(data)
            self.stream.settle()
        if not data:
            return None
        # Not under the lock: a pattern of the caller may take long on a text of the workload.
        self._cut = self._cut or len(self._kept) > _OVERLAP
        is_text = isinstance(self._kept, str)
        self._kept = self._kept[-_OVERLAP:] + (self._decoder.decode(data) if is_text else data)
        # From 1 on: if text was cut off in front, ``^`` must not match at the cut.
        return self._pattern.search(self._kept, int(self._cut))


class Reader:
    """``process.stdout`` and ``process.stderr``: bytes as they come, or lines of them.

    A call waits until there is something, the stream's end, or its deadline (`NotReady`). The
    deadline is the sandbox's ``timeout`` unless given. Bytes that have come until then are not
    lost. No call returns more than the sandbox's ``max_output`` bytes.
    """

    def __init__(
        self, program: Peer, stream: Stream, most: int, patience: Callable[[float | None], float]
    ) -> None:
        self._program = program
        self._max_output = most
        self._patience = patience
        self._stream = stream
        self._tap: bytearray | None = None
        self._buffer, self._seen = bytearray(), 0
        self._turn = threading.Lock()

    @property
    def captured(self) -> bytes:
        """The output so far, read or not; of a long stream, its head and its tail."""
        with self._program.lock:
            return self._stream.capture.data()

    def read(self, size: int = -1, *, timeout: float | None = None) -> bytes:
        """Read ``size`` bytes, fewer only at the end; if ``size`` is negative, read to the end."""
        most = self._most(size)
        return self._take(lambda: most if len(self._buffer) >= most else None, most, timeout)

    def read1(self, size: int = -1, *, timeout: float | None = None) -> bytes:
        """Read at most ``size`` bytes; at least one unless ``size`` is 0, or at the end."""
        return self._take(lambda: len(self._buffer) or None, self._most(size), timeout)

    def readline(self, *, timeout: float | None = None) -> bytes:
        """Read the next line with its end."""
        most = self._most(-1)
        self._seen = 0

        def line() -> int | None:
            end = self._buffer.find(b"\n", self._seen) + 1
            self._seen = len(self._buffer)
            return end or (most if self._seen >= most else None)

        return self._take(line, most, timeout)

    def unread(self, data: bytes) -> None:
        """Put back what was read last: a cancelled task did not get it."""
        # Not in turn: this is asyncio's thread, and another reader may wait for long.
        with self._program.lock:
            self._buffer[:0], self._seen = data, 0
            self._program.changed.notify_all()

    def __iter__(self) -> Iterator[bytes]:
        """Yield the lines until the end."""
        while line := self.readline():
            yield line

    def _most(self, size: int) -> int:
        return min(size, self._max_output) if size >= 0 else self._max_output

    def _take(self, enough: Callable[[], int | None], most: int, timeout: float | None) -> bytes:
        program = self._program
        deadline = clock.monotonic() + self._patience(timeout)
        if not most:
            return b""
        with self._turn, program.lock:
            tap = self._tap = self._stream.tap() if self._tap is None else self._tap
            while True:
                self._buffer += _take(tap, most - len(self._buffer))
                self._stream.settle()
                count = enough()
                if count is not None:
                    break
                if self._stream.ended and not tap:
                    count = len(self._buffer)
                    break
                if not tap:
                    program.wait_change(deadline, "no output within the deadline")
            return _take(self._buffer, min(count, most))


def _take(buffer: bytearray, most: int) -> bytes:
    """Remove at most ``most`` bytes from the beginning of a buffer, and return them."""
    taken = bytes(buffer[: max(0, most)])
    del buffer[: len(taken)]
    return taken
