"""The connection to one pytest inside: starts it, sends commands, receives messages.

The other end runs the tests' code, so it is untrusted. Lengths and values are bounded, and anything
but a JSON object with a type is an error.
"""

from __future__ import annotations

import os
import select
import selectors
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from pytest_gvisor.base.errors import GvisorError, ProtocolError, SnapshotError, on_error, stage
from pytest_gvisor.base.escape import escape, safe
from pytest_gvisor.guest.tests import unsent
from pytest_gvisor.guest.tests.returns import MARK
from pytest_gvisor.guest.wire.checked_json import has_more_values, loads
from pytest_gvisor.guest.wire.frames import UNBOUNDED, Decoder, Encoder, FrameError
from pytest_gvisor.inside.wire.acts import TestTrace
from pytest_gvisor.plugin.placement import UNSUPPORTED
from pytest_gvisor.programs.linux import ready
from pytest_gvisor.run.budget import LATE, Budget
from pytest_gvisor.run.connected import Driven, Ended
from pytest_gvisor.run.logs import debugged

if TYPE_CHECKING:
    import pytest

    from pytest_gvisor.base.egress import Egress
    from pytest_gvisor.trace.recorder import Recorder

MAX_MESSAGE = 64 * 1024 * 1024
MAX_VALUES = 1_000_000
"""Bytes and values of one message."""

_GONE = "it is gone"
_SEND_DEADLINE = 10.0
_TAIL = 8000
_STACKS_TIME = 1.0
_GREETING = 0.5
"""Seconds for runsc to come as far as to need the host, which takes it some 30 ms."""

_MOST_WAITING = 4 * 1024 * 1024
"""Bytes of messages that may come while an event is awaited: their values take 20 times as much."""

_LOOK = 0.02
"""Seconds between looks at what a pytest holds back: while it runs tests it sends more often."""


class Died(Exception):
    """Raised when the pytest inside is gone."""


class Hangs(Exception):
    """Raised when the time of a phase is over."""


LOST = (Died, Hangs, GvisorError, MemoryError)
"""The errors after which a sandbox is of no use: a message may take more memory than there is."""


