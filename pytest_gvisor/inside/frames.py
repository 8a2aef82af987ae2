"""Messages to and from the pytest inside: a length and that many bytes of JSON, over two pipes.

Whoever writes the other end is untrusted: lengths are bounded, and what is no JSON object is an
error.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from typing import Any

from pytest_gvisor.errors import ProtocolError

_LENGTH = struct.Struct(">I")
MAX_MESSAGE = 64 * 1024 * 1024


def encode(message: dict[str, Any]) -> bytes:
    """The bytes of a message."""
    data = json.dumps(message).encode()
    return _LENGTH.pack(len(data)) + data


class Decoder:
    """Takes bytes as they come and gives the messages in them."""

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[dict[str, Any]]:
        """The messages that are complete with ``data``. Raises `ProtocolError`."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer)
            if size > self._limit:
                raise ProtocolError(
                    f"a message of {size} bytes from inside; {self._limit} are allowed"
                )
            end = _LENGTH.size + size
            if len(self._buffer) < end:
                return
            text = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield _decode(text)


def _decode(text: bytes) -> dict[str, Any]:
    try:
        # A lone surrogate in a test's output is legal in Python and not in UTF-8.
        message = json.loads(text.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a message from inside that is no JSON: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ProtocolError(f"a message from inside without a type: {text[:200]!r}")
    return message


def write_all(fd: int, data: bytes) -> None:
    """Write to a blocking descriptor until all is written. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
