"""Messages from the guest, parsed and checked, and frames on their way to it.

An unknown message closes the sandbox.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_gvisor.guest.wire.frames import VERSION, WINDOW, Encoder, FrameError, Outbox

_ID = (0, 2**31 - 1)
_ERRNO = (0, 4095)

SHAPES: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "hello": {"version": (VERSION, VERSION)},
    "started": {"pid": _ID},  # 0 for a connection
    "failed": {"errno": _ERRNO},
    "data": {"s": (1, 2)},
    "eof": {"s": (0, 2)},
    "credit": {"n": (1, WINDOW)},
    "exit": {"status": (0, 0xFFFF)},
    "killed": {"left": (0, 2**31 - 1)},
    "answer": {"n": (0, 2**53)},
    "closed": {"errno": _ERRNO},
}
"""The fields of each message, with their least and largest value. ``data`` alone has a payload."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message of the guest, whose fields are checked. Its receiver checks the order."""

    op: str
    id: int
    numbers: Mapping[str, int]
    payload: memoryview
    """Valid until the next frame is read."""


def _number(value: Any, limits: tuple[int, int], name: str) -> int:
    if type(value) is not int or not limits[0] <= value <= limits[1]:
        raise FrameError(f"{name} is {str(value)[:40]!r}")
    return value


def read(raw: Mapping[str, Any], payload: memoryview) -> Message:
    """Parse the message of a frame. Raises `FrameError`."""
    op = raw.get("op")
    shape = SHAPES.get(op) if isinstance(op, str) else None
    if shape is None or not isinstance(op, str):
        raise FrameError(f"the unknown message {str(op)[:40]!r}")
    if raw.keys() != {"op", "id", *shape}:
        raise FrameError(f"{op} with the fields {str(sorted(raw))[:200]}")
    if bool(payload) != (op == "data"):
        raise FrameError(f"{op} with {len(payload)} bytes")
    numbers = {name: _number(raw[name], limits, f"{op}: {name}") for name, limits in shape.items()}
    return Message(op=op, id=_number(raw["id"], _ID, f"{op}: id"), numbers=numbers, payload=payload)


class Outgoing(Outbox):
    """Frames on their way to one guest: numbered, tagged, and held back while it is saved.

    All methods are called with the channel's lock held.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.held: Outbox | None = None
        """Frames that are held back; None where none is to be."""

        self.passed: list[int] = []
        """Descriptors of its own, which go with the next bytes."""

    @property
    def total(self) -> int:
        """The number of bytes that are not written, those that are held back included."""
        return self.size + (0 if self.held is None else self.held.size)

    def frame(self, message: Mapping[str, object], payload: bytes | memoryview = b"") -> bool:
        """Add a frame; return whether it is the first that waits for `write`."""
        head = self.encoder.head(dict(message), len(payload))
        first = self.held is None and not self.size
        (self if self.held is None else self.held).add(head, payload)
        return first

    def _send(self, fd: int, parts: list[memoryview]) -> int:
        if not self.passed:
            return super()._send(fd, parts)
        with socket.fromfd(fd, socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            count = socket.send_fds(sock, parts, self.passed)
        self._drop_passed()
        return count

    def _drop_passed(self) -> None:
        while self.passed:
            os.close(self.passed.pop())

    def clear(self) -> None:
        """See `Outbox.clear`; nothing is passed either."""
        super().clear()
        self._drop_passed()

    def release(self, frame: bytes | None) -> bool:
        """Add a frame out of the row and all that was held; None drops it.

        Returns whether anything was added.
        """
        held, self.held = self.held, None
        if held is None or frame is None:
            return False
        self.add(frame)
        self.take(held)
        return True
