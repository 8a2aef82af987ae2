"""Bounded capture of an output stream: the head and the tail are kept, the middle is counted."""

from __future__ import annotations

import os

CHUNK = 1024 * 1024


class Capture:
    """At most ``limit`` bytes of a stream, in memory that does not grow beyond that.

    A stream of at most ``limit`` bytes is kept exactly. Of a longer one the first and the last
    ``limit // 2`` bytes are kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._head_room = limit - limit // 2
        self._tail_room = limit // 2
        self._head = bytearray()
        self._ring = bytearray()
        self._position = 0

    def feed(self, data: memoryview) -> None:
        """Take the next bytes of the stream."""
        self.total += len(data)
        missing = self._head_room - len(self._head)
        if missing > 0:
            self._head += data[:missing]
            data = data[missing:]
        data = data[max(0, len(data) - self._tail_room) :]
        if not data:
            return
        growing = self._tail_room - len(self._ring)
        if growing > 0:
            self._ring += data[:growing]
            data = data[growing:]
        while data:
            count = min(len(data), self._tail_room - self._position)
            self._ring[self._position : self._position + count] = data[:count]
            self._position = (self._position + count) % self._tail_room
            data = data[count:]

    @property
    def truncated(self) -> bool:
        """Whether bytes from the middle were left out."""
        return self.total > self.limit

    @property
    def left_out(self) -> int:
        """How many bytes were left out."""
        return max(0, self.total - self.limit)

    def head(self) -> bytes:
        """The first bytes: all of the stream if nothing was left out."""
        return bytes(self._head) if self.truncated else bytes(self._head) + bytes(self._ring)

    def tail(self) -> bytes:
        """The last bytes, if any were left out before them; else nothing."""
        if not self.truncated:
            return b""
        return bytes(self._ring[self._position :]) + bytes(self._ring[: self._position])


class Drain:
    """Reads one pipe into a `Capture`, with a buffer that is used again and again."""

    def __init__(self, fd: int, capture: Capture, buffer: bytearray) -> None:
        self.fd = fd
        self.capture = capture
        self._buffer = buffer
        os.set_blocking(fd, False)

    def read(self) -> bool:
        """Read once; False at the end of the stream."""
        try:
            count = os.readv(self.fd, [self._buffer])
        except BlockingIOError:
            return True
        if count:
            with memoryview(self._buffer) as view:
                self.capture.feed(view[:count])
        return count > 0
