"""Frames on their way to a guest: numbered, tagged, and held back while it is saved."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_gvisor.guest.frames import Encoder, Outbox


class Outgoing:
    """The bytes to write to one guest. All methods are called with the channel's lock held."""

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._out = Outbox()
        self._held: Outbox | None = None

    @property
    def waits(self) -> bool:
        """Whether bytes wait for `write`."""
        return self._out.size > 0

    @property
    def size(self) -> int:
        """The number of bytes that are not written, those that are held back included."""
        return self._out.size + (0 if self._held is None else self._held.size)

    @property
    def holds(self) -> bool:
        """Whether frames are held back."""
        return self._held is not None

    def tag(self, tag: bytes) -> None:
        """Put this tag into all frames from the next one on."""
        self._encoder.tag = tag

    def frame(self, message: Mapping[str, object], payload: bytes | memoryview = b"") -> bool:
        """Add a frame; return whether it is the first that waits for `write`."""
        head = self._encoder.head(dict(message), len(payload))
        first = self._held is None and not self.waits
        (self._out if self._held is None else self._held).add(head, payload)
        return first

    def add(self, data: bytes) -> None:
        """Add a frame out of the row."""
        self._out.add(data)

    def hold(self) -> None:
        """Hold back all further frames."""
        self._held = Outbox()

    def release(self, frame: bytes | None) -> bool:
        """Add a frame out of the row and all that was held; None drops it.

        Returns whether anything was added.
        """
        held, self._held = self._held, None
        if held is None or frame is None:
            return False
        self._out.add(frame)
        self._out.take(held)
        return True

    def write(self, fd: int) -> None:
        """Write as much as ``fd`` takes. Raises `BlockingIOError` where a part is left."""
        self._out.write(fd)

    def clear(self) -> None:
        """Drop the bytes that wait for `write`."""
        self._out.clear()
