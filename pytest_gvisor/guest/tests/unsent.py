"""Frames that wait to be sent, in memory that the host reads too.

A write to the socket costs a test far more than one to memory: two changes of processes. runsc maps
the host's own pages, so a store here is visible there without a system call. Whatever ends the
pytest, a full memory and a crash of the sentry included, the frames stay where the host finds them.
A test can write here, as it can to the socket. So the host seals the file's size, and checks what
is in it like what comes over the socket. Used on both sides: standard library only.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
import sys

SIZE = 64 * 1024
HEAD = struct.Struct("=II")
"""The length of the frames that follow, and how often the memory has been cleared."""

# The place of both numbers in the one that is stored.
_LENGTH, _ROUND = (1, 1 << 32) if sys.byteorder == "little" else (1 << 32, 1)

_ROUNDS = 2**32


class Unsent:
    """The memory of one pytest, in a file that the host has made."""

    def __init__(self, fd: int) -> None:
        """Map the file, and close its descriptor. Python's own for the mapping is inherited by no
        program.
        """
        memory = mmap.mmap(fd, SIZE)  # shared: what is stored here is in the host's file
        os.close(fd)
        # A fork that touches it is killed, so it says nothing in its parent's name.
        memory.madvise(mmap.MADV_DONTFORK)
        self._bytes = memoryview(memory)
        # Length and round change by one store: the host never reads half of it.
        self._head = self._bytes[: HEAD.size].cast("Q")
        self._round = 0
        self._end = HEAD.size
        self.clear()

    def add(self, frame: bytes) -> bool:
        """Add a frame; return False if there is no room for it."""
        end = self._end + len(frame)
        if end > SIZE:
            return False
        self._bytes[self._end : end] = frame
        self._end = end
        self._head[0] = (end - HEAD.size) * _LENGTH + self._round * _ROUND
        return True

    def frames(self) -> bytes:
        """Return the frames since it was cleared."""
        return bytes(self._bytes[HEAD.size : self._end])

    def clear(self) -> None:
        """Forget them, when they are sent."""
        self._end = HEAD.size
        self._round = (self._round + 1) % _ROUNDS
        self._head[0] = self._round * _ROUND


def take_memory() -> int | None:
    """Return the descriptor of the file that came as descriptor 1, which becomes that of 2.

    None where none came.
    """
    if not stat.S_ISREG(os.fstat(1).st_mode):
        return None
    memory = os.dup(1)
    os.dup2(2, 1)
    # Of a regular file Python would go on to tell the position.
    said, name = sys.stdout, "<stdout>"
    fresh = open(1, "w", encoding=said.encoding, errors=said.errors, closefd=False)  # noqa: SIM115
    fresh.buffer.raw.name = name  # type: ignore[attr-defined]
    sys.stdout = sys.__stdout__ = fresh  # type: ignore[misc]
    return memory
