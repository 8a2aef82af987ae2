"""Frames between this process and the guest: a header, a JSON object, raw bytes.

Used on both sides, so it runs on Python 3.8 and imports the standard library only. What is read
may come from a hostile process: lengths are bounded before anything is kept, numbers count up
without a gap, and every frame carries a tag that only the two ends know.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
TAG_SIZE = 8
NO_TAG = b"\0" * TAG_SIZE
HEADER = struct.Struct("<8sIII")  # tag, number of the frame, length of the JSON, of the payload
MAX_JSON = 64 * 1024
MAX_PAYLOAD = 256 * 1024
WINDOW = 1024 * 1024
"""How many bytes of one stream may be on their way: sent, and not yet taken by who reads it."""

_NUMBERS = 2**32
_BUFFER = 1024 * 1024


class FrameError(ValueError):
    """The bytes that were read are no frame of the other end's."""


def _refuse(text: str) -> Any:
    raise FrameError("not JSON: " + text[:40])


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise FrameError("a key twice in one object")
    return found


def parse(data: bytes) -> dict[str, Any]:
    """Parse the JSON object in ``data``. Raises `FrameError` for anything else."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_pairs, parse_constant=_refuse)
    except FrameError:
        raise
    except (ValueError, RecursionError) as error:
        raise FrameError(str(error)[:200]) from None
    if not isinstance(value, dict):
        raise FrameError("JSON that is no object")
    return value


class Encoder:
    """An encoder that numbers and tags the frames of one direction."""

    def __init__(self, tag: bytes = NO_TAG) -> None:
        self.tag = tag
        self._number = 0

    def head(self, message: dict[str, Any], payload: int = 0) -> bytes:
        """Return header and JSON of the next frame; ``payload`` bytes are to follow them."""
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > MAX_JSON or payload > MAX_PAYLOAD:
            raise FrameError("a frame that is too large")
        header = HEADER.pack(self.tag, self._number, len(data), payload)
        self._number = (self._number + 1) % _NUMBERS
        return header + data


class Decoder:
    """A decoder of frames from bytes as they come, in a buffer of fixed size."""

    def __init__(self, tag: bytes = NO_TAG) -> None:
        self.tag = tag
        self._number = 0
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0

    def room(self) -> memoryview:
        """Return the place for the next bytes. Earlier frames are no longer valid."""
        if self._start:
            kept = self._end - self._start
            self._buffer[:kept] = self._buffer[self._start : self._end]
            self._start, self._end = 0, kept
        return self._view[self._end :]

    def add(self, count: int) -> None:
        """Note that ``count`` bytes were read into the room."""
        self._end += count

    @property
    def partial(self) -> bool:
        """Whether the buffer holds a part of a frame."""
        return self._end > self._start

    def frames(self) -> Iterator[tuple[dict[str, Any], memoryview]]:
        """Yield the complete frames: message and payload. Raises `FrameError`."""
        while self._end - self._start >= HEADER.size:
            tag, number, json_size, payload_size = HEADER.unpack_from(self._buffer, self._start)
            if tag != self.tag:
                raise FrameError("a frame with another tag")
            if number != self._number:
                raise FrameError(f"frame {number}, where {self._number} was due")
            if json_size > MAX_JSON or payload_size > MAX_PAYLOAD:
                raise FrameError(f"a frame of {json_size} and {payload_size} bytes")
            json_start = self._start + HEADER.size
            payload_start = json_start + json_size
            end = payload_start + payload_size
            if end > self._end:
                return
            self._number = (self._number + 1) % _NUMBERS
            self._start = end
            message = parse(bytes(self._view[json_start:payload_start]))
            yield message, self._view[payload_start:end]
