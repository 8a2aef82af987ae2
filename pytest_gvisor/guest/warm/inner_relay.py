"""The relay in a sandbox: listens for what is allowed, and passes each connection to the host.

It listens on an address of 127.0.0.0/8 for each entry of the allow-list, and knows no host's name:
/etc/hosts has those. The relay on the host makes the real connection. Needs Python 3.8 and the
standard library alone.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct

from pytest_gvisor.guest.wire.mux import MOST, OPEN, WINDOW, Connection, Mux, MuxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LINK = 3
"""The descriptor of the socket to the host, by ``runsc run --pass-fd``."""

_BACKLOG = 128
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class InnerRelay(Mux):
    """The listeners, and the connections that they have accepted."""

    def __init__(self, link: socket.socket, listeners: Sequence[tuple[int, socket.socket]]) -> None:
        super().__init__(link)
        self._listeners = listeners
        self._accepts = False
        self._full = False  # of descriptors or memory, until a connection ends

    def serve(self) -> None:
        """Relay until the host is gone. Above `MOST`, connections wait in the kernel's queue."""
        going_on = True
        while going_on:
            if self._accepts is not (len(self.connections) < MOST and not self._full):
                self._accepts = not self._accepts
                for entry, listener in self._listeners:
                    if self._accepts:
                        self.watch(listener, functools.partial(self._accept, entry, listener))
                    else:
                        self.unwatch(listener)
            going_on = self.turn()

    def _accept(self, entry: int, listener: socket.socket, _events: int) -> None:
        try:
            sock = listener.accept()[0]
        except OSError as error:  # else the program has given up
            self._full |= error.errno in _NO_ROOM
            return
        sock.setblocking(False)
        self.last += 1
        one = self.connections[self.last] = Connection(self.last, sock)
        # The host may send at once, and nothing is read of the program before its credit comes.
        one.granted = WINDOW
        self.send(OPEN, one.number, struct.pack("!H", entry))

    def drop(self, one: Connection) -> None:
        """See `Mux.drop`."""
        super().drop(one)
        self._full = False


def listen(places: Sequence[str]) -> list[tuple[int, socket.socket]]:
    """Listen on each place, ``ADDRESS:PORT``, or ``-`` for none. Raises `OSError`."""
    found = []
    for entry, place in enumerate(places):
        if place != "-":
            address, _, port = place.rpartition(":")
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, int(port)))
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            found.append((entry, listener))
    return found


def fork(places: Sequence[str], *others: int) -> None:
    """Fork the relay, which listens when this returns. The fork closes the descriptors ``others``.

    Raises `OSError` where a place cannot be listened on.
    """
    listeners = listen(places)
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            for fd in others:
                os.close(fd)
            InnerRelay(socket.socket(fileno=LINK), listeners).serve()
        except (OSError, MuxError):
            pass
        finally:
            os._exit(0)
    os.close(LINK)
    for _entry, listener in listeners:
        listener.close()
