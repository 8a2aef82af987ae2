"""Many TCP connections over one socket: frames, credit, half-close. Both relays speak it.

A frame is a kind, the number of a connection, and the size of what follows. The relay in the
sandbox numbers the connections, each number once and each above the last. A side sends only as many
bytes of a connection as the other side has granted, so neither holds more than `WINDOW` of each.

The peer of the relay on the host is untrusted. What no honest peer sends raises `MuxError`, which
ends the relay, and with it all connections.
"""

from __future__ import annotations

import contextlib
import functools
import selectors
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WINDOW = 128 * 1024
"""The most bytes of one connection and direction that are under way."""

MOST = 500
"""The most connections at once."""

MOST_OUT = 96 * 1024 * 1024
"""The most bytes that may wait for the other side: a window of each connection, and answers."""

OPEN, DATA, END, RESET, CREDIT, SYNC = range(6)

PROXY = 0xFFFF
"""The entry of a connection whose host and port follow: a program has asked the proxy for them."""

_HEAD = struct.Struct("!BIH")
_COUNT = struct.Struct("!I")
_PIECE = 32 * 1024
_MANY = 256 * 1024
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class MuxError(Exception):
    """The other side has sent what no honest one sends."""


class Connection:
    """One TCP connection, and what is known of it on this side."""

    def __init__(self, number: int, sock: socket.socket | None = None) -> None:
        self.number = number
        self.sock = sock
        self.out = bytearray()  # for the socket
        self.credit = 0  # bytes that may be sent to the other side
        self.granted = 0  # bytes that the other side may still send
        self.written = 0  # bytes that the socket has taken since the last grant
        self.events = 0  # that are waited for
        self.read_all = self.got_all = self.shut = False

    def count(self, direction: str, size: int) -> None:
        """Count bytes that were ``sent`` to this side's peer, or ``received`` from it."""


