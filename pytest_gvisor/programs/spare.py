"""A child that is forked before its order comes, so that the next run need not wait for a fork.

The keeper forks it while no run goes on. It takes the steps that are the same for each order, and
waits at a socket for the rest. It holds no other descriptor of the keeper's: neither the lock of
the session nor the socket to pytest. When the keeper ends, the child ends by its parent-death
signal, or by the end of its socket.

Standard library and its siblings only.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

from pytest_gvisor.programs import child, linux
from pytest_gvisor.programs.order import Order

MAX_MESSAGE = 128 * 1024
MAX_FDS = 16

_SOCKET = 3
_WAITS = b"w"
"""The child's message that it has taken its first steps, and waits for an order."""

_PATIENCE = 0.02
"""Seconds until another child is forked for the order."""


class Spare:
    """A child that waits for its order."""

    def __init__(self) -> None:
        """Fork the child. Raises `OSError`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                me = os.getpid()
                self.pid = os.fork()
                if self.pid == 0:
                    _wait(theirs.fileno(), parent=me)
        except OSError:
            ours.close()
            raise
        self._socket = ours

    def take(self, message: bytes, fds: Sequence[int], *, error_pipe: int) -> bool:
        """Send the child its order; return False unless it waits for one. See `child.become`.

        A child that ends before it waits would take the order with it. The end of its error pipe
        would look like an execve.
        """
        try:
            self._socket.settimeout(_PATIENCE)
            if self._socket.recv(len(_WAITS)) != _WAITS:
                return False
            self._socket.settimeout(0)
            socket.send_fds(self._socket, [message], [error_pipe, *fds])
        except OSError:
            return False
        finally:
            self.close()
        return True

    def close(self) -> None:
        """Close the socket, which ends a child without an order."""
        self._socket.close()


def _wait(orders: int, *, parent: int) -> NoReturn:
    """Wait for the order in the child, and carry it out."""
    try:
        linux.place_descriptors([orders], _SOCKET)
        child.settle(parent)
        with socket.socket(fileno=_SOCKET) as waiting:
            waiting.send(_WAITS)
            message, fds, flags, _address = socket.recv_fds(waiting, MAX_MESSAGE, MAX_FDS + 1)
        if message and not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            order = Order.from_json(message)
            child.become(order, fds[1:], parent=parent, error_pipe=fds[0], settled=True)
    finally:
        sys.stderr.flush()
        os._exit(127)
