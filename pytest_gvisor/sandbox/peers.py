"""What takes part in a channel: who has an id there, and what is said when it ends."""

from __future__ import annotations

import abc
import dataclasses
import threading
from typing import TYPE_CHECKING

from pytest_gvisor.completed import Outcome
from pytest_gvisor.escape import escape
from pytest_gvisor.guest.frames import FrameError

if TYPE_CHECKING:
    from pytest_gvisor.run.connected import Ended
    from pytest_gvisor.sandbox.messages import Message


class Peer(abc.ABC):
    """Something that has an id of its own on the channel. All is called with the lock held."""

    over = False
    """Whether the guest has nothing more to say about it."""

    @abc.abstractmethod
    def on_message(self, message: Message, payload: memoryview) -> None:
        """Take a message. Raises `FrameError` for one that may not come now."""

    @abc.abstractmethod
    def on_death(self) -> None:
        """The sandbox is gone."""


class Answer(Peer):
    """One question and its answer; ``lock`` is the channel's."""

    def __init__(self, lock: threading.RLock, *words: str) -> None:
        self.message: Message | None = None
        self.changed = threading.Condition(lock)
        self._words = words

    def on_message(self, message: Message, payload: memoryview) -> None:
        """See `Peer.on_message`."""
        del payload
        if message.op not in self._words:
            raise FrameError(f"{message.op} as an answer")
        self.message = message
        self.over = True
        self.changed.notify_all()

    def on_death(self) -> None:
        """See `Peer.on_death`."""
        self.changed.notify_all()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Death:
    """Why there is no sandbox any more."""

    reason: str
    crashed: bool = True
    """False where it was closed."""

    replaceable: bool = False
    """Whether the next use may start another one in its place."""


def why(ended: Ended) -> str:
    """In words, how a sandbox ended that nobody here has ended."""
    if ended.error is not None:
        return ended.error.message
    completed = ended.completed
    if completed is None:
        return "it ended"
    how = f"exit status {completed.returncode}"
    if completed.returncode < 0:
        how = f"signal {-completed.returncode}"
    if completed.outcome is Outcome.OUT_OF_MEMORY:
        how = "the memory limit"
    tail = escape(completed.stderr[-2000:])
    return f"its guest was ended by {how}" + (f"\n{tail}" if tail else "")
