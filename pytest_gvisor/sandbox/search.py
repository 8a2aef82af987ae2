"""A search for a pattern in the output of a program in a warm sandbox, as it comes."""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from pytest_gvisor.errors import NotReady
from pytest_gvisor.guest.frames import WINDOW
from pytest_gvisor.sandbox.streams import Stream

if TYPE_CHECKING:
    import threading

Pattern = re.Pattern[str] | re.Pattern[bytes]
Match = re.Match[str] | re.Match[bytes]

_OVERLAP = 64 * 1024


class Program(Protocol):
    """The interface of a program for a search: see `Process`."""

    changed: threading.Condition

    def check_alive(self) -> None:
        """Raise an error if the program cannot end any more; the lock is held."""

    def wait_change(self, deadline: float, what: str) -> None:
        """Wait for any change. Raises `NotReady`, or the sandbox's end."""

    def not_ready(self, text: str) -> NotReady:
        """Return the error of an end that came too soon."""


def first(pattern: Pattern, program: Program, streams: Iterable[Stream], deadline: float) -> Match:
    """Return the first match in any of the streams: see `Process.wait_for_output`."""
    watches = [Watch(stream, pattern) for stream in streams]
    try:
        with program.changed:
            for watch in watches:
                watch.open()
        while True:
            for watch in watches:
                if (found := watch.look(program.changed)) is not None:
                    return found
            with program.changed:
                waits = any(watch.waits for watch in watches)
                early = any(watch.behind for watch in watches)
                if early or (waits and time.monotonic() < deadline):
                    continue
                if not waits and all(watch.stream.ended for watch in watches):
                    program.check_alive()
                    raise program.not_ready(f"ended without {pattern.pattern!r} in its output")
                program.wait_change(deadline, f"{pattern.pattern!r} in its output")
    finally:
        with program.changed:
            for watch in watches:
                watch.close()


class Watch:
    """A search in one stream, which keeps its place and an overlap."""

    def __init__(self, stream: Stream, pattern: Pattern) -> None:
        self.stream = stream
        self._pattern = pattern
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._text = ""
        self._bytes = b""
        self._cut = False
        self._early = 0
        self._opened = False

    def open(self) -> None:
        """Begin the search; the lock is held."""
        self._tap = self.stream.tap()
        self._early = self._tap.size
        self._opened = True

    def close(self) -> None:
        """End the search; the lock is held."""
        if self._opened:
            self.stream.close(self._tap)

    @property
    def waits(self) -> bool:
        """Whether there are bytes to search."""
        return self._tap.size > 0

    @property
    def behind(self) -> bool:
        """Whether bytes from before the search are still unsearched: these need no waiting."""
        return self._early > 0

    def look(self, lock: threading.Condition) -> Match | None:
        """Search the bytes that have come since."""
        with lock:
            data = self._tap.take(WINDOW)
            self._early -= len(data)
            self.stream.settle()
        if not data:
            return None
        # Not under the lock: the pattern is the caller's, the text a stranger's.
        if isinstance(self._pattern.pattern, bytes):
            self._cut = self._cut or len(self._bytes) > _OVERLAP
            self._bytes = self._bytes[-_OVERLAP:] + data
            return self._pattern.search(self._bytes, int(self._cut))
        self._cut = self._cut or len(self._text) > _OVERLAP
        self._text = self._text[-_OVERLAP:] + self._decoder.decode(data)
        # From 1 on: what was cut off in front is no beginning for ^.
        return self._pattern.search(self._text, int(self._cut))
