"""Files to and from a warm sandbox."""

from __future__ import annotations

import abc
import errno

from pytest_gvisor.base.errors import InsideError, on_error
from pytest_gvisor.guest.wire.frames import MAX_PAYLOAD, WINDOW, FrameError
from pytest_gvisor.oci.spec import User
from pytest_gvisor.sandbox.channel import Channel
from pytest_gvisor.sandbox.messages import Message
from pytest_gvisor.sandbox.peers import Peer

ROOT = User(uid=0, gid=0)


def ids_of(user: User) -> dict[str, object]:
    """Return the fields of a message about a user's file."""
    return {"uid": user.uid, "gid": user.gid, "groups": list(user.additional_gids)}


class _Transfer(Peer):
    """The common part of both directions."""

    def __init__(self, channel: Channel, path: str) -> None:
        super().__init__(channel)
        self.channel = channel
        self.path = path
        self.refused = 0
        self._cancelled = False

    def on_message(self, message: Message) -> None:
        """See `Peer.on_message`."""
        if message.op == "failed":
            self.refused = message.numbers["errno"] or 5
            self.over = True
        else:
            self._take(message)
        self.changed.notify_all()

    @abc.abstractmethod
    def _take(self, message: Message) -> None:
        """Take a message other than the refusal."""

    def _wait(self, deadline: float, doing: str) -> None:
        with self.lock, on_error(self.channel.send, {"op": "reset", "id": self.id}):
            while not self.over:
                self.wait_change(deadline, f"the sandbox did not {doing} {self.path} in time")
        if self.refused and not self._cancelled:
            raise InsideError(f"cannot {doing} {self.path} in the sandbox", errno=self.refused)


class Upload(_Transfer):
    """A file that is written in the sandbox."""

    def __init__(self, channel: Channel, path: str, mode: int, user: User = ROOT) -> None:
        super().__init__(channel, path)
        self._size = -1
        channel.add(self, {"op": "put", "path": path, "mode": mode, **ids_of(user)})

    def run(self, data: bytes, deadline: float) -> None:
        """Send the file. Raises `InsideError`, `NotReady`, or the sandbox's end."""
        view = memoryview(data)
        while view and not self.over:
            if not self.channel.wait_room(deadline):
                break
            self.channel.check()
            self.channel.send({"op": "data", "id": self.id}, bytes(view[:MAX_PAYLOAD]))
            view = view[MAX_PAYLOAD:]
        if not view:
            self.channel.send({"op": "eof", "id": self.id})
        self._wait(deadline, "write")
        if self._size != len(data):
            self.channel.kill(f"it wrote {self._size} bytes of {len(data)} and said that was all")
            self.channel.join()
            self.channel.check()

    def _take(self, message: Message) -> None:
        if message.op != "answer":
            raise FrameError(f"{message.op} of a file that is written")
        self._size = message.numbers["n"]
        self.over = True


class Download(_Transfer):
    """A file that is read in the sandbox."""

    def __init__(self, channel: Channel, path: str, limit: int, user: User = ROOT) -> None:
        super().__init__(channel, path)
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._due = WINDOW
        channel.add(self, {"op": "get", "path": path, **ids_of(user)})

    def run(self, deadline: float) -> bytes:
        """Receive the file. Raises `InsideError`, `NotReady`, or the sandbox's end."""
        self._wait(deadline, "read")
        if self._cancelled:
            text = f"{self.path} in the sandbox is longer than {self._limit} bytes"
            raise InsideError(text, errno=errno.EFBIG)
        return b"".join(self._parts)

    def _take(self, message: Message) -> None:
        payload = message.payload
        if message.op == "eof" and message.numbers["s"] == 1:
            self.over = True  # also after a reset: the end may have crossed it on the way
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
            self.channel.send({"op": "reset", "id": self.id})
        elif self._due <= WINDOW // 2:
            given = WINDOW - self._due
            self._due += given
            self.channel.send({"op": "credit", "id": self.id, "s": 1, "n": given})
