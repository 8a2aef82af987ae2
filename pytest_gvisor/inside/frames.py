"""Messages to and from the pytest inside: a length, then that many bytes of JSON, over a socket.

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
MAX_VALUES = 1_000_000
"""Of a message. The smallest take 3 bytes of JSON each, and more than 20 times that here."""


def encode(message: dict[str, Any]) -> bytes:
    """Encode a message."""
    data = json.dumps(message).encode()
    return _LENGTH.pack(len(data)) + data


class Decoder:
    """A decoder of messages from bytes in pieces of any size."""

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self.size = 0
        """Bytes of the message that was given last."""

        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[dict[str, Any]]:
        """Take ``data`` and yield the messages that it completes. Raises `ProtocolError`."""
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
            self.size = end
            yield _decode(text)


def _decode(text: bytes) -> dict[str, Any]:
    if _has_too_many_values(text):
        raise ProtocolError(f"a message of more than {MAX_VALUES} values from inside")
    try:
        # A lone surrogate in a test's output is legal in Python and not in UTF-8.
        decoded = text.decode("utf-8", "surrogatepass")
        message = json.loads(decoded, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a message from inside that is no JSON: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ProtocolError(f"a message from inside without a type: {text[:200]!r}")
    return message


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _has_too_many_values(text: bytes) -> bool:
    """Whether there are too many values: counts separators outside of strings, makes no value."""
    if _between(text) <= MAX_VALUES:
        return False
    # What follows a backslash outside of a string does not matter: no JSON goes on there.
    bare = text.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > 2 * MAX_VALUES:
        return True
    return sum(map(_between, bare.split(b'"')[::2])) > MAX_VALUES


def _between(text: bytes) -> int:
    return sum(map(text.count, (b"[", b"{", b",", b":")))


def write_all(fd: int, data: bytes) -> None:
    """Write to a blocking descriptor until all is written. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
