"""The guest's loop: one thread, descriptors that never block, and streams with credit.

A stream's bytes go to the host only as far as the host has given credit, and not while more than
1 MiB of frames is waiting to be sent. So a host that does not read one stream holds up no other,
and the memory of this process stays bounded. Standard library only; part of the program
`init_process`.
"""

from __future__ import annotations

import collections
import contextlib
import os
import select
import time

from pytest_gvisor.guest.wire import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

READ = select.EPOLLIN
WRITE = select.EPOLLOUT

_CONGESTED = 1024 * 1024
_RELIEVED = 256 * 1024
_CREDIT_STEP = frames.WINDOW // 8
_PAUSE = 0.003


class Loop:
    """The loop: waits for descriptors and timers, and sends frames to the host."""

    def __init__(self, host: int) -> None:
        self.host = host
        self._to_host = os.dup(host)
        os.set_blocking(host, False)
        self.encoder = frames.Encoder()
        self.decoder = frames.Decoder()
        self.sources: set[Source] = set()
        self.congested = False
        self.oldest = 0  # nothing is sent about earlier ids, which this host does not know
        self._out = frames.Outbox()
        self._epoll = select.epoll()
        self._acts: dict[int, Callable[[], None]] = {}
        self._timers: collections.deque[tuple[float, Callable[[], None]]] = collections.deque()
        self._soon: collections.deque[Callable[[], None]] = collections.deque()

    def want(self, fd: int, event: int, act: Callable[[], None] | None) -> None:
        """Call ``act`` whenever ``fd`` is ready in this way; None stops it.

        A descriptor is for one direction. A socket has two, each with a descriptor of its own.
        """
        if act is None:
            if self._acts.pop(fd, None) is not None:
                self._epoll.unregister(fd)
            return
        if fd not in self._acts:
            self._epoll.register(fd, event)
        self._acts[fd] = act

    def close(self, fd: int) -> None:
        """Close a descriptor of the guest's that the loop may wait for."""
        self.want(fd, 0, None)
        os.close(fd)

    def later(self, act: Callable[[], None]) -> None:
        """Call ``act`` once, after a pause that is the same for all, so that the first is due
        first.
        """
        self._timers.append((time.monotonic() + _PAUSE, act))

    def soon(self, act: Callable[[], None]) -> None:
        """Call ``act`` once, in the next turn."""
        self._soon.append(act)

    def send(self, message: dict[str, Any], payload: bytes = b"") -> None:
        """Send a frame to the host, at the end of this turn or when the host can take it."""
        if 0 < message["id"] < self.oldest:
            return
        self._out.add(self.encoder.head(message, len(payload)), payload)
        if self._out.size > _CONGESTED and not self.congested:
            self.flush()

    def flush(self) -> None:
        """Send as much as possible. If the host is gone, end everything."""
        try:
            self._out.write(self.host)
        except BlockingIOError:
            pass
        except OSError:
            raise SystemExit(0) from None
        self.want(self._to_host, WRITE, self.flush if self._out.size else None)
        limit = _RELIEVED if self.congested else _CONGESTED
        if self.congested != (self._out.size > limit):
            self.congested = not self.congested
            for source in list(self.sources):
                source.update()

    def rest(self, tag: bytes) -> dict[str, Any]:
        """Send everything, then do nothing until a frame with ``tag`` comes; return its message.

        Between the two, no frame is on its way in either direction.
        """
        os.set_blocking(self.host, True)
        try:
            self._out.write(self.host)
            woken = frames.receive(self.host, tag)
        except (OSError, EOFError):
            raise SystemExit(0) from None
        finally:
            os.set_blocking(self.host, False)
        self.flush()
        return woken

    def begin_anew(self, oldest: int) -> None:
        """Speak with a new host from the first frame on, whose ids begin with ``oldest``."""
        self.encoder, self.decoder = frames.Encoder(), frames.Decoder()
        self.oldest = oldest

    def turn(self) -> None:
        """Wait until something is ready, and handle it."""
        timeout = None
        if self._timers:
            timeout = max(0.0, self._timers[0][0] - time.monotonic())
        for fd, _event in self._epoll.poll(0 if self._soon else timeout):
            act = self._acts.get(fd)  # an earlier one of this turn may have stopped it
            if act is not None:
                act()
        for _ in range(len(self._soon)):
            self._soon.popleft()()
        while self._timers and self._timers[0][0] <= time.monotonic():
            self._timers.popleft()[1]()
        if self._out.size:
            self.flush()


