"""The guest's connections to servers in the sandbox, and files from and to the host.

Standard library only; part of the program that `guest` is.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
import stat
import struct

from pytest_gvisor.guest.loop import WRITE, Sink, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_gvisor.guest.loop import Loop

_LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


def _dial(family: int, host: str, port: int) -> socket.socket:
    """Return a socket that is connecting. Raises OSError."""
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setblocking(False)
    number = made.connect_ex((host, port))
    if number not in (0, errno.EINPROGRESS):
        made.close()
        raise OSError(number, os.strerror(number))
    return made


class Dial:
    """An attempt to connect to a port of 127.0.0.1, and where that is refused, of ::1.

    ``done`` is called once from the loop, with the connected socket, or None and an error number.
    """

    def __init__(
        self, loop: Loop, port: int, done: Callable[[socket.socket | None, int], None]
    ) -> None:
        self._loop = loop
        self._port = port
        self._done = done
        self._left = list(_LOOPBACKS)
        self._error = 0  # the first address's
        self._socket: socket.socket | None = None
        self._next()

    def _next(self) -> None:
        while self._left:
            family, host = self._left.pop(0)
            try:
                self._socket = _dial(family, host, self._port)
            except OSError as error:
                self._error = self._error or error.errno or errno.EIO
                continue
            act = functools.partial(self._answered, self._socket)
            self._loop.want(self._socket.fileno(), WRITE, act)
            return
        self._loop.soon(lambda: self._done(None, self._error))

    def _answered(self, made: socket.socket) -> None:
        self._socket = None
        self._loop.want(made.fileno(), WRITE, None)
        number = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            made.close()
            self._error = self._error or number
            self._next()
        else:
            self._done(made, 0)

    def close(self) -> None:
        """End an attempt that goes on; ``done`` is not called."""
        if self._socket is not None:
            self._loop.close(self._socket.detach())


class Connection:
    """One TCP connection to a server in the sandbox."""

    over = False

    def __init__(self, loop: Loop, number: int, message: dict[str, Any]) -> None:
        self.loop = loop
        self.number = number
        self._error = 0
        self._source: Source | None = None
        self._sink: Sink | None = None
        self._write_side_closed = False
        self._socket: socket.socket | None = None
        self._dial = Dial(loop, message["port"], self._connected)

    def _connected(self, made: socket.socket | None, number: int) -> None:
        if self.over:
            return
        self._socket = made
        if made is None:
            self._close(number)
            return
        with contextlib.suppress(OSError):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A descriptor for each direction: each is closed when its direction is over.
        try:
            self._sink = Sink(self.loop, os.dup(made.fileno()), self.number, self._broke)
            fd = os.dup(made.fileno())
        except OSError as error:
            self._close(error.errno or errno.EMFILE)
            return
        self.loop.send({"op": "started", "id": self.number})
        self._source = Source(self.loop, fd, (self.number, 1), self._read_all)

    def _read_all(self, number: int) -> None:
        if number:
            self._close(number)
            return
        self.loop.send({"op": "eof", "id": self.number, "s": 1})
        self._settle()

    def _broke(self, number: int) -> None:
        """Note that the server takes no more. The bytes that it has sent are still read."""
        self._error = number
        self._end_writing()

    def _written_all(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
        self._end_writing()

    def _end_writing(self) -> None:
        if self._sink is not None:
            self._sink.close()
        self._write_side_closed = True
        self._settle()

    def _settle(self) -> None:
        if self._write_side_closed and self._source is not None and self._source.ended:
            self._close(self._error)

    def _close(self, number: int, *, abort: bool = False) -> None:
        if self.over:
            return
        self.over = True
        if abort and self._socket is not None:
            # A close with a linger time of 0 is a reset for the other end (tcp(7)).
            with contextlib.suppress(OSError):
                option = struct.pack("ii", 1, 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        for part in (self._dial, self._sink, self._source, self._socket):
            if part is not None:
                part.close()
        self.loop.send({"op": "closed", "id": self.number, "errno": number})

    def on_data(self, _message: dict[str, Any], payload: bytes) -> None:
        """Take bytes for the server."""
        if self._sink is not None:
            self._sink.feed(payload)

    def on_eof(self, *_: object) -> None:
        """Take the end of the client's bytes."""
        if self._sink is not None and not self._sink.ended:
            self._sink.finish(self._written_all)

    def on_credit(self, message: dict[str, Any], _payload: bytes) -> None:
        """Take credit: the client can receive more."""
        if self._source is not None:
            self._source.add_credit(message["n"])

    def on_reset(self, *_: object) -> None:
        """Close the connection, since the client is gone."""
        self._close(0, abort=True)


def _regular(path: bytes, flags: int, mode: int = 0) -> int:
    """Open a regular file. Raises OSError."""
    # O_NONBLOCK: the open of a FIFO that nobody reads or writes would wait for ever.
    fd = os.open(path, flags | os.O_NONBLOCK, mode)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return fd


class _File:
    """A transfer of a file."""

    over = False

    def __init__(self, loop: Loop, number: int) -> None:
        self.loop = loop
        self.number = number

    def _fail(self, error: OSError) -> None:
        self.over = True
        self.loop.send({"op": "failed", "id": self.number, "errno": error.errno or 0})


class Put(_File):
    """A file that the host writes."""

    def __init__(self, loop: Loop, number: int, message: dict[str, Any]) -> None:
        super().__init__(loop, number)
        self._mode = message["mode"]
        path = message["path"].encode("utf-8", "surrogateescape")
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        fd = _regular(path, os.O_WRONLY | os.O_CREAT, self._mode & 0o777)
        self._file = os.fdopen(fd, "wb")
        self._file.truncate(0)

    def on_data(self, _message: dict[str, Any], payload: bytes) -> None:
        """Write bytes to the file."""
        self._try(lambda: self._file.write(payload))

    def on_eof(self, *_: object) -> None:
        """Finish the file, which is complete."""
        self._try(self._finish)

    def _finish(self) -> None:
        self._file.flush()
        os.fchmod(self._file.fileno(), self._mode)
        size = self._file.tell()
        self._file.close()
        self.over = True
        self.loop.send({"op": "answer", "id": self.number, "n": size})

    def _try(self, act: Callable[[], object]) -> None:
        if self.over:
            return
        try:
            act()
        except OSError as error:
            with contextlib.suppress(OSError):  # what it has not written, it tries once more
                self._file.close()
            self._fail(error)


class Get(_File):
    """A file that the host reads."""

    def __init__(self, loop: Loop, number: int, message: dict[str, Any]) -> None:
        super().__init__(loop, number)
        path = message["path"].encode("utf-8", "surrogateescape")
        self._source = Source(
            loop, _regular(path, os.O_RDONLY), (number, 1), self._read_all, waits=False
        )

    def _read_all(self, number: int) -> None:
        if number:
            self._fail(OSError(number, os.strerror(number)))
            return
        self.over = True
        self.loop.send({"op": "eof", "id": self.number, "s": 1})

    def on_credit(self, message: dict[str, Any], _payload: bytes) -> None:
        """Take credit: the host can receive more."""
        self._source.add_credit(message["n"])

    def on_reset(self, *_: object) -> None:
        """Stop: the host no longer wants the file."""
        if not self.over:
            self._source.close()
            self._fail(OSError(errno.ECANCELED, "cancelled"))
