"""Messages of a pytest inside: frames of `guest.frames` with bounds of their own.

The other end runs the tests' code, so it is untrusted: lengths and values are bounded, and anything
but a JSON object with a type is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_gvisor.errors import ProtocolError
from pytest_gvisor.guest import frames
from pytest_gvisor.guest.checked_json import has_more_values, loads

MAX_MESSAGE = 64 * 1024 * 1024
MAX_VALUES = 1_000_000


class Decoder(frames.Decoder):
    """A decoder of messages from bytes in pieces of any size."""

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        super().__init__(max_json=limit, max_payload=0, read=_decode)

    def feed(self, data: bytes | memoryview) -> Iterator[dict[str, Any]]:
        """Take ``data`` and yield the messages that it completes. Raises `ProtocolError`."""
        rest = memoryview(data)
        while rest:
            try:
                room = self.room()
                count = min(len(room), len(rest))
                room[:count] = rest[:count]
                self.add(count)
                rest = rest[count:]
                yield from (message for message, _payload in self.frames())
            except frames.FrameError as error:
                raise ProtocolError(f"what comes from inside is no message: {error}") from error
            except MemoryError as error:
                raise ProtocolError("no memory for a message from inside") from error


def _decode(text: bytes) -> dict[str, Any]:
    if has_more_values(text, MAX_VALUES):
        raise ProtocolError(f"a message of more than {MAX_VALUES} values from inside")
    try:
        # A lone surrogate in a test's output is legal in Python and not in UTF-8.
        message = loads(text.decode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise ProtocolError(f"a message from inside that is no JSON: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ProtocolError(f"a message from inside without a type: {text[:200]!r}")
    return message
