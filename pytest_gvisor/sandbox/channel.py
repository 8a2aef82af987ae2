"""The channel to one guest, with a thread that reads its frames until the sandbox's end.

The thread does all reading and never waits for anybody but the kernel. Other threads send under the
lock and wait on conditions of that lock. Whatever ends the sandbox, everybody who waits is told.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import secrets
import select
import selectors
import threading
import time
from collections.abc import Callable, Mapping

from pytest_gvisor.completed import Completed, Outcome, SandboxCrashed
from pytest_gvisor.errors import GvisorError, stage
from pytest_gvisor.escape import escape
from pytest_gvisor.guest.frames import MAX_PAYLOAD, TAG_SIZE, Decoder, Encoder, FrameError, Outbox
from pytest_gvisor.run.capture import Capture, streams
from pytest_gvisor.run.connected import Driven, DrivenSupervisor, Ended
from pytest_gvisor.sandbox import messages, threads
from pytest_gvisor.sandbox.messages import Message
from pytest_gvisor.sandbox.peers import Death, Peer, why

_CONGESTED = 2 * MAX_PAYLOAD
_READS = 4
# A read takes most of a MiB, and the socket's buffer holds two.
_LAST_READS = 16
_EXIT_PATIENCE = 1.0
_DEATH_PATIENCE = 2.0


class Channel:
    """The connection to one guest. `start` it, and `close` it."""

    def __init__(self, driven: Driven) -> None:
        self.lock = threading.RLock()
        self.death: Death | None = None
        self.ended: Ended | None = None
        self.python = ""
        self._driven = driven
        self._supervisor: DrivenSupervisor
        self._tag = secrets.token_bytes(TAG_SIZE)
        self._encoder = Encoder()
        with stage("channel", "no memory for the sandbox's messages"):
            self._decoder = Decoder()
        self._decoder.tag = self._tag
        self._peers: dict[int, Peer] = {}
        self._last_id = 0
        self._out = Outbox()
        self._writable = threading.Condition(self.lock)
        self._greeted = threading.Condition(self.lock)
        self._chores: collections.deque[Callable[[], None]] = collections.deque()
        self._relieved: list[Callable[[], None]] = []
        self.at_end: set[Callable[[], None]] = set()
        """Called with the lock held when the sandbox is to end, before it is removed."""

        self._death: Death | None = None
        self._patience = _DEATH_PATIENCE
        self._waker = -1
        self._listens = False
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="gvisor-sandbox", daemon=True)

    def start(self, timeout: float) -> None:
        """Start the sandbox and wait for its guest's hello.

        Raises what a run raises before its start, `RunscFailed` or `SandboxCrashed`.
        """
        deadline = time.monotonic() + timeout
        self._supervisor = self._driven.start()
        try:
            self._listen()
            with self.lock:
                self.send({"op": "hello", "id": 0, "tag": self._tag.hex()})
                self._encoder.tag = self._tag
                self._wait_greeting(deadline)
        except BaseException:  # Ctrl-C, or the signal of pytest-timeout: nobody knows this sandbox
            self._give_up()
            raise
        if not self.python:
            self.kill(f"the guest did not answer within {timeout:g} s")
            self._thread.join()
            raise self._start_error()

    def _listen(self) -> None:
        self._fd = self._supervisor.pipes.socket
        with stage("channel", "the sandbox cannot be listened to"):
            self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._supervisor.change(self._waker, selectors.EVENT_READ, self._on_wake)
            self._supervisor.change(self._fd, selectors.EVENT_READ, self._on_socket)
        threads.start(self._thread)

    def _give_up(self) -> None:
        """End a sandbox in the middle of its start, through the listening thread if that runs."""
        self.kill("its start was given up")
        with self.lock:
            self._abandoned = not self._listens
        if self._listens:
            self._thread.join()
            return
        self._driven.end()
        if self._waker >= 0:
            os.close(self._waker)

    def _wait_greeting(self, deadline: float) -> None:
        while not self.python and self.death is None:
            if not self._greeted.wait(max(0.0, deadline - time.monotonic())):
                return

    def _start_error(self) -> GvisorError:
        if self.ended is not None and self.ended.error is not None:
            return self.ended.error
        return self.crash(self.ended.completed if self.ended else None)

    # What other threads do.

    def new_id(self) -> int:
        """Return an unused id; the lock is held."""
        self._last_id += 1
        return self._last_id

    def add(self, peer: Peer, message: Mapping[str, object], payload: bytes = b"") -> int:
        """Give a peer its id, and send its first message. Raises if the sandbox is gone."""
        with self.lock:
            self.check()
            number = self.new_id()
            self._peers[number] = peer
            self.send({**message, "id": number}, payload)
            return number

    def check(self) -> None:
        """Raise an error if the sandbox is gone."""
        if self.death is not None or self._death is not None:
            raise self.crash(self.ended.completed if self.ended else None)

    def crash(self, completed: Completed | None) -> GvisorError:
        """Return the error of a gone sandbox, with the output so far in ``completed``."""
        death = self.death or self._death
        reason = (death.reason if death else "") or "it has ended"
        if completed is None:
            completed = Completed(
                args=(), returncode=-9, **streams(Capture(0), Capture(0)), duration=0.0,
                platform=self._driven.request.platform, outcome=Outcome.SANDBOX_CRASHED,
            )  # fmt: skip
        return SandboxCrashed(
            f"the sandbox is gone: {reason}",
            completed=completed,
            panic=self._driven.record.panic,
        )

    def send(self, message: Mapping[str, object], payload: bytes | memoryview = b"") -> None:
        """Send a frame now, or when the guest takes it; for a dead sandbox, drop it."""
        with self.lock:
            if self.death is not None or self._death is not None:
                return
            queued = bool(self._out.size)
            self._out.add(self._encoder.head(dict(message), len(payload)), payload)
            if not queued:
                self._flush()
                if self._out.size:
                    self._want_write()

    def wait_room(self, deadline: float) -> bool:
        """Wait until little is waiting to be sent; False at the deadline."""
        with self.lock:
            while self.congested and self.death is None:
                left = deadline - time.monotonic()
                if left <= 0 or not self._writable.wait(left):
                    return False
        return True

    def chore(self, act: Callable[[], None]) -> None:
        """Have the listening thread call ``act``, with the lock held."""
        self._chores.append(act)
        self._wake()

    def kill(self, reason: str, *, replaceable: bool = False) -> None:
        """End the sandbox at once."""
        self._end(Death(reason=reason, replaceable=replaceable), 0.0)

    def close(self) -> None:
        """Let the guest end, and wait until nothing is left. A second call does nothing."""
        # A guest is quick to go: that it does is not to be seen before the reason is known.
        with self.lock:
            self.send({"op": "exit", "id": 0})
            self._end(Death(reason="it was closed"), _EXIT_PATIENCE)
        self.join()

    def join(self) -> None:
        """Wait until the ending sandbox is gone."""
        if threading.current_thread() is not self._thread and self._thread.ident is not None:
            self._thread.join()

    @property
    def replaceable(self) -> bool:
        """Whether the sandbox was ended so that another one may take its place."""
        return self._death is not None and self._death.replaceable

    def _end(self, death: Death, patience: float) -> Death:
        """End the sandbox, unless it is ending; return the reason that holds."""
        with self.lock:
            if self._death is None:
                self._death = death
                self._patience = patience
                self._wake()
            return self._death

    def _wake(self) -> None:
        with self.lock:
            if self._waker >= 0 and threading.current_thread() is not self._thread:
                os.eventfd_write(self._waker, 1)

    # What the listening thread does.

    @property
    def supervisor(self) -> DrivenSupervisor:
        """The run's supervisor, for the listening thread only."""
        return self._supervisor

    def oom_kills(self) -> int:
        """The number of the sandbox's processes that the kernel has killed for memory."""
        return self._driven.oom_kills()

    @property
    def congested(self) -> bool:
        """Whether much is waiting to be sent."""
        return self._out.size > _CONGESTED

    @property
    def ending(self) -> bool:
        """Whether the sandbox is about to end."""
        return self._death is not None

    def when_relieved(self, act: Callable[[], None]) -> None:
        """Call ``act`` once when little is waiting any more."""
        self._relieved.append(act)

    def _run(self) -> None:
        with self.lock:
            if self._abandoned:
                return
            self._listens = True
        supervisor = self._supervisor
        try:
            while self._death is None and not supervisor.over:
                # Without an end: Python runs handlers of signals in the main thread alone.
                supervisor.turn(None)
                self._do_chores()
            self._read_rest()
        except FrameError as error:
            self._end(
                Death(reason=f"the guest's messages cannot be trusted: {escape(str(error))}"), 0
            )
        except (GvisorError, OSError) as error:
            self._end(Death(reason=str(error)), 0)
        except MemoryError:
            self._end(Death(reason="no memory for its messages"), 0)
        finally:
            self._wind_up()

    def _do_chores(self) -> None:
        with self.lock:
            while self._chores:
                self._chores.popleft()()

    def _on_wake(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._waker)
        return True

    def _on_socket(self) -> bool:
        with self.lock:
            self._flush()
            # Not all at once: forwarded connections want their turn too.
            for _ in range(_READS):
                if not self._read():
                    break
        return True

    def _read(self) -> bool:
        """Read once; return whether there may be more."""
        room = self._decoder.room()
        try:
            count = os.readv(self._fd, [room])
        except BlockingIOError:
            return False
        except OSError:
            count = 0
        if not count:
            self._end(Death(reason=""), _DEATH_PATIENCE)
            return False
        self._decoder.add(count)
        for raw, payload in self._decoder.frames():
            self._take(messages.read(raw, payload))
        return count == len(room)

    def _read_rest(self) -> None:
        """Read the guest's last frames: its end may be seen before them."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        with self.lock:
            for _ in range(_LAST_READS):
                if self._death is not None or not poller.poll(0):
                    return
                self._read()

    def _take(self, message: Message) -> None:
        if message.op == "hello":
            if self.python or message.id:
                raise FrameError("hello a second time")
            self.python = message.texts["python"] or "?"
            self._greeted.notify_all()
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
            self._out.write(self._fd)
        except BlockingIOError:
            pass
        except OSError:  # it is gone, which the listening thread sees as well
            self._out.clear()
        if not self.congested:
            self._writable.notify_all()
            if self._relieved:
                self._chores += self._relieved
                self._relieved.clear()
                self._wake()
        if threading.current_thread() is self._thread:
            self._watch_socket()

    def _want_write(self) -> None:
        # Only the listening thread changes the selector: it may be in the midst of a turn.
        if threading.current_thread() is self._thread:
            self._watch_socket()
        else:
            self.chore(self._watch_socket)

    def _watch_socket(self) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out.size else 0)
        self._supervisor.change(self._fd, events, self._on_socket)

    def _wind_up(self) -> None:
        """Remove the sandbox, which ends or has ended, and notify all peers."""
        with self.lock:
            death = self._end(Death(reason=""), 0.0)
            self._supervisor.change(self._fd, 0, self._on_socket)
            for act in list(self.at_end):
                act()
        ended = self._driven.end(self._patience)
        with self.lock:
            self.ended = ended
            self.death = dataclasses.replace(death, reason=death.reason or why(ended))
            for peer in list(self._peers.values()):
                peer.on_death()
            self._peers.clear()
            self._greeted.notify_all()
            self._writable.notify_all()
            with contextlib.suppress(OSError):
                os.close(self._waker)
            self._waker = -1
