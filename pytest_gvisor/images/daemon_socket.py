"""The part that extends the docker SDK: connections to a daemon's socket.

A connection has one deadline for a whole answer. The SDK's own time-out begins anew with every
byte, so with a daemon that sends one byte a second it would never end.

This is the one module that imports the SDK. `docker` imports it when a daemon is needed.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Iterator
from typing import Any, Final

import docker  # type: ignore[import-untyped]
from docker.transport import unixconn  # type: ignore[import-untyped]

from pytest_gvisor.programs import clock

__all__ = ["Adapter", "docker", "refuse_compressed"]

_MAX_BYTES: Final = 16 * 1024 * 1024


class Adapter(unixconn.UnixHTTPAdapter):  # type: ignore[misc]
    """The SDK's adapter for a socket. Outside of `deadline` it is as the SDK's own."""

    until = room = math.inf

    @contextlib.contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """Bound the answers that come in the block, to ``seconds`` and 16 MiB together.

        Beyond these, reads raise `TimeoutError` and another `OSError`. `heard` allows as many bytes
        again.
        """
        self.until = clock.monotonic() + seconds
        self.heard()
        try:
            yield
        finally:
            self.until = self.room = math.inf

    def heard(self) -> None:
        """Allow 16 MiB until the next whole piece of an answer."""
        self.room = _MAX_BYTES

    def get_connection(self, url: str, proxies: Any = None) -> Any:
        """Return the SDK's pool for an address, with connections that keep the deadline."""
        pool = super().get_connection(url, proxies)
        pool._new_conn = lambda: _Connection(self, url)
        return pool


class _Connection(unixconn.UnixHTTPConnection):  # type: ignore[misc]
    def __init__(self, adapter: Adapter, url: str) -> None:
        super().__init__(url, adapter.socket_path, adapter.timeout)
        self._adapter = adapter

    def connect(self) -> None:
        # Known before it is connected, so it is closed where that fails.
        self.sock = _Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.adapter = self._adapter
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.unix_socket)


class _Socket(socket.socket):
    adapter: Adapter

    def recv_into(self, *arguments: Any) -> int:
        left = self.adapter.until - clock.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        if left < math.inf:
            self.settimeout(min(left, self.gettimeout() or left))
        count = super().recv_into(*arguments)
        self.adapter.room -= count
        if self.adapter.room < 0:
            raise OSError(f"an answer of more than {_MAX_BYTES} bytes")
        return count


def refuse_compressed(answer: Any, **_options: Any) -> None:
    """Raise OSError before such an answer is read: some kilobytes unpack to gigabytes."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        answer.close()
        raise OSError("the answer is compressed, which was not asked for")
