"""Files to and from a warm sandbox."""

from __future__ import annotations

import threading
import time

from pytest_gvisor.errors import InsideError, NotReady
from pytest_gvisor.guest.frames import MAX_PAYLOAD, WINDOW, FrameError
from pytest_gvisor.run.supervisor import NAP
from pytest_gvisor.sandbox.channel import Channel
from pytest_gvisor.sandbox.messages import Message
from pytest_gvisor.sandbox.peers import Peer

_TOO_LARGE = 27  # EFBIG


class _Transfer(Peer):
    """The common part of both directions."""

    def __init__(self, channel: Channel, path: str) -> None:
        self.path = path
        self.refused = 0
        self._channel = channel
        self._changed = threading.Condition(channel.lock)
        self._id = 0

    def on_message(self, message: Message) -> None:
        """See `Peer.on_message`."""
        if message.op == "failed":
            self.refused = message.numbers["errno"] or 5
            self.over = True
        else:
            self._take(message)
        self._changed.notify_all()

    def _take(self, message: Message) -> None:
        raise NotImplementedError

    def on_death(self) -> None:
        """See `Peer.on_death`."""
        self._changed.notify_all()

    def _wait(self, deadline: float, doing: str) -> None:
        with self._changed:
            while not self.over:
                self._channel.check()
                left = deadline - time.monotonic()
                if left <= 0:
                    self._channel.send({"op": "reset", "id": self._id})
                    raise NotReady(f"the sandbox did not {doing} {self.path} in time")
                self._changed.wait(min(left, NAP))
        if self.refused:
            raise self._refusal(doing)

    def _refusal(self, doing: str) -> InsideError:
        return InsideError(f"cannot {doing} {self.path} in the sandbox", errno=self.refused)


class Upload(_Transfer):
    """A file that is written in the sandbox."""

    def __init__(self, channel: Channel, path: str, mode: int) -> None:
        super().__init__(channel, path)
        self._size = -1
        self._id = channel.add(self, {"op": "put", "path": path, "mode": mode})

    def run(self, data: bytes, deadline: float) -> None:
        """Send the file. Raises `InsideError`, `NotReady`, or the sandbox's end."""
        view = memoryview(data)
        while view and not self.over:
            if not self._channel.wait_room(deadline):
                break
            self._channel.check()
            self._channel.send({"op": "data", "id": self._id}, bytes(view[:MAX_PAYLOAD]))
            view = view[MAX_PAYLOAD:]
        if not view:
            self._channel.send({"op": "eof", "id": self._id})
        self._wait(deadline, "write")
        if self._size != len(data):
            self._channel.kill(f"it wrote {self._size} bytes of {len(data)} and said that was all")
            self._channel.join()
            self._channel.check()

    def _take(self, message: Message) -> None:
        if message.op != "answer":
            raise FrameError(f"{message.op} of a file that is written")
        self._size = message.numbers["n"]
        self.over = True


class Download(_Transfer):
    """A file that is read in the sandbox."""

    def __init__(self, channel: Channel, path: str, limit: int) -> None:
        super().__init__(channel, path)
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._due = WINDOW
        self._cancelled = False
        self._id = channel.add(self, {"op": "get", "path": path})

    def run(self, deadline: float) -> bytes:
        """Receive the file. Raises `InsideError`, `NotReady`, or the sandbox's end."""
        self._wait(deadline, "read")
        return b"".join(self._parts)

    def _refusal(self, doing: str) -> InsideError:
        if self._cancelled:
            text = f"{self.path} in the sandbox is longer than {self._limit} bytes"
            return InsideError(text, errno=_TOO_LARGE)
        return super()._refusal(doing)

    def _take(self, message: Message) -> None:
        payload = message.payload
        if message.op == "eof" and message.numbers["s"] == 1:
            # The end may have been on its way when it was told to stop.
            self.refused = _TOO_LARGE if self._cancelled else 0
            self.over = True
            return
        if message.op != "data" or message.numbers["s"] != 1 or len(payload) > self._due:
            raise FrameError(f"{message.op} of a file that is read")
        self._due -= len(payload)
        self._size += len(payload)
        if self._cancelled:
            return
        self._parts.append(bytes(payload))
        if self._size > self._limit:
            self._cancelled = True
            self._parts.clear()
            self._channel.send({"op": "reset", "id": self._id})
        elif self._due <= WINDOW // 2:
            given = WINDOW - self._due
            self._due += given
            self._channel.send({"op": "credit", "id": self._id, "s": 1, "n": given})