class Link:
    """One sandbox with a pytest in it. `close` removes everything."""

    def __init__(self, driven: Driven, *, copy: bool = False, forbid: Sequence[str] = ()) -> None:
        """Start the pytest, whose tests ``forbid`` acts; a copy goes on at its gate."""
        self._driven = driven
        self.record = driven.record
        self.copy = copy
        """Whether it is a copy of a sandbox that was saved at its gate."""

        self.show: Callable[[bytes], None] | None = None
        """Gets the standard error of the pytest as it comes."""

        self._shown = 0
        # A copy's end of the protocol goes on after "start" and "save", and what answered that.
        self._encoder = Encoder(max_json=UNBOUNDED, number=2 if copy else 0)
        with stage("output", "no memory for messages from inside"):
            self._decoder = decoder(number=1 if copy else 0)
        self.budget = Budget(_SEND_DEADLINE)
        """The budget of the phase that goes on, which all that is read from inside draws on."""

        self._messages: deque[tuple[int, dict[str, Any]]] = deque()
        self._of_first: deque[tuple[int, dict[str, Any]]] = deque()
        self.attended = False
        """Whether the pytest has ended, and the sandbox's first process sends what it left."""

        self._given_up = False
        self.holds = False
        """Whether the pytest holds messages back in memory that is read here too."""

        self._over: Died | ProtocolError | MemoryError | None = None
        """Why nothing is read any more."""

        self._ended: Ended | None = None
        self._heard = not copy
        self.supervisor = driven.start()
        self._socket = self.supervisor.pipes.socket
        self._before: Egress | None = None
        with on_error(self.close):
            recorder = cast("Recorder | None", self.supervisor.listener.recorder)
            self.traced = None if recorder is None else TestTrace(self.supervisor, recorder, forbid)
            self.supervisor.change(self._socket, selectors.EVENT_READ, self._read)

    def greet(self) -> None:
        """Take part in the start, as far as it needs the host; for a moment at most.

        runsc waits for an answer before it boots the sandbox (`sentry.Listener`). A problem is not
        reported here: whoever waits for a message comes upon it again.
        """
        with suppress(GvisorError, MemoryError):
            self._turn_until(lambda: self.supervisor.listener.greeted, Budget(_GREETING))

    def send(self, op: str, **fields: object) -> None:
        """Send a command. Raises `Died` if the pytest is gone or does not read."""
        if self.traced is not None:
            self.traced.begin(op)
        if op == "run":
            self._before = self._driven.egress()
            self._driven.check_relays()
        data = memoryview(self._encoder.head({"op": op, **fields}))
        sending = Budget(_SEND_DEADLINE)
        while data:
            left = min(sending.left, self.budget.left + LATE)
            if self._over is not None or left <= 0:
                raise Died("it takes no more commands")
            try:
                data = data[os.write(self._socket, data) :]
            except BlockingIOError:
                self.greet()  # until then nobody reads
                self.supervisor.read_rest()  # else who is to read this may wait to write
                ready(self._socket, seconds=0.1, event=select.POLLOUT)
            except OSError as error:
                raise Died(f"it takes no more commands: {error.strerror}") from None

    def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises `Hangs`, `Died`, or `ProtocolError` for what is no message, or too much.
        """
        while True:
            self.wait()
            message = self._take(self._messages)
            if message["type"] != "trace":
                return message
            marked = message.get("marked") is True
            answer = self.traced.answer(marked=marked) if self.traced else {"trace": None}
            self.send("answer", **answer)

    def judge(self, report: pytest.TestReport, *, failed: bool) -> bool:
        """Fail the last report of a test that did what is forbidden, or may have; return whether.

        A test that has ``failed`` keeps its own failure. Calls that gVisor lacks are noted, too.
        """
        traced = self.traced
        if traced is None:
            return False
        if traced.forbid and not failed:
            with suppress(Died):  # one that has died leaves the mark, which is a gap of the trace
                self.send("mark", mark=traced.mark())
                self._turn_until(lambda: traced.marked() or self._is_flooded(), Budget(LATE))
        unsupported, problem = traced.verdict()
        if unsupported:
            vars(report)[UNSUPPORTED] = [*unsupported]
        if problem and failed:
            # pytest shows it with a failure of the call, for the word "teardown".
            report.sections.append(("gvisor: forbidden acts, found at teardown", problem))
        elif problem:
            report.outcome, report.longrepr = "failed", problem
            vars(report).pop("wasxfail", None)  # pytest counts no failure that has it
        return bool(problem)

    def _is_flooded(self) -> bool:
        """Whether the messages that wait would take much memory."""
        return sum(size for size, _message in self._messages) > _MOST_WAITING

    def _take(self, messages: deque[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
        """Take the first of these messages, unless the time has long been over."""
        if self.budget.left <= -LATE:
            raise Hangs
        size, message = messages.popleft()
        self.budget.spend(size)
        return message

    def wait(self) -> None:
        """Wait for a message, and leave it there. Raises like `receive`."""
        while not self._messages:
            if self.attended or self._given_up:
                raise Died(_GONE)
            self._await_message()

    def rest(self) -> list[str] | None:
        """Let the pytest wait at its gate to be saved; return the folders that it keeps in use.

        None if it does not get there: the next message says why. Raises like `receive`, and
        `SnapshotError` where copies would repeat random numbers.
        """
        self.send("save")
        self.wait()
        if self._messages[0][1]["type"] != "rests":
            return None
        _size, message = self._messages.popleft()
        held = message.get("held")
        if not isinstance(held, list) or not all(isinstance(path, str) for path in held):
            raise ProtocolError("a pytest inside that rests, and names no folders")
        if repeats := str(message.get("repeats", "")):
            text = f"copies would repeat the random numbers of {escape(repeats[:_TAIL])}"
            raise SnapshotError(text)
        return held

    def save(self) -> str:
        """Save the sandbox that rests; return the folder of the image, removed with the sandbox.

        The sandbox goes on. Raises `SnapshotError`: then the sandbox is of no use any more.
        """
        return self._driven.save(self.budget)

    def await_end(self) -> None:
        """Wait for the end of the pytest, after which the first process speaks.

        Its last messages are dropped. Raises like `receive`.
        """
        self._give_up()
        while not self.attended:
            self._await_message()

    def _give_up(self) -> None:
        """Drop the messages of the pytest from here on."""
        self._messages.clear()
        self._given_up = True

    def receive_of_first(self) -> dict[str, Any]:
        """Return the next message of the first process. Raises like `receive`."""
        while not self._of_first:
            self._await_message()
        return self._take(self._of_first)

    def _await_message(self) -> None:
        if self._over is not None:
            raise self._over
        if self.supervisor.over:
            self._read()  # what it has sent before its end counts
            return
        left = self.budget.left
        if left <= -LATE:
            raise Hangs
        before = len(self._messages) + len(self._of_first)
        self._turn(max(0.0, min(left, _LOOK) if self.holds else left))
        if self.holds and not self._messages and (error := self._look()):
            self._stop_reading(error)
        # What has come by the end of the time is taken.
        if left <= 0 and len(self._messages) + len(self._of_first) == before:
            raise Hangs

    def _turn_until(self, done: Callable[[], bool], budget: Budget) -> None:
        """Take what comes, until ``done``, the sandbox's end, or the end of the time."""
        while not (done() or self.supervisor.over) and (left := budget.left) > 0:
            self._turn(left)

    def _turn(self, timeout: float) -> None:
        self.supervisor.turn(timeout)
        self._relay()

    def _relay(self) -> None:
        """Pass on the new output on standard error, as far as it is still held."""
        if self.show is None:
            return
        stderr = self.supervisor.pipes.stderr
        if fresh := stderr.total - self._shown:
            self._shown = stderr.total
            self.show(self.budget.shown(stderr.last(fresh)))

    def catch_up(self) -> None:
        """Take the output that is on standard error by now."""
        if self._ended is None:
            self.supervisor.read_rest()
            self._relay()

    def show_from_here(self, show: Callable[[bytes], None]) -> None:
        """Have the output shown that is not yet taken, and none before it."""
        self._shown = self.supervisor.pipes.stderr.total
        self.show = show

    def _read(self) -> bool:
        """Read once; return whether more may come."""
        more = True
        try:
            count = self._decoder.read(self._socket)
            more = count > 0
            rest = None if self.attended else self._decoder.cut(MARK, count)
            self._queue_messages()
            if rest is not None:
                self._look()
                self._attend(memoryview(rest))
        except BlockingIOError:
            more = not self.supervisor.over
        except FrameError as error:
            self._stop_reading(ProtocolError(f"what comes from inside is no message: {error}"))
        except MemoryError:
            self._stop_reading(MemoryError("no memory for a message from inside"))
        if not more and self._over is None:
            self._over = self._look() or Died(_GONE)
        return more

    def _look(self) -> ProtocolError | None:
        """Take the messages that the pytest holds back; return the error if they are none.

        When it has ended, they are the last ones.
        """
        memory = self.supervisor.pipes.memory  # it may say that it holds some without it
        over = self.attended or self._given_up or self._over is not None
        if over or not self.holds or memory < 0:
            return None
        length, cleared = unsent.HEAD.unpack(os.pread(memory, unsent.HEAD.size, 0))
        data = os.pread(memory, min(length, unsent.SIZE), unsent.HEAD.size)
        # It may have sent them meanwhile, and stored others in their place.
        if unsent.HEAD.unpack(os.pread(memory, unsent.HEAD.size, 0))[1] != cleared:
            return None
        try:
            self._messages.extend(self._decoder.ahead(data))
        except FrameError as error:
            return ProtocolError(f"what is held back inside is no message: {error}")
        return None

    def _queue_messages(self) -> None:
        for message, _payload in self._decoder.frames():
            if not self._heard:
                self._heard = True
                self.supervisor.heard()
            if self.attended:
                self._of_first.append((self._decoder.size, message))
            elif not self._given_up:
                self._messages.append((self._decoder.size, message))

    def _attend(self, rest: memoryview) -> None:
        """Take what comes from here on as frames of the first process."""
        self.attended = True
        self._decoder = decoder()
        while rest:
            room = self._decoder.room()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            self._decoder.add(count)
            rest = rest[count:]
            self._queue_messages()

    def _stop_reading(self, why: Died | ProtocolError | MemoryError) -> None:
        """Read nothing any more, so that the sender blocks."""
        if self._over is None:
            self.supervisor.change(self._socket, 0, self._read)
            self._over = why

    def terminate(self) -> None:
        """Send SIGTERM, and wait a moment: the pytest inside prints its threads' stacks."""
        self._give_up()
        self.supervisor.ask("term")
        self._turn_until(lambda: self.attended, Budget(_STACKS_TIME))

    def leave(self, patience: float = 0.0) -> Ended:
        """Wait ``patience`` seconds for the end, and kill the rest; return the end.

        Everything is being removed then: `close` waits for that.
        """
        if self._ended is None:
            self._stop_reading(Died(_GONE))
            self._ended = self._driven.leave(patience)
            self._relay()
        return self._ended

    def close(self, patience: float = 0.0) -> Ended:
        """End it like `leave`, and wait until everything is removed."""
        ended = self.leave(patience)
        self._driven.settle()
        return ended

    def did(self, title: str) -> dict[str, str]:
        """Return what the test did by now, as texts by their titles."""
        egress = self._driven.egress(self._before)
        acts = self.traced.latest().first_lines() if self.traced else ""
        texts = {title: acts, "allow": egress.told() if egress else ""}
        return {name: text for name, text in texts.items() if text}

    def told(self, why: str) -> str:
        """Describe a sandbox that has ended: causes and command, then logs and standard error.

        ``why`` is the reason for which nothing more is read from it.
        """
        record = self.record
        causes = [] if why == _GONE else [why]
        if record.error is not None:
            causes.append(escape(str(record.error)))
        if record.completed is not None:
            code = record.completed.returncode
            both = f"signal {-code}, status {128 - code}" if code < 0 else f"exit status {code}"
            causes.append(f"it ended with: {record.completed.outcome} ({both})")
            causes += filter(None, [record.completed.reason])
        lines = ["\n".join(causes) or _GONE, f"command: {escape(record.command)}"]
        lines += [f"runsc: {text}" for text in record.runsc_records if text not in lines[0]]
        lines += [f"{title}:\n{text}" for title, text in self.did("what the test did").items()]
        if record.panic:
            lines.append(f"panic log:\n{record.panic}")
        if record.debug_logs:
            boot, strace = debugged(record.debug_logs.get("boot", ""))
            lines += [*boot, *strace]
        text = self.supervisor.pipes.stderr.last(_TAIL).decode("utf-8", "backslashreplace")
        lines.append(f"standard error of the pytest inside:\n{escape(text) or '(nothing)'}")
        return "\n".join(lines)


def gone(error: BaseException) -> str:
    """Describe why a link is unusable, in escaped text: an error may name what came from inside."""
    short = "there is no memory for what came from it" if isinstance(error, MemoryError) else ""
    return safe(str(error)) or short or "it did not answer"


def decoder(limit: int = MAX_MESSAGE, *, number: int = 0) -> Decoder:
    """Return a decoder of messages, which are frames of `guest.wire.frames` without a payload."""
    return Decoder(max_json=limit, max_payload=0, read=_decode, number=number)


def _decode(text: bytes) -> dict[str, Any]:
    if has_more_values(text, MAX_VALUES):
        raise FrameError(f"a message of more than {MAX_VALUES} values from inside")
    try:
        message = loads(text)
    except ValueError as error:
        raise FrameError(f"a message from inside that is no JSON: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise FrameError(f"a message from inside without a type: {text[:200]!r}")
    return message