class Source:
    """A descriptor whose bytes go to the host as one stream of a frame id."""

    def __init__(
        self,
        loop: Loop,
        fd: int,
        name: tuple[int, int],
        done: Callable[[int], None],
        *,
        waits: bool = True,
    ) -> None:
        self.fd = fd
        self.ended = False
        self._loop = loop
        self._id, self._stream = name
        self._done = done
        self._waits = waits  # False for a regular file, which is always ready
        self._credit = frames.WINDOW
        self._rest: int | None = None
        self._scheduled = False
        loop.sources.add(self)
        self.update()

    def add_credit(self, count: int) -> None:
        """Add credit for bytes that the host can take."""
        self._credit += count
        self.update()

    def finish(self, rest: int) -> None:
        """End the stream for the host after ``rest`` bytes; later bytes are dropped."""
        if not self.ended and self._rest is None:
            self._rest = rest
            if not rest:
                self._end(0)

    def abandon(self) -> None:
        """Go on reading, so that writers are not blocked, and drop all bytes."""
        self.ended = True
        self._loop.sources.discard(self)
        self.update()

    def update(self) -> None:
        """Start or stop waiting for the descriptor."""
        if self.fd < 0:
            return
        ready = self.ended or (self._credit > 0 and not self._loop.congested)
        if self._waits:
            self._loop.want(self.fd, READ, self._read if ready else None)
        elif ready and not self._scheduled:
            self._scheduled = True
            self._loop.soon(self._read)

    def _read(self) -> None:
        self._scheduled = False
        if self.fd < 0:
            return
        most = frames.MAX_PAYLOAD
        if not self.ended:
            most = min(most, self._credit if self._rest is None else min(self._credit, self._rest))
        try:
            data = os.read(self.fd, most)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error.errno or 0)
            self.close()
            return
        if data and not self.ended:
            self._credit -= len(data)
            self._loop.send({"op": "data", "id": self._id, "s": self._stream}, data)
            if self._rest is not None:
                self._rest -= len(data)
        if not data or self._rest == 0:
            self._end(0)
        if data:
            self.update()
        else:
            self.close()

    def _end(self, number: int) -> None:
        if not self.ended:
            self.ended = True
            self._loop.sources.discard(self)
            self._done(number)
            self.update()

    def close(self) -> None:
        """Stop reading."""
        self.ended = True
        self._loop.sources.discard(self)
        if self.fd >= 0:
            self._loop.close(self.fd)
            self.fd = -1


class Sink:
    """A descriptor that takes the host's bytes; the host has credit for one window."""

    def __init__(self, loop: Loop, fd: int, number: int, failed: Callable[[int], None]) -> None:
        self.fd = fd
        self.ended = False
        self._loop = loop
        self._id = number
        self._failed = failed
        self._at_end: Callable[[], None] | None = None
        self._waiting = frames.Outbox()
        self._credit = 0

    def feed(self, data: bytes) -> None:
        """Take bytes from the host."""
        if self.fd >= 0 and not self.ended:
            self._waiting.add(data)
            self._write()

    def finish(self, act: Callable[[], None]) -> None:
        """Call ``act`` when all bytes have been written."""
        self.ended = True
        self._at_end = act
        self._write()

    def abandon(self) -> None:
        """Write the bytes that have come, and stay open, so that a reader sees no end."""
        self.ended = True
        self._failed = lambda _number: self.close()

    def _write(self) -> None:
        if self.fd < 0:
            return
        before = self._waiting.size
        try:
            self._waiting.write(self.fd)
        except BlockingIOError:
            pass
        except OSError as error:
            self._waiting.clear()
            self._failed(error.errno or 0)
            return
        self._credit += before - self._waiting.size
        self._loop.want(self.fd, WRITE, self._write if self._waiting.size else None)
        if self._credit >= _CREDIT_STEP and not self.ended:
            self._loop.send({"op": "credit", "id": self._id, "n": self._credit})
            self._credit = 0
        if not self._waiting.size and self._at_end is not None:
            act, self._at_end = self._at_end, None
            act()

    def close(self) -> None:
        """Stop writing."""
        self.ended = True
        self._waiting.clear()
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                self._loop.close(self.fd)
            self.fd = -1


class Peer:
    """One program, connection or file of the host's, with a stream in and others out."""

    over = False
    """Whether everything has been reported to the host."""

    def __init__(self, loop: Loop, number: int) -> None:
        self.loop = loop
        self.number = number
        self.sink: Sink | None = None
        self.sources: dict[int, Source] = {}

    def tell(self, op: str, **fields: int) -> None:
        """Send a message about it."""
        self.loop.send({"op": op, "id": self.number, **fields})

    def on_data(self, _message: dict[str, Any], payload: bytes) -> None:
        """Take bytes for the stream in."""
        if self.sink is not None:
            self.sink.feed(payload)

    def on_credit(self, message: dict[str, Any], _payload: bytes) -> None:
        """Take credit: the host can receive more of a stream."""
        if message["s"] in self.sources:
            self.sources[message["s"]].add_credit(message["n"])

    def close(self) -> None:
        """Close its streams."""
        for end in (self.sink, *self.sources.values()):
            if end is not None:
                end.close()

    def abandon(self) -> None:
        """Be unknown to the host from now on."""
        self.close()
