"""The relay in a sandbox: listens for what is allowed, and passes each connection to the host.

It listens on an address of 127.0.0.0/8 for each entry of the allow-list, and knows no host's name:
/etc/hosts has those. For entries with ``*``, it is a proxy too, which passes on the host and port
that a program asks for. The relay on the host decides, and makes the real connection. Needs Python
3.8 and the standard library alone.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import socket
import struct

from pytest_gvisor.guest.warm.proxy import Refused, Wish, talk
from pytest_gvisor.guest.wire import mux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LINK = 3
"""The descriptor of the socket to the host, by ``runsc run --pass-fd``."""

_BACKLOG = 128
_PIECE = 4096
_TURNS = 256
"""Enough for the connections that wait in a queue, and for what their programs have sent."""

_LAG = 0.005
"""Seconds in which a sandbox's network passes on what a program has sent."""

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Asking(mux.Connection):
    """A connection to the proxy, whose number is below 0 until its program has asked for a host."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(-sock.fileno(), sock)
        self.talk = talk()
        next(self.talk)
        self.wish: Wish | None = None  # until the host has answered

    def answer(self, answer: bytes) -> None:
        """Send a last answer; the program reads it, and sees no reset."""
        self.read_all = self.shut = True
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.send(answer)


class InnerRelay(mux.Mux):
    """The listeners, and the connections that they have accepted."""

    def __init__(self, link: socket.socket, listeners: Sequence[tuple[int, socket.socket]]) -> None:
        super().__init__(link)
        self._listeners = listeners
        self._accepts = False
        self._full = False  # of descriptors or memory, until a connection ends
        self._turns = 0  # until the answer to the host's question

    def synced(self) -> None:
        """Pass on what has come by now, and answer then: see `serve`."""
        self._turns = _TURNS

    def _lacks_credit(self) -> bool:
        """Whether more may have come of a connection than its host can be given now."""
        return any(
            one.number > 0 and not (one.credit or one.read_all) for one in self.connections.values()
        )

    def serve(self) -> None:
        """Relay until the host is gone. Above `MOST`, connections wait in the kernel's queue."""
        going_on = True
        while going_on:
            if self._accepts is not (len(self.connections) < mux.MOST and not self._full):
                self._accepts = not self._accepts
                for entry, listener in self._listeners:
                    if self._accepts:
                        self.watch(listener, functools.partial(self._accept, entry, listener))
                    else:
                        self.unwatch(listener)
            answers = self._accepts and self._turns > 0 and not self._lacks_credit()
            going_on = self.turn(_LAG if answers else None)
            if answers:
                self._turns = 0 if self.idle else self._turns - 1
                if not self._turns:
                    self.send(mux.SYNC, 0)

    def _accept(self, entry: int, listener: socket.socket, _events: int) -> None:
        try:
            # gVisor's accept(2) resets a connection for which there is no descriptor.
            os.close(os.dup(self.link.fileno()))
            sock = listener.accept()[0]
        except OSError as error:  # else the program has given up
            self._full |= error.errno in _NO_ROOM
            return
        sock.setblocking(False)
        if entry == mux.PROXY:
            one = Asking(sock)
            self.connections[one.number] = one
            self.watch(sock, functools.partial(self._ask, one, sock))
        else:
            self._open(mux.Connection(0, sock), struct.pack("!H", entry))

    def _open(self, one: mux.Connection, wish: bytes) -> None:
        self.last += 1
        one.number = self.last
        self.connections[one.number] = one
        # The host may send at once, and nothing is read of the program before its credit comes.
        one.granted = mux.WINDOW
        self.send(mux.OPEN, one.number, wish)

    def _ask(self, one: Asking, sock: socket.socket, _events: int) -> None:
        """Read what a program says to the proxy, until it has asked for a host."""
        try:
            data = sock.recv(_PIECE)
            answer = one.talk.send(data) if data else None
            while answer:
                sock.send(answer)
                answer = one.talk.send(b"")
            if data:
                return
        except StopIteration as end:
            one.wish = end.value
        except Refused as refused:
            one.answer(refused.args[0])
        except OSError:
            pass
        self.unwatch(sock)
        if one.wish is None:
            self.drop(one)
        else:
            del self.connections[one.number]
            self._open(one, struct.pack("!H", mux.PROXY) + one.wish.host)

    def _take(self, kind: int, one: mux.Connection, payload: bytes) -> None:
        """See `Mux._take`; the first frame for a wish is the host's answer to it."""
        if isinstance(one, Asking) and one.wish is not None:
            wish, one.wish = one.wish, None
            if kind == mux.RESET:
                one.answer(wish.refused)
            else:
                one.out += wish.granted
                one.written -= len(wish.granted)  # the host has not sent them, and gets no credit
                self.send(mux.DATA, one.number, wish.first)
                one.credit -= len(wish.first)
        super()._take(kind, one, payload)

    def drop(self, one: mux.Connection) -> None:
        """See `Mux.drop`."""
        super().drop(one)
        self._full = False


def listen(places: Sequence[str]) -> list[tuple[int, socket.socket]]:
    """Listen on each place, ``ADDRESS:PORT``, or ``-`` for none. Raises `OSError`.

    After ``proxy@``, it is the proxy's, whose entry is `PROXY`.
    """
    found = []
    for entry, place in enumerate(places):
        if place != "-":
            proxy, _, own = place.rpartition("@")
            address, _, port = own.rpartition(":")
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, int(port)))
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            found.append((mux.PROXY if proxy else entry, listener))
    return found


def fork(places: Sequence[str], *others: int, link: int = LINK) -> int:
    """Fork the relay, which listens when this returns; return its pid.

    The fork closes the descriptors ``others``, and this process the ``link``. Raises `OSError`
    where a place cannot be listened on.
    """
    try:
        listeners = listen(places)
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                signal.set_wakeup_fd(-1)
                for fd in {*others} - {listener.fileno() for _entry, listener in listeners}:
                    os.closerange(fd, fd + 1)  # without an error for one that is closed
                relay = InnerRelay(socket.socket(fileno=link), listeners)
                relay.serve()
                relay.close()
            except (OSError, mux.MuxError):
                pass
            finally:
                os._exit(0)
    finally:
        os.close(link)
    for _entry, listener in listeners:
        listener.close()
    return pid
