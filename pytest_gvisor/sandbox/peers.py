"""The endpoints of a channel: each has an id, and is notified when the channel closes."""

from __future__ import annotations

import abc
import contextlib
import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pytest_gvisor.base.errors import InsideError, NotReady
from pytest_gvisor.base.escape import escape
from pytest_gvisor.guest.wire.frames import FrameError
from pytest_gvisor.programs import clock
from pytest_gvisor.run.connected import Ended
from pytest_gvisor.run.supervisor import NAP
from pytest_gvisor.sandbox.messages import Message

_LATE = 0.5
"""Seconds after its deadline at which a wait ends if this process was stopped meanwhile."""

_AFTER_STOP = 1.0
"""Seconds to take what has come while this process was stopped."""


class Cancelled(Exception):
    """The wait of a call that its caller has cancelled."""


class Cancellation:
    """Ends the waits of one call from another thread."""

    fired = False
    waits: threading.Condition | None = None
    """The condition that the call waits on."""

    def fire(self) -> None:
        """Have the call raise `Cancelled` where it waits, now or the next time."""
        self.fired = True
        if self.waits is not None:
            with self.waits:
                self.waits.notify_all()


CANCELLATION: contextvars.ContextVar[Cancellation | None] = contextvars.ContextVar(
    "CANCELLATION", default=None
)
"""That of the call which this thread makes."""


class Changed(threading.Condition):
    """A condition that has its lock when `wait` raises, whenever the handler of a signal did."""

    def wait(self, timeout: float | None = None) -> bool:
        """See `threading.Condition.wait`."""
        # No context manager of contextlib: an exception amid its __enter__ leaves a generator whose
        # end comes with that of the traceback. The lock would be taken then, and never given back.
        whole = False
        try:
            found = super().wait(timeout)
            whole = True
        finally:
            if not whole:
                with contextlib.suppress(RuntimeError):  # it is not taken
                    self.release()
                self.acquire()
        return found


class PeerChannel(Protocol):
    """The part of a `Channel` that a peer needs."""

    lock: threading.RLock

    def check(self) -> None:
        """Raise an error if the sandbox is gone."""


class Peer(abc.ABC):
    """An endpoint with an id on a channel. These methods are called with the channel's lock held.

    ``check`` raises an error if no more messages can come. By default it is the channel's own.
    """

    over = False
    """Whether the guest has nothing more to say about it."""

    id = 0
    """Its id, which `Channel.add` sets."""

    def __init__(self, channel: PeerChannel, check: Callable[[], None] | None = None) -> None:
        # In place of `with self.changed`: a signal's handler could raise there with the lock taken.
        self.lock = channel.lock
        self.changed = Changed(self.lock)
        self._check = check or channel.check
        self._late = 0.0  # the end of the time after a stop

    @abc.abstractmethod
    def on_message(self, message: Message) -> None:
        """Take a message. Raises `FrameError` for a message at the wrong moment."""

    def on_death(self) -> None:
        """Note that the sandbox is gone."""
        self.changed.notify_all()

    def not_ready(self, text: str) -> NotReady:
        """Return the error of a deadline that has passed."""
        return NotReady(text)

    def wait_change(self, deadline: float, text: str, nap: float = NAP) -> None:
        """Wait for a message, for ``nap`` seconds at most.

        Raises `not_ready` with the text at the deadline (monotonic), `Cancelled`, or the sandbox's
        end.
        """
        if cancellation := CANCELLATION.get():
            cancellation.waits = self.changed
            if cancellation.fired:
                raise Cancelled
        self._check()
        begun, left = clock.monotonic(), self.left(deadline)
        if left <= 0:
            raise self.not_ready(text)
        self.changed.wait(min(left, nap))
        if begun < deadline < clock.monotonic() - _LATE:
            self._late = clock.monotonic() + _AFTER_STOP

    def left(self, deadline: float) -> float:
        """Return the seconds until a deadline, or until the end of the time after a stop."""
        return max(deadline, self._late) - clock.monotonic()


class Answer(Peer):
    """A peer for one question and its answer, a message named ``word``, or a refusal to ``do``."""

    def __init__(self, channel: PeerChannel, word: str = "answer", do: str = "") -> None:
        super().__init__(channel)
        self.message: Message | None = None
        self._word, self._do = word, do

    def on_message(self, message: Message) -> None:
        """See `Peer.on_message`."""
        if message.op != self._word and not (self._do and message.op == "failed"):
            raise FrameError(f"{message.op} as an answer")
        self.message = message
        self.over = True
        self.changed.notify_all()

    def wait(self, deadline: float, text: str) -> Message:
        """Return the answer when it has come; see `wait_change`. Raises `InsideError`."""
        with self.lock:
            while self.message is None:
                self.wait_change(deadline, text)
        if self.message.op == "failed":
            errno = self.message.numbers["errno"] or 5
            raise InsideError(f"cannot {self._do} in the sandbox", errno=errno)
        return self.message


@dataclass(frozen=True, kw_only=True)
class Death:
    """The reason why a sandbox is gone."""

    reason: str = ""
    patience: float = 0.0
    """Seconds in which it may end before it is killed."""

    replaceable: bool = False
    """Whether the next use may start another one in its place."""


def why(ended: Ended) -> str:
    """Describe how a sandbox ended that this process did not end."""
    if ended.error is not None:
        return ended.error.message
    completed = ended.completed
    if completed is None:
        return "it ended"
    tail = escape(completed.stderr[-2000:])
    return f"its guest has ended: {completed.end}" + (f"\n{tail}" if tail else "")
