"""A warm sandbox: started once, for any number of programs, also at once."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from pytest_gvisor.completed import Completed, SandboxCrashed
from pytest_gvisor.errors import (
    GvisorError,
    InsideError,
    NotReady,
    PytestGvisorWarning,
    RunscFailed,
    SnapshotError,
    UsageError,
)
from pytest_gvisor.oci.reader import whole
from pytest_gvisor.run.request import Record
from pytest_gvisor.run.specification import input_of
from pytest_gvisor.run.supervisor import NAP
from pytest_gvisor.run.workload import argv
from pytest_gvisor.sandbox.channel import Channel
from pytest_gvisor.sandbox.files import Download, Upload
from pytest_gvisor.sandbox.forward import Forward
from pytest_gvisor.sandbox.peers import Answer
from pytest_gvisor.sandbox.plan import Command, encoded
from pytest_gvisor.sandbox.process import TERM_GRACE, Process, patience_of
from pytest_gvisor.sandbox.snapshot import Snapshot, take

if TYPE_CHECKING:
    import os

    from pytest_gvisor.sandbox.plan import Plan

_MARGIN = 2.0
_PAUSE = 0.02
_MAX_PATH = 4096
_REPLACED = "a sandbox was killed, and another one takes its place: what was in it is gone"


class Sandbox:
    """A sandbox that stays: ``exec``, ``popen``, ``put``, ``get``, ``forward``.

    It is started when this is made. Several threads may use it at once. If it has crashed, each
    use raises `SandboxCrashed`. If it had to be killed to end a program, its files are
    gone. The next use starts another one and warns of that.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._guard = threading.Lock()
        self._channel: Channel | None = None
        self._closed = False
        try:
            self._live()
        except BaseException:
            self.close()  # Ctrl-C when it had been started: nobody knows it
            raise

    def _live(self) -> Channel:
        """Return the channel. Raises an error if the sandbox is gone."""
        with self._guard:
            if self._closed:
                raise UsageError("this sandbox is closed")
            channel = self._channel
            if channel is not None and channel.death.replaceable:
                self._channel = None
                self._settle(channel)
                channel = None
                warnings.warn(PytestGvisorWarning(_REPLACED), stacklevel=5)
            if channel is None:
                channel = self._start()
            channel.check()
            return channel

    def _start(self) -> Channel:
        record = Record()
        driven = self._plan.driven(record)
        snapshot = self._plan.snapshot
        woken = () if snapshot is None else (snapshot.wake, snapshot.last_id)
        channel = Channel(driven, *woken)
        self._record = record
        try:
            channel.start(self._plan.start_deadline)
            self._channel = channel
        except BaseException as error:
            channel.kill("its start was given up")
            channel.join()
            self._plan.finished(record)
            if snapshot is not None and isinstance(error, RunscFailed | SandboxCrashed):
                raise SnapshotError(
                    f"the snapshot cannot be restored: {error.message}",
                    records=record.runsc_records,
                    next_step=error.next_step,
                ) from error
            raise
        return channel

    def _settle(self, channel: Channel) -> None:
        channel.close()
        self._plan.finished(self._record)

    @property
    def alive(self) -> bool:
        """Whether the sandbox is there, as far as is known without asking it."""
        channel = self._channel
        return not self._closed and channel is not None and not channel.ending

    def exec(
        self,
        args: Sequence[str | os.PathLike[str]],
        *,
        input: str | bytes | Iterable[bytes] | None = None,  # noqa: A002 -- subprocess.run's name
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: int | str | tuple[int, int] | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> Completed:
        """Run ``args`` in the sandbox and wait for its end, in the manner of `Gvisor.run`.

        The sandbox has the defaults of all arguments. The call returns when the first process ends.
        Background processes keep running, and their output is discarded from then on. At the
        deadline the program and all that it started get SIGTERM, and SIGKILL a second later. The
        sandbox stays usable.

        Raises `InsideError` where it cannot be started, `WorkloadTimeout`, `SandboxCrashed`, and
        with ``check`` `WorkloadFailed` for a status other than 0.
        """
        wait = patience_of(timeout, self._plan.settings.timeout)
        chunks = _chunks(input)
        shown = input if isinstance(input, str | bytes) else None
        repeat = {"input": shown, "env": env, "cwd": cwd, "user": user, "timeout": timeout}
        reads = chunks is not None
        command = self._command(args, env=env, cwd=cwd, user=user, reads=reads, repeat=repeat)
        completed = self._run(command, chunks, wait)
        if check:
            completed.check_returncode()
        return completed

    def _run(self, command: Command, chunks: Iterable[bytes] | None, wait: float) -> Completed:
        deadline = time.monotonic() + wait
        process = self._begin(command)
        try:
            over = self._follow(process, chunks, deadline)
            if not over:
                self._expire(process, wait)
            completed = process.completed()
        except GvisorError as error:
            self._plan.note(command, self._record, process.completed(), error)
            raise
        except BaseException:  # Ctrl-C, or the iterable's own
            process.kill()
            raise
        self._plan.note(command, self._record, completed, None)
        return completed

    def _command(self, args: Sequence[str | os.PathLike[str]], **options: Any) -> Command:
        return self._plan.command(argv(args), record=self._record, **options)

    def _begin(self, command: Command) -> Process:
        process = Process(self._live(), command)
        process.start()
        return process

    def _follow(self, process: Process, chunks: Iterable[bytes] | None, deadline: float) -> bool:
        """Feed the program and wait for its end; False at the deadline."""
        try:
            if chunks is not None:
                process.check_started(deadline)
                process.feed(chunks, deadline)
        except NotReady:
            return False
        except InsideError:
            raise
        except GvisorError:
            if not process.over:
                process.kill()
            raise
        over = process.wait_over(deadline)
        process.check_refused()
        return over

    def _expire(self, process: Process, timeout: float) -> None:
        """End a program whose deadline has passed, and raise."""
        process.terminate()
        process.wait_over(time.monotonic() + TERM_GRACE)
        confirmed = process.kill_tree()
        if not confirmed:
            process.channel.kill("a program lived on after its deadline", replaceable=True)
            process.channel.join()
        raise process.timed_out(timeout, confirmed=confirmed)

    def popen(
        self,
        args: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: int | str | tuple[int, int] | None = None,
    ) -> Process:
        """Start ``args`` in the sandbox and return while it runs. Raises `InsideError`."""
        command = self._command(args, env=env, cwd=cwd, user=user, reads=True, repeat={})
        process = self._begin(command)
        try:
            process.check_started(time.monotonic() + self._plan.settings.timeout)
        except NotReady:
            process.kill()
            raise
        return process

    def put(self, path: str, data: str | bytes, mode: int = 0o644) -> None:
        """Write a file in the sandbox as root, with missing folders. Raises `InsideError`."""
        if not whole(mode) or not 0 <= mode <= 0o7777:
            raise UsageError(f"{mode!r} cannot be the mode of a file")
        raw = data.encode() if isinstance(data, str) else bytes(data)
        target = _absolute(path)
        upload = Upload(self._live(), target, mode)
        upload.run(raw, time.monotonic() + self._plan.settings.timeout)

    def get(self, path: str, *, limit: int = 1024**3) -> bytes:
        """Read a file in the sandbox. Raises `InsideError`, also for more than ``limit`` bytes."""
        source = _absolute(path)
        download = Download(self._live(), source, limit)
        return download.run(time.monotonic() + self._plan.settings.timeout)

    def ping(self, timeout: float | None = None) -> float:
        """Ask whether the sandbox answers; return the seconds. Raises `NotReady`."""
        begun = time.monotonic()
        wait = patience_of(timeout, self._plan.settings.timeout)
        self._ask(self._live(), {"op": "ping"}, begun + wait, "the sandbox does not answer")
        return time.monotonic() - begun

    def snapshot(self, *, timeout: float | None = None) -> Snapshot:
        """Save the sandbox, with its files and processes; it runs on.

        ``gvisor.sandbox(snapshot=…)`` starts copies of it. Raises `SnapshotError` where the
        platform or ``timeout`` (in seconds) forbids that.
        """
        wait = patience_of(timeout, self._plan.settings.timeout)
        return take(self._plan.workload, self._live(), wait)

    def forward(self, port: int) -> Forward:
        """Forward an address on the host's loopback to a TCP port of the sandbox's loopback.

        Any program on this machine can connect to it while it is open. Each connection is made to
        127.0.0.1 inside, or else to ::1; one that is refused is reset. So is each one above 512 at
        once: `Forward.refused` counts those, and a warning tells of them at the end.
        """
        target = _port(port)
        return Forward(self._live(), target)

    def wait_for_port(self, port: int, timeout: float | None = None) -> None:
        """Wait until something in the sandbox listens on 127.0.0.1 or ::1. Raises `NotReady`."""
        wait = patience_of(timeout, self._plan.settings.timeout)
        deadline = time.monotonic() + wait
        text = f"nothing listens on port {port} in the sandbox after {wait:g} s"
        question = {"op": "probe", "port": _port(port)}
        channel = self._live()
        while not self._ask(channel, question, deadline + _MARGIN, text):
            if time.monotonic() > deadline:
                raise NotReady(text)
            time.sleep(_PAUSE)

    @staticmethod
    def _ask(
        channel: Channel, question: Mapping[str, object], deadline: float, otherwise: str
    ) -> int:
        answer = Answer(channel.lock, "answer")
        with answer.changed:
            channel.add(answer, question)
            while answer.message is None:
                channel.check()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise NotReady(otherwise)
                answer.changed.wait(min(left, NAP))
            return answer.message.numbers["n"]

    def close(self) -> None:
        """End the sandbox and all that runs in it. A second call does nothing."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            if self._channel is not None:
                self._settle(self._channel)

    def __enter__(self) -> Self:
        """Use the object as a context manager, which closes it at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the sandbox."""
        self.close()


def _chunks(given: object) -> Iterable[bytes] | None:
    found = input_of(given)
    return [found] if isinstance(found, bytes) else found


def _absolute(path: object) -> str:
    if not isinstance(path, str) or not path.startswith("/"):
        raise UsageError(f"{path!r} is not an absolute path in the sandbox")
    if len(path) > _MAX_PATH:
        raise UsageError(f"a path of {len(path)} characters")
    encoded(path)
    return path


def _port(port: int) -> int:
    if not whole(port) or not 0 < port < 65536:
        raise UsageError(f"{port!r} is not a TCP port")
    return port
