"""The endpoints of a channel: each has an id, and is notified when the channel closes."""

from __future__ import annotations

import abc
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_gvisor.completed import Outcome
from pytest_gvisor.escape import escape
from pytest_gvisor.guest.frames import FrameError

if TYPE_CHECKING:
    from pytest_gvisor.run.connected import Ended
    from pytest_gvisor.sandbox.messages import Message


class Peer(abc.ABC):
    """An endpoint with an id on the channel. All methods are called with the lock held."""

    over = False
    """Whether the guest has nothing more to say about it."""

    @abc.abstractmethod
    def on_message(self, message: Message) -> None:
        """Take a message. Raises `FrameError` for a message at the wrong moment."""

    @abc.abstractmethod
    def on_death(self) -> None:
        """Note that the sandbox is gone."""


class Answer(Peer):
    """A peer for one question and its answer; ``lock`` is the channel's."""

    def __init__(self, lock: threading.RLock, *words: str) -> None:
        self.message: Message | None = None
        self.changed = threading.Condition(lock)
        self._words = words

    def on_message(self, message: Message) -> None:
        """See `Peer.on_message`."""
        if message.op not in self._words:
            raise FrameError(f"{message.op} as an answer")
        self.message = message
        self.over = True
        self.changed.notify_all()

    def on_death(self) -> None:
        """See `Peer.on_death`."""
        self.changed.notify_all()


@dataclass(frozen=True, kw_only=True)
class Death:
    """The reason why a sandbox is gone."""

    reason: str = ""
    patience: float = 0.0
    """Seconds in which it may end by itself."""

    replaceable: bool = False
    """Whether the next use may start another one in its place."""


def why(ended: Ended) -> str:
    """Describe how a sandbox ended that this process did not end."""
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
    elif completed.outcome is Outcome.OUT_OF_TASKS:
        how = f"the limit on tasks: {completed.reason}"
    tail = escape(completed.stderr[-2000:])
    return f"its guest was ended by {how}" + (f"\n{tail}" if tail else "")
