"""The socket of the pytest in the sandbox to the host.

Used by worker.py alone: standard library only.
"""

from __future__ import annotations

import collections
import os
import threading
import time
from typing import Any, BinaryIO

from pytest_gvisor.guest.tests.unsent import Unsent
from pytest_gvisor.guest.wire import encoding, frames

# Tests replace functions of modules, and this program speaks while they are replaced.
_getpid = os.getpid
_now = time.time
_MOST_WAITING = 256 * 1024
_SHORT = frozenset({"done", "passed", "phase"})
"""Messages of a few words, of one test each. They are encoded when they are written."""

_HELD = 0.01
"""Seconds for which they are held back together: the host has something to report meanwhile."""


class Link:
    """The socket to the host, moved out of the way of everything that a test may do.

    Output outside of a test goes to descriptors 1 and 2, one pipe that the host keeps the end of.
    """

    def __init__(self, memory: int | None = None) -> None:
        """``memory`` is the descriptor of a file for `Unsent`."""
        os.set_blocking(0, True)
        self.socket = self._commands = os.dup(0)
        self._decoder = frames.Decoder(max_json=frames.UNBOUNDED)
        self._encoder = frames.Encoder(max_json=frames.UNBOUNDED)
        self._messages: BinaryIO = os.fdopen(os.dup(0), "wb")
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        self._waiting: collections.deque[bytes | tuple[str, dict[str, Any]]] = collections.deque()
        self._size = 0
        self._early: collections.deque[dict[str, Any]] = collections.deque()
        """Commands that came before the answer to a question."""

        self._memory = memory
        self._unsent: Unsent | None = None
        self._hurry = False
        self._sent = 0.0
        self._writes = threading.Lock()
        os.register_at_fork(after_in_child=self._disown)
        self.own()

    def own(self) -> None:
        """Be the process that the host talks to."""
        self._pid = _getpid()

    def _disown(self) -> None:
        self._pid = 0

    def is_ours(self) -> bool:
        """Whether this is the process that the host talks to, and no fork of a test's.

        Only C code forks unseen. Such a fork is killed when it touches the memory for `Unsent`.
        """
        return self._pid != 0 if self._unsent is not None else _getpid() == self._pid

    def ask(self, kind: str, **fields: object) -> dict[str, Any]:
        """Send a question and return its answer; the commands before it keep their turn."""
        self.send(kind, **fields)
        while (command := self._receive())["op"] != "answer":
            self._early.append(command)
            if command["op"] == "finish":
                return {"op": "answer", "text": ""}
        return command

    def receive(self) -> dict[str, Any]:
        """Receive the next command; the host's end is ``finish``."""
        return self._early.popleft() if self._early else self._receive()

    def _receive(self) -> dict[str, Any]:
        while True:
            for command, _payload in self._decoder.frames():
                return command
            self._write()
            if not self._decoder.read(self._commands):
                return {"op": "finish"}

    def hold(self) -> bool:
        """Hold short messages back from here on, if there is memory that the host reads too."""
        if self._memory is not None:
            self._unsent = Unsent(self._memory)
        return self._unsent is not None

    def send(self, kind: str, **fields: object) -> None:
        """Send one message, after those that were put off: a crash shows the host how far this
        got.

        A thread or a signal handler of a test may send too, by a bridge.
        """
        self.put_off(kind, **fields)
        self._write(hurry=kind not in _SHORT)

    def put_off(self, kind: str, **fields: object) -> None:
        """Send one message together with the next: each write costs two changes of processes.

        A fork says nothing: the host would take its words for the next test's.
        """
        if not self._pid:
            return
        if kind in _SHORT:
            self._waiting.append((kind, fields))
            return
        # A report of a failure, say: with the next message everything that waits is sent.
        self._hurry = True
        data = encoding.encoded(kind, fields)
        self._waiting.append(data)
        self._size += len(data)
        if self._size > _MOST_WAITING:
            self._write()

    def _write(self, *, hurry: bool = True) -> None:
        if not self.is_ours():
            return
        self._size = 0
        late = not self._sent <= _now() < self._sent + _HELD
        self._hurry |= hurry or late or self._unsent is None
        # Frames are numbered. Whoever cannot write now leaves its message to the one who does, and
        # nobody waits: a signal handler would wait for the code that it interrupts.
        while (self._waiting or self._hurry) and self._writes.acquire(blocking=False):
            try:
                while self._waiting:
                    self._add(self._encoder.framed(self._next()))
                if self._hurry:
                    self._hurry = False
                    self._flush()
            finally:
                self._writes.release()

    def _add(self, frame: bytes) -> None:
        if self._unsent is not None:
            if self._unsent.add(frame):
                return
            self._flush()
            if self._unsent.add(frame):
                return
            self._hurry = True
        self._messages.write(frame)

    def _flush(self) -> None:
        if self._unsent is not None:
            self._messages.write(self._unsent.frames())
        self._messages.flush()
        if self._unsent is not None:
            self._unsent.clear()
            self._sent = _now()

    def _next(self) -> bytes:
        """Take the next message; a passed phase goes in one with what follows it."""
        first = self._waiting[0]
        if isinstance(first, bytes):
            self._waiting.popleft()
            return first
        kind, fields = first
        count = 1
        if kind == "passed" and len(self._waiting) > 1:
            second = self._waiting[1]
            if isinstance(second, tuple) and second[0] != "passed":
                count, kind, fields = 2, second[0], {**fields, **second[1]}
        data = encoding.short(kind, fields)
        for _ in range(count):
            self._waiting.popleft()
        return data
