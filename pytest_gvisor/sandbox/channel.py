"""The channel to one guest, with a thread that reads its frames until the sandbox's end.

The thread does all reading, and waits only for the kernel. Other threads send under the lock, and
wait on conditions of that lock. However the sandbox ends, each thread that waits is woken.

Several threads use a warm sandbox at once, and its forwarded ports work while none of them waits.
With a pytest inside, only pytest's own thread waits. So `inside.wire.link` has no such thread,
which would add two changes of threads to each message.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import os
import secrets
import selectors
import threading
import weakref
from collections.abc import Callable, Mapping

from pytest_gvisor.base.completed import Completed, Outcome, SandboxCrashed
from pytest_gvisor.base.errors import GvisorError, UsageError, on_error, stage
from pytest_gvisor.base.escape import escape
from pytest_gvisor.guest.wire.frames import MAX_PAYLOAD, TAG_SIZE, Decoder, FrameError, Outbox
from pytest_gvisor.programs import clock
from pytest_gvisor.run import threads
from pytest_gvisor.run.budget import Budget
from pytest_gvisor.run.capture import Capture, streams
from pytest_gvisor.run.connected import Driven, Ended
from pytest_gvisor.run.supervisor import NAP, Supervisor
from pytest_gvisor.sandbox import messages
from pytest_gvisor.sandbox.peers import Changed, Death, Peer, why

_CONGESTED = 2 * MAX_PAYLOAD
_READS = 4
# A read takes most of a MiB, and the socket's buffer holds two.
_LAST_READS = 16
_MUCH = 64 * 1024  # so much at once is seldom all
_EXIT_PATIENCE = 1.0
_DEATH_PATIENCE = 2.0
_FORK = "this process is a fork of the one that started it"


class _State(enum.Enum):
    """The part of its life that a channel is in; each is left for a later one."""

    NEW = enum.auto()  # the listening thread has not begun
    OPEN = enum.auto()
    ENDING = enum.auto()  # nothing is sent any more; the listening thread removes the sandbox
    GONE = enum.auto()  # removed, and each waiting thread is woken


class Channel:
    """The connection to one guest. `start` it, and `close` it."""

    def __init__(
        self, driven: Driven, wake: Callable[[bytes], bytes] | None = None, last_id: int = 0
    ) -> None:
        """Prepare it. The guest of a snapshot waits for the frame that ``wake`` makes of a tag.

        ``last_id`` is the last id that the guest knows.
        """
        self.lock = threading.RLock()
        _channels.add(self)
        self.supervisor: Supervisor
        """The run's supervisor, for the listening thread only."""

        self.greeted = False
        self.death = Death()
        """Why it is ending, or gone."""

        self._state = _State.NEW
        self._ended: Ended | None = None
        self.driven = driven
        self._frame_that_wakes = wake
        with stage("channel", "no memory for the sandbox's messages"):
            self._decoder = Decoder(secrets.token_bytes(TAG_SIZE))
        self._peers: dict[int, Peer] = {}
        self._last_id = last_id
        self._outgoing = messages.Outgoing()
        self.changed = Changed(self.lock)
        """Notified when the sandbox has ended, among others."""

        self._chores: collections.deque[Callable[[], None]] = collections.deque()
        self._relieved: list[Callable[[], None]] = []
        self.at_end: set[Callable[[], None]] = set()
        """Called with the lock held when the sandbox is to end, before it is removed."""

        self._waker = -1
        self._thread = threading.Thread(target=self._run, name="gvisor-sandbox", daemon=True)

    def start(self, timeout: float) -> None:
        """Start the sandbox and wait for its guest's hello.

        Raises what a run raises before its start, `RunscFailed` or `SandboxCrashed`.
        """
        budget = Budget(timeout)  # which counts no time in which this process was stopped
        self.supervisor = self.driven.start()
        # Ctrl-C and the signal of pytest-timeout raise here too, and no caller has the sandbox.
        with on_error(self._give_up, "its start was given up"):
            self._listen()
            with self.lock:
                tag, wake = self._decoder.tag, self._frame_that_wakes
                if wake is None:
                    self.send({"op": "hello", "id": 0, "tag": tag.hex()})
                else:
                    self._outgoing.add(wake(tag))
                    self._push()
                self._outgoing.encoder.tag = tag
                while not (self.greeted or self.gone) and (left := budget.left) > 0:
                    self.changed.wait(min(left, NAP))
        if not self.greeted:
            self._give_up(f"the guest did not answer within {timeout:g} s")
            raise (self._ended and self._ended.error) or self.crash()

    def _listen(self) -> None:
        self._fd = self.supervisor.pipes.socket
        with stage("channel", "the sandbox cannot be listened to"):
            self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self.supervisor.change(self._waker, selectors.EVENT_READ, self._on_wake)
            self.supervisor.change(self._fd, selectors.EVENT_READ, self._on_socket)
        threads.start(self._thread)

    def _give_up(self, reason: str) -> None:
        """End a sandbox in the middle of its start, through the listening thread if that runs."""
        with self.lock:
            listens = self._state is not _State.NEW
            self.kill(reason)
        if listens:
            self._thread.join()
        else:
            self._ended = self.driven.end()
            self._close_waker()

    # Methods for other threads.

    def add(
        self, peer: Peer, message: Mapping[str, object], payload: bytes = b"", *passed: int
    ) -> None:
        """Give a peer its id, and send its first message, after the descriptors ``passed``.

        Raises `UsageError` for descriptors while it is saved, or an error if the sandbox is gone.
        """
        with self.lock:
            self.check()
            if passed and self._outgoing.held is not None:
                raise UsageError("this sandbox is being saved by another thread")
            # Copies: the caller may close its own before there is room for these.
            self._outgoing.passed += map(os.dup, passed)
            peer.id = self._last_id = self._last_id + 1
            self._peers[peer.id] = peer
            self.send({**message, "id": peer.id}, payload)

    def check(self) -> None:
        """Raise an error if the sandbox is gone."""
        if self.ending:
            raise self.crash()

    def crash(self, completed: Completed | None = None) -> SandboxCrashed:
        """Return the error of a gone sandbox, with the output so far in ``completed``."""
        completed = completed or (self._ended.completed if self._ended else None)
        completed = completed or Completed(
            args=(), returncode=-9, **streams(Capture(0), Capture(0)), duration=0.0,
            platform=self.driven.request.platform, outcome=Outcome.SANDBOX_CRASHED,
        )  # fmt: skip
        return SandboxCrashed(
            f"the sandbox is gone: {self.death.reason or 'it has ended'}",
            completed=completed,
            panic=self.driven.record.panic,
        )

    def send(self, message: Mapping[str, object], payload: bytes | memoryview = b"") -> None:
        """Send a frame now, or when the guest takes it; for a dead sandbox, drop it."""
        with self.lock:
            if self.ending:
                return
            with self.whole():
                if self._outgoing.frame(message, payload):
                    self._push()

    def whole(self) -> contextlib.AbstractContextManager[None]:
        """Kill the sandbox if the handler of a signal raises in the block, or anything else does.

        It may have been sent half a message then.
        """
        return on_error(self.kill, "a message to it was interrupted", replaceable=True)

    def _push(self) -> None:
        self._flush()
        # Only the listening thread changes the selector: it may be in the midst of a turn.
        if self._outgoing.size and threading.current_thread() is not self._thread:
            self.chore(self._watch_socket)

    def hold(self, peer: Peer, message: Mapping[str, object]) -> None:
        """Do as `add`, and send nothing that comes after it until `release`."""
        with self.lock:
            if self._outgoing.held is not None:
                raise UsageError("this sandbox is being saved by another thread")
            self.add(peer, message)
            self._outgoing.held = Outbox()

    def release(self, frame: bytes) -> None:
        """Send a frame out of the row, and then what was held back."""
        with self.lock, self.whole():
            if self._outgoing.release(None if self.ending else frame):
                self._push()

    def wait_room(self, deadline: float) -> bool:
        """Wait until little is waiting to be sent; False at the deadline, and after it."""
        with self.lock:
            left = deadline - clock.monotonic()
            relieved = self.changed.wait_for(lambda: not self.congested or self.gone, max(0, left))
            return relieved and left > 0

    def chore(self, act: Callable[[], None]) -> None:
        """Have the listening thread call ``act``, with the lock held."""
        self._chores.append(act)
        self._wake()

    def kill(self, reason: str, *, replaceable: bool = False) -> None:
        """End the sandbox at once."""
        self._end(Death(reason=reason, replaceable=replaceable))

    def close(self) -> None:
        """Let the guest end, and wait until nothing is left. A second call does nothing."""
        # In one step: the guest may end at once, and its end must not be noticed before the reason
        # for it is set.
        with self.lock:
            self.send({"op": "exit", "id": 0})
            self._end(Death(reason="it was closed", patience=_EXIT_PATIENCE))
        self.join()

    def join(self) -> None:
        """Wait until the ending sandbox is gone."""
        if threading.current_thread() is not self._thread and self._thread.ident is not None:
            self._thread.join()

    @property
    def ending(self) -> bool:
        """Whether the sandbox is about to end, or gone."""
        return self._state in (_State.ENDING, _State.GONE)

    @property
    def gone(self) -> bool:
        """Whether the sandbox is removed, and no wait for it goes on."""
        return self._state is _State.GONE

    def _end(self, death: Death) -> None:
        """End the sandbox, unless it is ending: the first reason holds."""
        with self.lock:
            if not self.ending:
                self._state, self.death = _State.ENDING, death
                self._wake()

    def _wake(self) -> None:
        with self.lock:
            if self._waker >= 0 and threading.current_thread() is not self._thread:
                os.eventfd_write(self._waker, 1)

    # Methods for the listening thread.

    @property
    def congested(self) -> bool:
        """Whether much is waiting to be sent."""
        return self._outgoing.total > _CONGESTED

    def when_relieved(self, act: Callable[[], None]) -> None:
        """Call ``act`` once when little is waiting any more."""
        self._relieved.append(act)

    def _run(self) -> None:
        with self.lock:
            if self._state is not _State.NEW:  # its start was given up
                return
            self._state = _State.OPEN
        try:
            while not self.ending and not self.supervisor.over:
                # Without a time-out: Python runs the handlers of signals in the main thread, so
                # this one has no need to wake up for them.
                self.supervisor.turn(None)
                with self.lock:
                    while self._chores:
                        self._chores.popleft()()
            self._read_rest()
        except FrameError as error:
            self.kill(f"the guest's messages cannot be trusted: {escape(str(error))}")
        except (GvisorError, OSError) as error:
            self.kill(str(error))
        except MemoryError:
            self.kill("no memory for its messages")
        finally:
            self._wind_up()

    def _on_wake(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._waker)
        return True

    def _on_socket(self) -> bool:
        with self.lock:
            self._flush()
            # Not all at once: forwarded connections wait for this thread too.
            for _ in range(_READS):
                if self._read() < _MUCH:
                    break
        return True

    def _read(self) -> int:
        """Read once; return the number of bytes."""
        try:
            count = self._decoder.read(self._fd)
        except BlockingIOError:
            return 0
        if not count:
            self._end(Death(patience=_DEATH_PATIENCE))
        for raw, payload in self._decoder.frames():
            self._take(messages.read(raw, payload))
        return count

    def _read_rest(self) -> None:
        """Read the guest's last frames: its end may be seen before them."""
        with self.lock:
            for _ in range(_LAST_READS):
                if self.ending or not self._read():
                    return

    def _take(self, message: messages.Message) -> None:
        if message.op == "hello":
            if self.greeted or message.id:
                raise FrameError("hello a second time")
            self.greeted = True
            if self._frame_that_wakes is not None:
                self.supervisor.heard()
            self.changed.notify_all()
            return
        peer = self._peers.get(message.id)
        if peer is None:
            raise FrameError(f"{message.op} about {message.id}, which is not open")
        peer.on_message(message)
        if peer.over:
            del self._peers[message.id]

    def _flush(self) -> None:
        """Send as much as the socket takes."""
        try:
            self._outgoing.write(self._fd)
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._outgoing.clear()  # the guest is gone, which the listening thread notices
        except OSError as error:  # ENOBUFS and ENOMEM: the guest would wait for the rest
            self._outgoing.clear()
            self.kill(f"a message to it cannot be sent: {error}")
        if not self.congested:
            self.changed.notify_all()
            if self._relieved:
                self._chores += self._relieved
                self._relieved.clear()
                self._wake()
        if threading.current_thread() is self._thread:
            self._watch_socket()

    def _watch_socket(self) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing.size else 0)
        self.supervisor.change(self._fd, events, self._on_socket)

    def _wind_up(self) -> None:
        """Remove the sandbox, which ends or has ended, and notify all peers."""
        with self.lock:
            self._end(Death())
            self.supervisor.change(self._fd, 0, self._on_socket)
            for act in list(self.at_end):
                act()
        ended = self.driven.end(self.death.patience)
        with self.lock:
            self._ended = ended
            self.death = dataclasses.replace(self.death, reason=self.death.reason or why(ended))
            self._state = _State.GONE
            self._outgoing.clear()
            for peer in list(self._peers.values()):
                peer.on_death()
            self._peers.clear()
            self.changed.notify_all()
            self._close_waker()

    def _close_waker(self) -> None:
        if self._waker >= 0:
            os.close(self._waker)
            self._waker = -1

    # In a fork of this process.

    def leave(self) -> None:
        """Leave the sandbox to the parent: a message from here would be taken for its own."""
        self.lock._at_fork_reinit()  # type: ignore[attr-defined] # its holder is not in the fork
        self._state, self.death = _State.GONE, Death(reason=_FORK)


_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


def _leave_all() -> None:
    for channel in list(_channels):
        channel.leave()


os.register_at_fork(after_in_child=_leave_all)
