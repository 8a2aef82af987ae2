"""Frames between the host and a program of ours in a sandbox: a header, a JSON object, raw bytes.

Used on both sides, so it runs on Python 3.8 and imports the standard library only. A hostile
process may have written what is read. So lengths are bounded before anything is kept, numbers count
up without a gap, and every frame carries a tag. The guest's tag is known to the two ends alone. A
pytest inside has none, because it runs in one process with the tests.
"""

from __future__ import annotations

import collections
import itertools
import json
import os
import struct

from pytest_gvisor.guest.wire import checked_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

VERSION = 1
TAG_SIZE = 8
NO_TAG = b"\0" * TAG_SIZE
HEADER = struct.Struct("<8sIII")  # tag, number of the frame, length of the JSON, of the payload
MAX_JSON = 64 * 1024
MAX_PAYLOAD = 256 * 1024
UNBOUNDED = 2**32 - 1
"""For JSON from or to an end that is trusted: as much as a header can announce."""
WINDOW = 1024 * 1024
"""How many bytes of one stream may be on their way: sent, and not yet taken by who reads it."""

_NUMBERS = 2**32
_BUFFER = 1024 * 1024
_BATCH = 16
_readv = os.readv  # a test inside may have replaced it where its pytest reads


class FrameError(ValueError):
    """The bytes that were read are no frame of the other end's."""


def parse(data: bytes) -> dict[str, Any]:
    """Parse the JSON object in ``data``. Raises `FrameError` for anything else."""
    try:
        value = checked_json.loads(data.decode("utf-8"), pairs=checked_json.unique)
    except ValueError as error:
        raise FrameError(str(error)[:200]) from None
    if not isinstance(value, dict):
        raise FrameError("JSON that is no object")
    return value


class Outbox:
    """Frames that wait to be written to a descriptor that does not block."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes of it."""

        self._parts: collections.deque[memoryview] = collections.deque()

    def add(self, *parts: bytes | memoryview) -> None:
        """Have these bytes written after all others."""
        for part in parts:
            if part:
                self._parts.append(memoryview(part))
                self.size += len(part)

    def take(self, other: Outbox) -> None:
        """Have the bytes of another one written after all of these."""
        self.add(*other._parts)
        other.clear()

    def clear(self) -> None:
        """Forget it all: nobody reads it any more."""
        self._parts.clear()
        self.size = 0

    def write(self, fd: int) -> None:
        """Write it all. Raises `BlockingIOError` where a part is left, and another `OSError`."""
        while self._parts:
            count = self._send(fd, list(itertools.islice(self._parts, _BATCH)))
            self.size -= count
            while count:
                part = self._parts[0]
                if count >= len(part):
                    count -= len(self._parts.popleft())
                else:
                    self._parts[0] = part[count:]
                    count = 0

    def _send(self, fd: int, parts: list[memoryview]) -> int:
        """Write once; return the number of bytes."""
        return os.writev(fd, parts)


def receive(fd: int, tag: bytes) -> dict[str, Any]:
    """Wait for the first frame with ``tag``, which has no payload; read no byte after it.

    Raises `FrameError` for anything else, and `EOFError` at the end.
    """
    found, number, size, payload = HEADER.unpack(_exactly(fd, HEADER.size))
    if found != tag or number or payload or size > MAX_JSON:
        raise FrameError("another frame than the one that was due")
    return parse(_exactly(fd, size))


