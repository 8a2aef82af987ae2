"""A bounded capture of an output stream: keeps head and tail, and counts the middle."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from typing import Any

from pytest_gvisor.base.errors import stage

CHUNK = 1024 * 1024


class Capture:
    """A buffer of at most ``limit`` bytes of a stream, in memory that grows no further.

    A stream of at most ``limit`` bytes is kept exactly. If it is longer, its first and its last
    ``limit // 2`` bytes are kept.

    The memory is one private mapping: the head, then a circular buffer for the tail. The kernel
    gives it pages only where something is written, and a pipe is read straight into it. The
    circular buffer is never smaller than `CHUNK`, so that a small limit does not make small reads.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._head_room = limit - limit // 2
        self._tail_room = limit // 2
        self._ring = max(self._tail_room, CHUNK)
        self._memory: memoryview | None = None

    def room(self) -> memoryview:
        """Return the place for the stream's next bytes; report their number with `took`.

        Raises `LaunchError` if there is no memory for the first of them.
        """
        if self._memory is None:
            size = self._head_room + self._ring
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            with stage("output", f"no {size} bytes of memory for a workload's output"):
                self._memory = memoryview(mmap.mmap(-1, size, flags=flags))
        return self._memory[self._position() :]

    def took(self, count: int) -> None:
        """Count bytes that were put into `room`."""
        self.total += count

    def feed(self, data: memoryview) -> None:
        """Take the next bytes of the stream."""
        while data:
            room = self.room()
            count = min(len(room), len(data))
            room[:count] = data[:count]
            self.took(count)
            data = data[count:]

    def _position(self) -> int:
        over = self.total - self._head_room
        return self.total if over < 0 else self._head_room + over % self._ring

    @property
    def truncated(self) -> bool:
        """Whether bytes from the middle were left out."""
        return self.total > self.limit

    def data(self) -> bytes:
        """Return all of the stream, or its head followed by its tail."""
        return b"".join(self._parts())

    def last(self, count: int) -> bytes:
        """Return the last kept bytes."""
        parts: list[memoryview] = []
        for part in reversed(self._parts()):
            parts.insert(0, part[max(0, len(part) - count) :])
            count -= len(parts[0])
        return b"".join(parts)

    def _parts(self) -> list[memoryview]:
        memory = self._memory
        if memory is None:
            return []
        if not self.truncated:
            return [memory[: self.total]]
        end = self._position()
        begin = end - self._tail_room
        if begin >= self._head_room:
            return [memory[: self._head_room], memory[begin:end]]
        wrapped = begin + self._ring
        return [memory[: self._head_room], memory[wrapped:], memory[self._head_room : end]]


class Drain:
    """A reader of one pipe into a `Capture`."""

    def __init__(self, fd: int, capture: Capture) -> None:
        self.fd = fd
        self.capture = capture
        os.set_blocking(fd, False)
        # A larger pipe wakes this process up less often. The kernel refuses it if this user's
        # pipes hold too much by now (pipe(7)).
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, CHUNK)

    def read(self) -> bool:
        """Read once; False at the end of the stream."""
        try:
            count = os.readv(self.fd, [self.capture.room()])
        except BlockingIOError:
            return True
        self.capture.took(count)
        return count > 0

    def rest(self) -> None:
        """Read the bytes in the pipe now, and little more: a writer may never stop."""
        left = fcntl.fcntl(self.fd, fcntl.F_GETPIPE_SZ)
        while left > 0:
            before = self.capture.total
            if not self.read() or self.capture.total == before:
                return
            left -= self.capture.total - before


def streams(stdout: Capture, stderr: Capture) -> dict[str, Any]:
    """Return the fields of `Completed` on both streams, from what was captured so far."""
    return {
        "stdout_bytes": stdout.data(),
        "stderr_bytes": stderr.data(),
        "stdout_total": stdout.total,
        "stderr_total": stderr.total,
    }
