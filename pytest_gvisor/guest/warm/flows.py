"""The guest's connections to servers in the sandbox, and files from and to the host.

Standard library only; part of the program `init_process`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
import stat
import struct

from pytest_gvisor.guest.warm.loop import WRITE, Loop, Peer, Sink, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40  # as the kernel (path_resolution(7))
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


class Connection(Peer):
    """One TCP connection to a server in the sandbox."""

    def __init__(self, loop: Loop, number: int, message: dict[str, Any]) -> None:
        super().__init__(loop, number)
        self._error = 0
        self._write_side_closed = False
        self._socket: socket.socket | None = None
        self._dial = Dial(loop, message["port"], self._connected)

    def _connected(self, made: socket.socket | None, number: int) -> None:
        if self.over:
            return
        self._socket = made
        if made is None:
            self._end(number)
            return
        with contextlib.suppress(OSError):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A descriptor for each direction: each is closed when its direction is over.
        try:
            self.sink = Sink(self.loop, os.dup(made.fileno()), self.number, self._broke)
            fd = os.dup(made.fileno())
        except OSError as error:
            self._end(error.errno or errno.EMFILE)
            return
        self.tell("started", pid=0)  # no process
        self.sources[1] = Source(self.loop, fd, (self.number, 1), self._read_all)

    def _read_all(self, number: int) -> None:
        if number:
            self._end(number)
            return
        self.tell("eof", s=1)
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
        if self.sink is not None:
            self.sink.close()
        self._write_side_closed = True
        self._settle()

    def _settle(self) -> None:
        if self._write_side_closed and 1 in self.sources and self.sources[1].ended:
            self._end(self._error)

    def _end(self, number: int, *, abort: bool = False) -> None:
        if self.over:
            return
        self.over = True
        if abort and self._socket is not None:
            # A close with a linger time of 0 is a reset for the other end (tcp(7)).
            with contextlib.suppress(OSError):
                option = struct.pack("ii", 1, 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        self._dial.close()
        self.close()
        if self._socket is not None:
            self._socket.close()
        self.tell("closed", errno=number)

    def on_eof(self, *_: object) -> None:
        """Take the end of the client's bytes."""
        if self.sink is not None and not self.sink.ended:
            self.sink.finish(self._written_all)

    def on_reset(self, *_: object) -> None:
        """Close the connection, since the client is gone."""
        self._end(0, abort=True)

    abandon = on_reset


@contextlib.contextmanager
def _acting_as(message: dict[str, Any]) -> Iterator[None]:
    """Open the block's paths with the rights of the user in a message.

    Only the effective ids change, so no program of that user may send this process a signal.
    """
    groups = os.getgroups()
    try:
        if message["uid"] or message["gid"]:
            os.setgroups(message["groups"])
            os.setegid(message["gid"])
            os.seteuid(message["uid"])
        yield
    finally:
        if message["uid"] or message["gid"]:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)


def _is_own(folder: os.stat_result, link: os.stat_result) -> bool:
    """Whether nobody but root, this user and the owners of the system's folders can change a link.

    Where root is the host's ordinary user, the host's own files belong to nobody.
    """
    system = [os.stat(path) for path in ("/", "/usr") if os.path.isdir(path)]
    users = {0, os.geteuid(), *(one.st_uid for one in system)}
    groups = {0, os.getegid(), *(one.st_gid for one in system)}
    shared = folder.st_mode & stat.S_IWOTH or (
        folder.st_mode & stat.S_IWGRP and folder.st_gid not in groups
    )
    sticks = folder.st_mode & stat.S_ISVTX and link.st_uid in users
    return folder.st_uid in users and bool(not shared or sticks)


def _opened(path: bytes, flags: int, mode: int = 0) -> int:
    """Open a regular file; with O_CREAT, make it and the folders above it. Raises OSError.

    It goes from folder to folder, so that no other program can put a link in its way. A link that
    is not its user's own (`_is_own`) is refused with ELOOP.
    """
    names, links = path.split(b"/")[::-1], 0
    folder = os.open("/", _FOLDER)
    try:
        while True:
            name = names.pop() or b"."
            try:
                found: os.stat_result | None = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                if not flags & os.O_CREAT:
                    raise
                found = None
            if found is not None and stat.S_ISLNK(found.st_mode):
                links += 1
                if links > _MOST_LINKS or not _is_own(os.fstat(folder), found):
                    raise OSError(errno.ELOOP, "a link that is not followed")
                target = os.readlink(name, dir_fd=folder)
                names += target.split(b"/")[::-1]
                name = b"/" if target.startswith(b"/") else b"."
            elif not names:
                return _regular(name, flags | os.O_NOFOLLOW, mode, folder)
            elif found is None:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=folder)
            above, folder = folder, os.open(name, _FOLDER, dir_fd=folder)
            os.close(above)
    finally:
        os.close(folder)


def _regular(name: bytes, flags: int, mode: int, folder: int) -> int:
    """Open a regular file of a folder. Raises OSError."""
    # O_NONBLOCK: the open of a FIFO that nobody reads or writes would wait for ever.
    fd = os.open(name, flags | os.O_NONBLOCK, mode, dir_fd=folder)
    if not stat.S_ISREG(kind := os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL, "not a regular file")
    return fd


class Put(Peer):
    """A file that the host writes."""

    def __init__(self, loop: Loop, number: int, message: dict[str, Any]) -> None:
        super().__init__(loop, number)
        self._mode = message["mode"]
        path = message["path"].encode("utf-8", "surrogateescape")
        # A mode of -1 keeps that of the file, or is the usual one.
        mode = 0o644 if self._mode < 0 else self._mode & 0o777
        with _acting_as(message):
            fd = _opened(path, os.O_WRONLY | os.O_CREAT, mode)
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
        if self._mode >= 0:
            os.fchmod(self._file.fileno(), self._mode)
        size = self._file.tell()
        self._file.close()
        self.over = True
        self.tell("answer", n=size)

    def _try(self, act: Callable[[], object]) -> None:
        if self.over:
            return
        try:
            act()
        except OSError as error:
            with contextlib.suppress(OSError):  # it tries once more to write its buffer
                self._file.close()
            self.over = True
            self.tell("failed", errno=error.errno or 0)


class Get(Peer):
    """A file that the host reads."""

    def __init__(self, loop: Loop, number: int, message: dict[str, Any]) -> None:
        super().__init__(loop, number)
        path = message["path"].encode("utf-8", "surrogateescape")
        with _acting_as(message):
            fd = _opened(path, os.O_RDONLY)
        self.sources[1] = Source(loop, fd, (number, 1), self._read_all, waits=False)

    def _read_all(self, number: int) -> None:
        self.over = True
        if number:
            self.tell("failed", errno=number)
        else:
            self.tell("eof", s=1)

    def on_reset(self, *_: object) -> None:
        """Stop: the host no longer wants the file."""
        if not self.over:
            self.close()
            self._read_all(errno.ECANCELED)
