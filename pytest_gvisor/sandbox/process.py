"""One program in a warm sandbox, from its start to its end."""

from __future__ import annotations

import contextlib
import enum
import functools
import os
import re
import signal
from collections.abc import Iterable

from pytest_gvisor.base.completed import Completed, Outcome, WorkloadTimeout, signal_name
from pytest_gvisor.base.egress import Egress
from pytest_gvisor.base.errors import InsideError, NotReady, UsageError
from pytest_gvisor.base.setting_table import spellings
from pytest_gvisor.base.setting_values import seconds
from pytest_gvisor.guest.wire.frames import MAX_PAYLOAD, WINDOW, FrameError
from pytest_gvisor.programs import clock
from pytest_gvisor.run.capture import streams
from pytest_gvisor.sandbox.channel import Channel
from pytest_gvisor.sandbox.exec_command import Command
from pytest_gvisor.sandbox.messages import Message
from pytest_gvisor.sandbox.output import Match, Pattern, Reader, Stream, Watch
from pytest_gvisor.sandbox.peers import Answer, Peer
from pytest_gvisor.sandbox.tracing import Tracing

KILL_CONFIRM = 5.0
TERM_GRACE = 1.0
_SEEN = 200
_EARLY = 5.0
"""Seconds beyond a deadline for the search in output that had come before the call."""


class _State(enum.Enum):
    """The last known state of a program."""

    ASKED = "not started yet"
    RUNS = "running"
    ENDED = "ended, with output on its way"
    OVER = "over"


