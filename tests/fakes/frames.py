"""Bytes for a decoder of frames, as if they had been read."""

from collections.abc import Iterator
from typing import Any

from pytest_gvisor.guest.wire.frames import Decoder


def fed(
    decoder: Decoder, data: bytes | memoryview, step: int = 2**20
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Give the decoder these bytes in pieces of any size; yield its frames."""
    rest = memoryview(data)
    while rest:
        room = decoder.room()
        count = min(len(room), len(rest), step)
        room[:count] = rest[:count]
        decoder.add(count)
        rest = rest[count:]
        yield from ((message, bytes(payload)) for message, payload in decoder.frames())