def _exactly(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = os.read(fd, count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


class Encoder:
    """An encoder that numbers and tags the frames of one direction."""

    def __init__(self, tag: bytes = NO_TAG, *, max_json: int = MAX_JSON, number: int = 0) -> None:
        """``number`` is that of the first frame: the other end has had those before it."""
        self.tag = tag
        self._max_json = max_json
        self._number = number

    def head(self, message: dict[str, Any], payload: int = 0) -> bytes:
        """Return header and JSON of the next frame; ``payload`` bytes are to follow them."""
        return self.framed(json.dumps(message, separators=(",", ":")).encode(), payload)

    def framed(self, data: bytes, payload: int = 0) -> bytes:
        """Return the same for a message in JSON. Raises `FrameError` if it is too large."""
        if len(data) > self._max_json or payload > MAX_PAYLOAD:
            raise FrameError("a frame that is too large")
        header = HEADER.pack(self.tag, self._number, len(data), payload)
        self._number = (self._number + 1) % _NUMBERS
        return header + data


class Decoder:
    """A decoder of frames from bytes as they come, in a buffer that grows for a long frame.

    ``read`` makes the message of a frame's JSON; its errors reach the caller of `frames`.
    ``number`` is that of the first frame: those before it have been taken elsewhere.
    """

    def __init__(
        self,
        tag: bytes = NO_TAG,
        *,
        max_json: int = MAX_JSON,
        max_payload: int = MAX_PAYLOAD,
        read: Callable[[bytes], dict[str, Any]] = parse,
        number: int = 0,
    ) -> None:
        self.tag = tag
        self.size = 0
        """Bytes of the frame that was given last."""

        self._max_json = max_json
        self._max_payload = max_payload
        self._read = read
        self._number = number
        self._known = 0
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0

    def room(self) -> memoryview:
        """Return the place for the next bytes. Earlier frames are no longer valid.

        Call it when all `frames` have been taken: a part of one is all that is left then.
        """
        kept = self._view[self._start : self._end]
        full = len(kept) == len(self._buffer)
        if full or (not kept and len(self._buffer) > _BUFFER):
            largest = HEADER.size + self._max_json + self._max_payload
            self._buffer = bytearray(min(2 * len(kept), largest) if full else _BUFFER)
            self._buffer[: len(kept)] = kept
            self._view = memoryview(self._buffer)
        elif self._start:
            self._buffer[: len(kept)] = kept
        self._start, self._end = 0, len(kept)
        return self._view[self._end :]

    def add(self, count: int) -> None:
        """Note that ``count`` bytes were read into the room."""
        self._end += count

    def read(self, fd: int, readv: Callable[[int, list[memoryview]], int] = _readv) -> int:
        """Read once from ``fd``; return the number of bytes, 0 where no more will come.

        Raises `BlockingIOError` where nothing has come yet. The rule of `room` holds.
        """
        room = self.room()
        try:
            count = readv(fd, [room])
        except BlockingIOError:
            raise
        except OSError:  # the other end is gone, with messages of ours unread
            return 0
        self.add(count)
        return count

    def cut(self, mark: bytes, count: int) -> bytes | None:
        """Cut off the bytes from a mark on, if it ends in the last ``count`` ones; return what
        follows it.
        """
        first = max(self._start, self._end - count - len(mark) + 1)
        place = self._buffer.find(mark, first, self._end)
        if place < 0:
            return None
        rest = bytes(self._view[place + len(mark) : self._end])
        self._end = place
        return rest

    def ahead(self, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield size and message of each frame that is new in ``data``, which holds whole ones.

        The sender may send these too: `frames` leaves them out then. Raises like `frames`.
        """
        start = 0
        while start < len(data):
            if len(data) - start < HEADER.size:
                raise FrameError("a part of a frame")
            tag, number, json_size, payload_size = HEADER.unpack_from(data, start)
            json_start = start + HEADER.size
            end = json_start + json_size
            if tag != self.tag or payload_size or json_size > self._max_json or end > len(data):
                raise FrameError("a frame of another kind or size")
            after = (number - self._number - self._known) % _NUMBERS
            if after == 0:
                self._known += 1
                yield end - start, self._read(data[json_start:end])
            elif after < _NUMBERS // 2:
                return  # those before it were sent since the last read: they come first
            start = end

    def frames(self) -> Iterator[tuple[dict[str, Any], memoryview]]:
        """Yield the complete frames: message and payload. Raises `FrameError`, or as ``read``."""
        while self._end - self._start >= HEADER.size:
            tag, number, json_size, payload_size = HEADER.unpack_from(self._buffer, self._start)
            if tag != self.tag:
                raise FrameError("a frame with another tag")
            if number != self._number:
                raise FrameError(f"frame {number}, where {self._number} was due")
            if json_size > self._max_json or payload_size > self._max_payload:
                raise FrameError(f"a frame of {json_size} and {payload_size} bytes")
            json_start = self._start + HEADER.size
            payload_start = json_start + json_size
            end = payload_start + payload_size
            if end > self._end:
                return
            self._number = (self._number + 1) % _NUMBERS
            self.size = end - self._start
            self._start = end
            if self._known:
                self._known -= 1
                continue
            message = self._read(bytes(self._view[json_start:payload_start]))
            yield message, self._view[payload_start:end]