class Mux:
    """The loop of one relay: the socket to the other relay, and the connections."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.last = 0  # the highest number of a connection so far
        self.idle = False  # whether nothing was ready in the last turn
        self.connections: dict[int, Connection] = {}
        self._decoded, self._out = bytearray(), bytearray()
        self._waits = _READ
        self._selector = selectors.DefaultSelector()
        link.setblocking(False)
        self.watch(link, self._on_link)

    def watch(self, sock: socket.socket, act: Callable[[int], None], events: int = _READ) -> None:
        """Call ``act`` on events of a socket that is no connection; it is read by default."""
        self._selector.register(sock, events, act)

    def unwatch(self, sock: socket.socket) -> None:
        """Watch that socket no more."""
        self._selector.unregister(sock)

    def turn(self, timeout: float | None = None) -> bool:
        """Send what waits, wait once, and handle what is ready; False if the other side is gone.

        Raises `MuxError`.
        """
        if len(self._out) > MOST_OUT:
            raise MuxError("it reads no answer")
        try:
            while self._out:
                with memoryview(self._out) as view:
                    count = self.link.send(view[:_MANY])
                del self._out[:count]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):  # what it had sent before is still read
            self._out.clear()
        events = _READ | _WRITE if self._out else _READ
        if self._waits != events:
            self._waits = events
            self._selector.modify(self.link, events, self._on_link)
        found = self._selector.select(timeout)
        self.idle = not found
        for key, ready in found:
            # The callback before this one may have closed this socket.
            if self._selector.get_map().get(key.fd) is key:
                key.data(ready)
        return self.link.fileno() >= 0

    def close(self) -> None:
        """Close everything: each connection is reset."""
        for one in list(self.connections.values()):
            self.drop(one)
        self.link.close()
        self._selector.close()

    # The other relay.

    def send(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Send a frame, at the beginning of the next turn."""
        self._out += _HEAD.pack(kind, number, len(payload))
        self._out += payload

    def _on_link(self, events: int) -> None:
        if not events & _READ:
            return
        data = b""
        with contextlib.suppress(ConnectionResetError):
            data = self.link.recv(_MANY)
        if not data:
            self.unwatch(self.link)
            self.link.close()
        self._decoded += data
        for kind, number, payload in self._frames():
            if kind == OPEN:
                self.opened(number, payload)
            elif kind == SYNC:
                self.synced()
            elif number > self.last:
                raise MuxError(f"a frame for connection {number}, which was never there")
            elif number in self.connections:  # else closed here, which it did not know yet
                self._take(kind, self.connections[number], payload)

    def _frames(self) -> Iterator[tuple[int, int, bytes]]:
        at, whole = 0, len(self._decoded)
        while whole - at >= _HEAD.size:
            kind, number, size = _HEAD.unpack_from(self._decoded, at)
            if size > _PIECE or kind > SYNC:
                raise MuxError(f"a frame of kind {kind} and {size} bytes")
            if whole - at < _HEAD.size + size:
                break
            at += _HEAD.size + size
            yield kind, number, bytes(self._decoded[at - size : at])
        del self._decoded[:at]

    def _take(self, kind: int, one: Connection, payload: bytes) -> None:
        if kind == RESET:
            self.drop(one)
            return
        size = len(payload)
        if kind == CREDIT:
            wrong = size != _COUNT.size
        else:
            wrong = one.sock is None or one.got_all or size > (one.granted if kind == DATA else 0)
        if wrong:
            raise MuxError(f"{size} bytes too many of connection {one.number}")
        if kind == CREDIT:
            one.credit += int.from_bytes(payload, "big")
        one.got_all |= kind == END
        if kind == DATA:
            one.granted -= len(payload)
            one.out += payload
        if one.credit > WINDOW:
            raise MuxError(f"credit of {one.credit} for connection {one.number}")
        self._ready(one, _WRITE)

    def opened(self, number: int, payload: bytes) -> None:
        """Take the opening of a connection. Only the relay on the host is sent one."""
        raise MuxError(f"connection {number} is opened from outside: {payload!r}")

    def synced(self) -> None:
        """Take the host's question whether all that has come is passed on, or the answer to it."""
        raise NotImplementedError

    # Connections.

    def begin(self, one: Connection, sock: socket.socket) -> None:
        """Relay a connection from now on: either side may send a window's bytes."""
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        one.sock, one.credit, one.granted = sock, WINDOW, WINDOW
        self.send(CREDIT, one.number, _COUNT.pack(WINDOW))
        self._ready(one, 0)

    def fail(self, one: Connection) -> None:
        """Reset a connection, on both sides."""
        self.send(RESET, one.number)
        self.drop(one)

    def drop(self, one: Connection) -> None:
        """Forget a connection, and reset its socket."""
        self.connections.pop(one.number, None)
        if one.sock is not None:
            self._wait(one, 0)
            if not (one.read_all and one.shut):
                # Its program sees a reset, not an end of the data (socket(7), SO_LINGER).
                reset = struct.pack("ii", True, 0)
                one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            one.sock.close()
            one.sock = None

    def _wait(self, one: Connection, events: int) -> None:
        """Wait for these events of a connection, and for no other."""
        if one.sock is None or events == one.events:
            return
        if one.events:
            self._selector.unregister(one.sock)
        if events:
            self._selector.register(one.sock, events, functools.partial(self._ready, one))
        one.events = events

    def _ready(self, one: Connection, events: int) -> None:
        """Write and read what can be, and wait for what can be done next."""
        try:
            if events & _WRITE:
                self._write(one)
            if events & _READ and one.sock is not None:
                self._read(one, one.sock)
        except BlockingIOError:
            pass
        except OSError:
            self.fail(one)
        if one.written >= WINDOW // 4 and not one.got_all:
            self.send(CREDIT, one.number, _COUNT.pack(one.written))
            one.granted += one.written
            one.written = 0
        if one.read_all and one.shut:
            self.drop(one)
        else:
            reads = one.credit and not one.read_all
            self._wait(one, (_WRITE if one.out else 0) | (_READ if reads else 0))

    def _read(self, one: Connection, sock: socket.socket) -> None:
        data = sock.recv(min(_PIECE, one.credit))
        if not data and sock.family == socket.AF_UNIX and not one.shut:
            sock.send(b"")  # fails if its peer has closed it, and not only ended this half
        one.credit -= len(data)
        one.count("received", len(data))
        one.read_all = not data
        self.send(DATA if data else END, one.number, data)

    def _write(self, one: Connection) -> None:
        while one.out and one.sock is not None:
            with memoryview(one.out) as view:
                count = one.sock.send(view)
            del one.out[:count]
            one.written += count
            one.count("sent", count)
        if one.got_all and one.sock is not None and not one.shut:
            one.shut = True
            one.sock.shutdown(socket.SHUT_WR)
