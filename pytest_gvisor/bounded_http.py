"""Answers over HTTP within one deadline and one size: a server may be slow, silent or endless.

A timeout of the standard library begins anew with every byte. Here no wait is longer than the rest
of the deadline, in headers too, and no answer is read beyond its limit.
"""

from __future__ import annotations

import dataclasses
import functools
import http.client
import io
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import socket

    from _typeshed import WriteableBuffer

_PIECE: Final = 256 * 1024
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


class TooLarge(OSError):
    """The answer is larger than its limit."""


class CutOff(OSError):
    """The connection ended before the answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deadline:
    """A moment at which an answer has to be complete."""

    until: float
    """By `time.monotonic`."""

    silence: float = math.inf
    """Seconds that the next bytes may take."""

    def left(self) -> float:
        """Seconds for the next wait. Raises `TimeoutError` where there are none."""
        left = min(self.silence, self.until - time.monotonic())
        if left <= 0:
            raise TimeoutError("timed out")
        return left


def connecting(
    kind: Callable[..., http.client.HTTPConnection], deadline: Deadline
) -> Callable[..., http.client.HTTPConnection]:
    """Connections of this kind, whose answers come within the deadline or raise `TimeoutError`."""

    def connect(*arguments: Any, **options: Any) -> http.client.HTTPConnection:
        made = kind(*arguments, **options)
        made.response_class = functools.partial(_Response, deadline)  # type: ignore[assignment]
        return made

    return connect


class _Response(http.client.HTTPResponse):
    """An answer that asks the deadline before every read of its socket."""

    def __init__(
        self, deadline: Deadline, sock: socket.socket, *arguments: Any, **options: Any
    ) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Timed(self.fp.detach(), sock, deadline))


class _Timed(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: Deadline) -> None:
        self._raw = raw
        self._socket = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        self._socket.settimeout(self._deadline.left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        # The socket is closed when its connection and this are.
        self._raw.close()
        super().close()


def announced(response: http.client.HTTPResponse) -> int | None:
    """How many bytes an answer says that it has, if it says so."""
    length = response.headers.get("Content-Length", "")
    return int(length) if _LENGTH.fullmatch(length) else None


def pieces(response: http.client.HTTPResponse, limit: int) -> Iterator[bytes]:
    """The bytes of an answer as they come, at most ``limit`` of them.

    Raises `TooLarge`, `CutOff`, and `TimeoutError` at the deadline of the connection.
    """
    whole, come = announced(response), 0
    while piece := response.read1(_PIECE):
        come += len(piece)
        if come > limit or (whole or 0) > limit:
            raise TooLarge(f"an answer of more than {limit} bytes")
        yield piece
    if whole is not None and come != whole:
        raise CutOff(f"cut off after {come} of {whole} bytes")
