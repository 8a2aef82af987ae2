"""A port of the sandbox's loopback, forwarded to the host's: no network mode, no root.

Each connection to the address here is a connection that the guest makes inside. All of it is done
by the channel's thread, on sockets that never block.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import selectors
import socket
import struct
import threading
import warnings

from pytest_gvisor.base.errors import PytestGvisorWarning, on_error, stage
from pytest_gvisor.guest.wire.frames import MAX_PAYLOAD, WINDOW, FrameError
from pytest_gvisor.sandbox.channel import Channel
from pytest_gvisor.sandbox.messages import Message
from pytest_gvisor.sandbox.peers import Peer

MOST = 512
"""Connections of one forward at once. Each may keep a MiB in each direction."""

_BACKLOG = 128
_STEP = WINDOW // 4
_CLOSE_PATIENCE = 5.0
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Forward(contextlib.AbstractContextManager["Forward"]):
    """An address on 127.0.0.1 whose connections lead to a port in the sandbox, until `close`."""

    host = "127.0.0.1"
    """The address on the host."""

    def __init__(self, channel: Channel, port: int, path: str = "") -> None:
        """With a ``path``, it is a unix socket there, for the relays of other sandboxes.

        To their relay, it sends one byte before any other: 0 if the server has the connection, else
        the error number.
        """
        self.target, self.path = port, path
        """The port in the sandbox."""

        self.refused = 0
        """How many connections were reset at once: over `MOST`, or without a file descriptor."""

        self._channel = channel
        self.links: set[_Link] = set()
        self._closed = False
        self._gone = threading.Condition(channel.lock)
        with channel.lock:
            channel.check()
            with stage("forward", "cannot listen on the host's loopback"):
                self._listener = _listener(path or (self.host, 0))
            self._listener.setblocking(False)
            self.port: int = 0 if path else self._listener.getsockname()[1]
            self._spare = _spare()
            channel.at_end.add(self.drop)
            channel.chore(self._listen)

    @property
    def address(self) -> tuple[str, int]:
        """The address for `socket.create_connection`."""
        return (self.host, self.port)

    def close(self) -> None:
        """Stop listening and drop every connection. A second call does nothing.

        Warns of connections that were refused.
        """
        with self._channel.lock:
            if self._closed or self._channel.gone:
                return
            self._channel.chore(self.drop)
            self._gone.wait_for(lambda: self._closed, _CLOSE_PATIENCE)
        if self.refused:
            text = (
                f"{self.refused} connections to port {self.target} of a sandbox were refused: a "
                f"forward has {MOST} at once, and each needs a file descriptor here"
            )
            warnings.warn(PytestGvisorWarning(text), stacklevel=2)

    def __exit__(self, *_: object) -> None:
        """Close the forward."""
        self.close()

    # Methods for the channel's thread, which holds the lock.

    def drop(self) -> None:
        """Close everything, and notify the guest."""
        if self._closed:
            return
        self._closed = True
        self._channel.supervisor.change(self._listener.fileno(), 0, self._accept)
        self._listener.close()
        if self.path:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        if self._spare is not None:
            self._spare.close()
        for link in list(self.links):
            link.leave(reset=True)
        self._channel.at_end.discard(self.drop)
        self._gone.notify_all()

    def _listen(self) -> None:
        if not self._closed:
            self._channel.supervisor.change(self._listener.fileno(), READ, self._accept)

    def _accept(self) -> bool:
        with self._channel.lock:
            while not self._closed:
                try:
                    client, _address = self._listener.accept()
                except OSError as error:
                    if error.errno in (errno.EMFILE, errno.ENFILE) and self._refuse_one():
                        continue
                    break  # the client has closed its connection meanwhile
                if self._channel.ending:
                    client.close()
                    break
                if len(self.links) < MOST:
                    self.links.add(_Link(self, self._channel, client))
                else:
                    self.refused += 1
                    _reset(client)
        return True

    def _refuse_one(self) -> bool:
        """Reset a waiting connection with the descriptor that is kept for it.

        Otherwise its client would wait for ever, and the listening socket would stay ready.
        """
        if self._spare is None:
            self._spare = _spare()
            return False
        self._spare.close()
        try:
            client, _address = self._listener.accept()
        except OSError:
            return False
        else:
            self.refused += 1
            _reset(client)
            return True
        finally:
            self._spare = _spare()


def _listener(address: str | tuple[str, int]) -> socket.socket:
    """Listen on a unix socket, or on a port. Raises `OSError`."""
    if isinstance(address, tuple):
        return socket.create_server(address, backlog=_BACKLOG)
    listener = socket.socket(socket.AF_UNIX)
    with on_error(listener.close):
        listener.bind(address)
        listener.listen(MOST)
    return listener


def _spare() -> socket.socket | None:
    """Return a socket that stands for a descriptor; None where none is left."""
    try:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:
        return None


def _reset(client: socket.socket) -> None:
    """Close a connection so that its other end sees a reset."""
    with contextlib.suppress(OSError):
        # A close with a linger time of 0 is a reset for the other end (tcp(7)).
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


class _Link(Peer):
    """One connection."""

    def __init__(self, forward: Forward, channel: Channel, client: socket.socket) -> None:
        super().__init__(channel)
        self.channel = channel
        self._forward = forward
        self._client = client
        self._fd = client.fileno()
        client.setblocking(False)
        with contextlib.suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connected = False
        self._credit = WINDOW  # bytes that the guest can still take
        self._sent_all = False
        self._due = WINDOW  # bytes that the guest may still send
        self._owed = 0
        self._ended = False  # the server sends no more
        self._unsent: collections.deque[memoryview] = collections.deque()
        self._gone = False
        channel.add(self, {"op": "connect", "port": forward.target})

    def on_message(self, message: Message) -> None:
        """See `Peer.on_message`."""
        numbers, payload = message.numbers, message.payload
        if message.op == "closed":
            self.over = True
            self._answer(numbers["errno"])
            if numbers["errno"]:
                self.leave(reset=True)
            self._ended = True
        elif message.op == "started" and not self._connected:
            self._answer(0)
            self._connected = True
        elif not self._connected:
            raise FrameError(f"{message.op} before a connection")
        elif message.op == "data" and numbers["s"] == 1 and not self._ended:
            if len(payload) > self._due:
                raise FrameError("more of a connection than was asked for")
            self._due -= len(payload)
            if not self._gone:
                self._unsent.append(memoryview(bytes(payload)))
        elif message.op == "eof" and numbers["s"] == 1 and not self._ended:
            self._ended = True
        elif message.op == "credit":
            self._credit += numbers["n"]
            if self._credit > WINDOW:
                raise FrameError("more was taken than was sent")
        else:
            raise FrameError(f"{message.op} of a connection where it cannot be")
        if not self._gone:
            self._write()

    def _answer(self, number: int) -> None:
        if self._forward.path and not self._connected and not self._gone:
            with contextlib.suppress(OSError):  # the relay is gone
                os.write(self._fd, bytes([min(number, 255)]))

    def on_death(self) -> None:
        """See `Peer.on_death`."""
        self.leave(reset=True)

    def leave(self, *, reset: bool) -> None:
        """Drop the connection from this side."""
        if self._gone:
            return
        self._gone = True
        self._unsent.clear()
        self.channel.supervisor.change(self._fd, 0, self._act)
        if reset:
            _reset(self._client)
        else:
            self._client.close()
        if not self.over:
            self.channel.send({"op": "reset", "id": self.id})
        self._forward.links.discard(self)

    def _act(self) -> bool:
        with self.channel.lock:
            if not self._gone:
                self._read()
            if not self._gone:
                self._write()
        return True

    def _read(self) -> None:
        most = min(self._credit, MAX_PAYLOAD)
        if self._sent_all or not self._connected or not most or self.channel.congested:
            return
        try:
            data = os.read(self._fd, most)
        except BlockingIOError:
            return
        except OSError:
            self.leave(reset=True)
            return
        if data:
            self._credit -= len(data)
            self.channel.send({"op": "data", "id": self.id}, data)
        else:
            self._sent_all = True
            self.channel.send({"op": "eof", "id": self.id})

    def _write(self) -> None:
        """Send the client the pending bytes; then the end, if it has come."""
        try:
            while self._unsent:
                count = os.write(self._fd, self._unsent[0])
                self._owed += count
                if count == len(self._unsent[0]):
                    self._unsent.popleft()
                else:
                    self._unsent[0] = self._unsent[0][count:]
            if self._ended and not self._unsent:
                with contextlib.suppress(OSError):
                    self._client.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self.leave(reset=True)
            return
        if self._owed >= _STEP and not self.over and not self._ended:
            self.channel.send({"op": "credit", "id": self.id, "s": 1, "n": self._owed})
            self._due += self._owed
            self._owed = 0
        if self.over and not self._unsent:
            self.leave(reset=False)
            return
        self.watch()

    def watch(self) -> None:
        """Watch the sockets for possible reads and writes, until the connection is dropped."""
        if self._gone:
            return
        reads = self._connected and not self._sent_all and self._credit and not self.over
        events = (READ if reads and not self.channel.congested else 0) | (
            WRITE if self._unsent else 0
        )
        self.channel.supervisor.change(self._fd, events, self._act)
        if reads and self.channel.congested:
            self.channel.when_relieved(self.watch)