class Process(Peer, contextlib.AbstractContextManager["Process"]):
    """A program that runs in a warm sandbox, in the manner of `subprocess.Popen`.

    Each call that waits has a deadline: the sandbox's ``timeout`` unless one is given.
    """

    def __init__(self, channel: Channel, command: Command) -> None:
        super().__init__(channel, self.check_alive)
        self.channel = channel
        self.args = command.args
        self.refused = 0
        """The error number with which it could not be started."""

        self.own_user = 0
        """A user id that only this program and its descendants have; 0 if it has no such id."""

        self._state = _State.ASKED
        self._status: int | None = None
        self._command = command
        self._begun_at = clock.monotonic()
        self._duration: float | None = None
        self._oom_kills = channel.driven.oom_kills()
        self._egress = channel.driven.egress()
        channel.driven.check_relays()
        self._tracing = Tracing(channel, wanted=command.trace)
        self._ran_out = False
        most = command.settings.max_output
        self._streams = {s: Stream(most, functools.partial(self._give, s)) for s in (1, 2)}
        self._input_credit = WINDOW
        self._input_closed = not command.reads
        self.stdin = Writer(self)
        readers = (Reader(self, self._streams[s], most, self.patience) for s in (1, 2))
        self.stdout, self.stderr = readers

    def _give(self, stream: int, count: int) -> None:
        self.channel.send({"op": "credit", "id": self.id, "s": stream, "n": count})

    def start(self) -> None:
        """Send the program to the guest and wait for its start. Raises `InsideError`."""
        command = self._command
        strings = b"\0".join(command.strings)
        count = len(command.args)
        uid, gid, groups = command.user
        message = {
            "op": "exec", "args": count, "env": len(command.strings) - count, "cwd": command.cwd,
            "uid": uid, "gid": gid, "groups": list(groups), "reads": int(command.reads),
        }  # fmt: skip
        with self.channel.lock, self.channel.whole():
            self.channel.check()
            while len(strings) > MAX_PAYLOAD:
                self.channel.send({"op": "more", "id": 0}, strings[:MAX_PAYLOAD])
                strings = strings[MAX_PAYLOAD:]
            self.channel.add(self, message, strings)

    # Messages of the guest.

    def on_message(self, message: Message) -> None:
        """See `Peer.on_message`."""
        numbers = message.numbers
        match message.op, self._state:
            case "started", _State.ASKED:
                self._state = _State.RUNS
                self._tracing.begin(numbers["pid"])
            case "failed", _State.ASKED:
                self.refused = numbers["errno"] or 5
                self._state = _State.OVER
            case "data", _State.RUNS | _State.ENDED:
                self._streams[numbers["s"]].feed(message.payload)
            case "eof", _State.RUNS | _State.ENDED if numbers["s"]:
                self._streams[numbers["s"]].finish()
            case "eof", _State.RUNS:
                self._input_closed = True
            case "credit", _State.RUNS:
                self._input_credit += numbers["n"]
                if self._input_credit > WINDOW:
                    raise FrameError("more was read than was sent")
            case "exit", _State.RUNS:
                self._on_exit(numbers["status"])
            case _:
                raise FrameError(f"{message.op} of a program that is {self._state.value}")
        if self._state is _State.ENDED and all(s.ended for s in self._streams.values()):
            self._state = _State.OVER
        self.over = self._state is _State.OVER
        self.changed.notify_all()

    def _on_exit(self, status: int) -> None:
        _exit_code(status)
        if status:
            # On systrap, a program that the kernel has killed for memory ends with status 1, and
            # the sentry does not report the reason. Where that cannot be looked up, nobody gets the
            # status.
            self._ran_out = self.channel.driven.oom_kills() > self._oom_kills
        self._status = status
        self._state = _State.ENDED
        self._duration = clock.monotonic() - self._begun_at
        self._input_closed = True

    def on_death(self) -> None:
        """See `Peer.on_death`."""
        for stream in self._streams.values():
            stream.ended = True
        self.changed.notify_all()

    # Methods for the caller.

    @property
    def returncode(self) -> int | None:
        """The exit status, or ``-S`` for signal S; None while it runs. Exact: 137 is not -9."""
        return None if self._status is None else _exit_code(self._status)

    def poll(self) -> int | None:
        """Return `returncode`. Raises `SandboxCrashed` if the sandbox has ended first."""
        with self.lock:
            if self._status is None:
                self.check_alive()
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the program's end. Raises `NotReady` at the deadline, and leaves it running."""
        deadline = clock.monotonic() + self.patience(timeout)
        with self.lock:
            while self._status is None:
                self.wait_change(deadline, "no end within the deadline")
            return _exit_code(self._status)

    def send_signal(self, number: int) -> None:
        """Send the program a signal; do nothing if it has ended."""
        if not 0 <= number <= signal.NSIG:
            raise UsageError(f"{number} is not a signal")
        with self.lock:
            if self._status is None:
                self.check_alive()
                self.channel.send({"op": "signal", "id": self.id, "n": int(number)})

    def terminate(self) -> None:
        """Send the program SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the program and everything that it has started, and confirm that nothing is left.

        Where the guest cannot confirm that within 5 seconds, the sandbox is killed.
        """
        if not self.kill_tree():
            self.channel.kill("a killed program lived on", replaceable=True)

    def kill_tree(self) -> bool:
        """Have the guest kill the tree; return whether it confirmed in time that nothing is
        left.
        """
        deadline = clock.monotonic() + KILL_CONFIRM
        channel = self.channel
        answer = Answer(channel, "killed")
        with channel.lock:
            if channel.ending:
                return True
            channel.add(answer, {"op": "kill", "of": self.id, "uid": self.own_user})
            answer.changed.wait_for(
                lambda: answer.message or channel.gone, deadline - clock.monotonic()
            )
            if channel.gone:
                return True
            if answer.message is None or answer.message.numbers["left"]:
                return False
            # It is dead; its end and the rest of its output are on their way.
            self.changed.wait_for(
                lambda: self.over or channel.gone, max(0.0, deadline - clock.monotonic())
            )
            return self._status is not None or channel.gone

    def wait_for_output(
        self, pattern: str | bytes | Pattern, timeout: float | None = None
    ) -> Match:
        r"""Wait until a regular expression matches in standard output or error.

        Searches the kept output since the program's start, each stream separately. A match does not
        count as read. Text is UTF-8. A match is at most 64 KiB long, and is found as soon as its
        bytes have come. So ``port (\d+)`` may match half of a number, ``port (\d+)\n`` does not.

        Raises `NotReady` if the program ends without a match, or at the deadline. Output from
        before the call is searched first, for up to five seconds beyond the deadline.
        """
        deadline = clock.monotonic() + self.patience(timeout)
        sought = re.compile(pattern)
        watches: list[Watch] = []
        try:
            with self.lock:
                watches.extend(Watch(stream, sought) for stream in self._streams.values())
            while True:
                for watch in watches:
                    if (found := watch.look(self.lock)) is not None:
                        return found
                with self.lock:
                    waits = any(watch.waits for watch in watches)
                    early = any(watch.behind for watch in watches)
                    if waits and clock.monotonic() < deadline + early * _EARLY:
                        continue
                    if not waits and all(watch.stream.ended for watch in watches):
                        self.check_alive()
                        raise self.not_ready(f"ended without {sought.pattern!r} in its output")
                    text = f"no {sought.pattern!r} in its output within the deadline"
                    self.wait_change(deadline, text)
        finally:
            with self.lock:
                for watch in watches:
                    watch.close()

    def __exit__(self, *_: object) -> None:
        """Kill the program and its descendants, unless it has ended."""
        if not self.channel.gone:
            self.kill()

    # For this package.

    def patience(self, timeout: float | None) -> float:
        """Return the deadline of a call in seconds. Raises `UsageError`."""
        return patience_of(timeout, self._command.settings.timeout)

    def check_alive(self) -> None:
        """Raise an error if the program cannot end any more."""
        if self.channel.gone and not self.over:
            raise self.channel.crash(self.completed(Outcome.SANDBOX_CRASHED))

    def not_ready(self, text: str) -> NotReady:
        """Return the error of a deadline that has passed, or of an end that came too soon."""
        outputs = (("stdout", self._streams[1]), ("stderr", self._streams[2]))
        seen = [f"{name} {end!r}" for name, one in outputs if (end := one.capture.last(_SEEN))]
        return NotReady(f"{list(self.args)!r}: {text}; last seen: {', '.join(seen) or 'no output'}")

    def check_started(self, deadline: float) -> None:
        """Wait for the program's start. Raises `InsideError` if it cannot be started."""
        with self.lock:
            while self._state is _State.ASKED:
                self.wait_change(deadline, "no start within the deadline")
        self.check_refused()

    def check_refused(self) -> None:
        """Raise `InsideError` if the program could not be started."""
        if self.refused:
            raise self._command.refusal(self.refused)

    def feed(self, chunks: Iterable[bytes], deadline: float) -> None:
        """Write to its standard input as it is read, until the program ends or closes it."""
        for chunk in chunks:
            if not self.write_input(memoryview(chunk), deadline):
                return
            if not self.channel.wait_room(deadline):
                raise self.not_ready("its input has no end within the deadline")
        self.close_input()

    def write_input(self, data: memoryview, deadline: float) -> bool:
        """Write all of the data; return False if nobody reads any more.

        A program may end because of the last bytes, before this returns: they are written.
        """
        while data:
            with self.lock:
                while not self._input_credit and not self._input_closed:
                    self.wait_change(deadline, "its input is not read within the deadline")
                self.check_alive()
                if self._input_closed:
                    return False
                count = min(len(data), self._input_credit, MAX_PAYLOAD)
                self._input_credit -= count
                self.channel.send({"op": "data", "id": self.id}, bytes(data[:count]))
            data = data[count:]
            if not self.channel.wait_room(deadline) and data:
                raise self.not_ready("the sandbox takes no more input")
        return True

    def close_input(self) -> None:
        """Close its standard input."""
        with self.lock:
            if not self._input_closed:
                self._input_closed = True
                self.channel.send({"op": "eof", "id": self.id})

    def wait_over(self, deadline: float) -> bool:
        """Wait until the program has ended and all output has arrived; False at the deadline."""
        with self.lock, contextlib.suppress(NotReady):
            while not self.over:
                self.wait_change(deadline, "")
        return self.over

    def completed(self, outcome: Outcome | None = None) -> Completed:
        """Return the result, or the output so far with this outcome."""
        code = self.returncode
        if outcome is None:
            outcome = Outcome.EXITED if code is None or code >= 0 else Outcome.SIGNALLED
            outcome = Outcome.OUT_OF_MEMORY if self._ran_out else outcome
        # A shell's, for a program that it cannot start.
        none = 127 if self.refused else -signal.SIGKILL
        egress = self.channel.driven.egress(self._egress)
        lasted = clock.monotonic() - self._begun_at if self._duration is None else self._duration
        return Completed(
            args=self.args,
            returncode=none if code is None else code,
            **streams(self._streams[1].capture, self._streams[2].capture),
            duration=lasted,
            platform=self._command.platform,
            outcome=outcome,
            exact=not self._ran_out,
            hint=self._hint(egress) if code else "",
            command=self._command.runsc,
            trace=None if self.refused else self._tracing.end(),
            egress=egress,
            settings=self._command.repeat,
        )

    def _hint(self, egress: Egress | None) -> str:
        for entry, problem in (egress.refused if egress else {}).items():
            return f"{entry}: {problem}."
        return self._command.hint(self._streams[2].capture)

    def timed_out(self, timeout: float, *, confirmed: bool) -> WorkloadTimeout:
        """Return the error of an `exec` whose deadline has passed and whose tree was killed."""
        how = "it has been killed, with all that it had started"
        if not confirmed:
            how = "the guest could not kill it, so the whole sandbox has been killed"
        return WorkloadTimeout(
            f"{list(self.args)!r} was still running after {timeout:g} s on "
            f"{self._command.platform}; {how}",
            completed=self.completed(Outcome.TIMED_OUT),
            next_step=f"Give it longer with {spellings('timeout')}.",
        )

    def __repr__(self) -> str:
        """Return the arguments and the state."""
        code = self.returncode
        state = "runs" if code is None else f"exit status {code}"
        if code is not None and code < 0:
            state = signal_name(-code)
        return f"<Process {list(self.args)!r}: {state}>"


class Writer:
    """The program's standard input, ``process.stdin``."""

    def __init__(self, program: Process) -> None:
        self._program = program

    def write(self, data: str | bytes, *, timeout: float | None = None) -> None:
        """Write all of the data as it is read. Raises `InsideError` if nobody reads any more."""
        raw = memoryview(data.encode() if isinstance(data, str) else data).cast("B")
        deadline = clock.monotonic() + self._program.patience(timeout)
        if not self._program.write_input(raw, deadline):
            raise InsideError(f"{list(self._program.args)!r} reads no more input", errno=32)

    def close(self) -> None:
        """Close the input. A second call does nothing."""
        self._program.close_input()


def patience_of(timeout: float | None, default: float) -> float:
    """Return a deadline in seconds; 0 is not to wait. Raises `UsageError`."""
    if timeout is None:
        return default
    return 0.0 if timeout == 0 else seconds(timeout, "timeout")


def _exit_code(status: int) -> int:
    """Return the return code in a raw wait status. Raises `FrameError` for an invalid one."""
    try:
        return os.waitstatus_to_exitcode(status)
    except ValueError:
        raise FrameError(f"{status} as the status of an end") from None
