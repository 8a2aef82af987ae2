"""A warm sandbox: started once, for any number of programs, also at once."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pytest_gvisor.base.completed import Completed, SandboxCrashed
from pytest_gvisor.base.egress import SandboxPort
from pytest_gvisor.base.errors import (
    NotReady,
    PytestGvisorWarning,
    RunscFailed,
    SnapshotError,
    UsageError,
    on_error,
)
from pytest_gvisor.base.settings import replaced
from pytest_gvisor.oci.defaults import parse_user
from pytest_gvisor.oci.reader import whole
from pytest_gvisor.oci.spec import User, UserSpec
from pytest_gvisor.programs import clock
from pytest_gvisor.run import threads
from pytest_gvisor.run.connected import Driven
from pytest_gvisor.run.request import Hooks, Record, Request, forget, workspace_of
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.run.specification import input_of, make_spec
from pytest_gvisor.run.workload import Args, Workload, argv
from pytest_gvisor.sandbox import interpreter, waits
from pytest_gvisor.sandbox.channel import Channel
from pytest_gvisor.sandbox.exec_command import check_path, command
from pytest_gvisor.sandbox.execution import Execution
from pytest_gvisor.sandbox.files import ROOT, Download, Upload
from pytest_gvisor.sandbox.forward import Forward
from pytest_gvisor.sandbox.load import Loaded, Source, load
from pytest_gvisor.sandbox.network import opened
from pytest_gvisor.sandbox.peers import Answer, Cancelled
from pytest_gvisor.sandbox.process import Process, patience_of
from pytest_gvisor.sandbox.snapshot import Snapshot, take
from pytest_gvisor.sessions.launcher import Launcher

_START_DEADLINE = 30.0
_REPLACED = "a sandbox was killed, and another one takes its place: what was in it is gone"


class Sandbox(contextlib.AbstractContextManager["Sandbox"]):
    """A sandbox that stays: ``exec``, ``popen``, ``put``, ``get``, ``forward``.

    It is started when this is made. Several threads may use it at once. If it has crashed, each
    use raises `SandboxCrashed`. If it had to be killed to end a program, its files are
    gone. The next use starts another one and warns of that.
    """

    def __init__(
        self, request: Request, workload: Workload, *, launcher: Launcher, hooks: Hooks,
        records: list[Record], running: threads.Running, opened: list[Sandbox],
        snapshot: Snapshot | None = None,
    ) -> None:  # fmt: skip
        """Start it. ``request`` is its own run, whose first process is the guest.

        ``workload`` has its root file system, and the defaults of its programs: env, cwd, user.
        ``records`` is where runs are noted, for the test's report, and ``running`` their threads.
        It is in ``opened`` until it is closed.
        """
        self._request = request
        self._workload = workload
        self._start_of_guest = interpreter.start(workload.rootfs, workload.mounts)
        self._launcher = launcher
        self._hooks = hooks
        self._records = records
        self._snapshot = snapshot
        self._guard = threading.Lock()
        self._running = running
        self._channel: Channel | None = None
        self._closed, self._opened = False, opened
        opened.append(self)
        # A Ctrl-C may come when the sandbox has started, and the caller does not have it yet.
        with on_error(self.close):
            self._live()

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
        record = self._record = Record()
        snapshot = self._snapshot
        woken = () if snapshot is None else (snapshot.wake, snapshot.last_id)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._finished, record)
            undo = on_failure.enter_context(contextlib.ExitStack())
            channel = Channel(Driven(self._runner(record, undo), undo), *woken)
            on_failure.callback(channel.join)
            on_failure.callback(channel.kill, "its start was given up")
            try:
                channel.start(max(self._request.settings.timeout, _START_DEADLINE))
            except (RunscFailed, SandboxCrashed) as error:
                if snapshot is None:
                    raise
                raise SnapshotError(
                    f"the snapshot cannot be restored: {error.message}",
                    records=record.runsc_records,
                    next_step=error.next_step,
                ) from error
            self._channel = channel
            on_failure.pop_all()
        return channel

    def _runner(self, record: Record, undo: contextlib.ExitStack) -> Runner:
        """Return a run of the guest; ``undo`` removes its folder."""
        request, launcher = self._request, self._launcher
        workspace = undo.enter_context(workspace_of(request, launcher, record))
        allow, start = request.settings.allow, self._start_of_guest
        guest = interpreter.guest(self._workload, start, workspace.folder, allow)
        asked = dataclasses.replace(request, workload=guest)
        spec = make_spec(asked, workspace, self._hooks)
        ours = {*guest.mounts} - {*self._workload.mounts}
        interpreter.check_root(spec.root.path, spec.mounts, start, ours)
        return Runner(asked, spec, workspace, launcher, record, keep=self._hooks.keep)

    def _settle(self, channel: Channel) -> None:
        channel.close()
        self._finished(self._record)

    def _finished(self, record: Record) -> None:
        """Record the end of the sandbox itself, and call the hook."""
        self._records.append(record)
        forget(self._records)
        self._hooks.run_finished(record)

    def _wait(self, timeout: float | None) -> float:
        return patience_of(timeout, self._request.settings.timeout)

    @property
    def alive(self) -> bool:
        """Whether the sandbox runs, as far as is known without a question to it."""
        channel = self._channel
        return not self._closed and channel is not None and not channel.ending

    def exec(
        self,
        args: Args,
        *,
        input: str | bytes | Iterable[bytes] | None = None,  # noqa: A002 -- subprocess.run's name
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: UserSpec | None = None,
        timeout: float | None = None,
        check: bool = False,
        trace: bool | None = None,
    ) -> Completed:
        """Run ``args`` in the sandbox and wait for its end, in the manner of `Gvisor.run`.

        The sandbox has the defaults of all arguments. The call returns when the first process ends.
        Background processes keep running, and their output is discarded from then on. At the
        deadline the program and all that it started get SIGTERM, and SIGKILL a second later. The
        sandbox stays usable.

        In a sandbox that was started with ``trace=True`` the result has the trace of this program
        and of the processes that came of it, unless ``trace`` is False.

        Raises `InsideError` where it cannot be started, `WorkloadTimeout`, `SandboxCrashed`, with
        ``check`` `WorkloadFailed` for a status other than 0, and `UsageError` for a trace in a
        sandbox that was started without. With ``forbid`` it raises as `Gvisor.run` does.
        """
        wait = self._wait(timeout)
        deadline = clock.monotonic() + wait
        found = input_of(input)
        chunks = [found] if isinstance(found, bytes) else found
        shown = input if isinstance(input, str | bytes) else None
        options: dict[str, Any] = {"env": env, "cwd": cwd, "user": user, "trace": trace}
        repeat = {"input": shown, **options, "timeout": timeout}
        with self._running.here(self._request.settings.forbid):
            process = self._begin(args, reads=chunks is not None, repeat=repeat, **options)
            execution = Execution(
                process=process, request=self._request, ours=self._record, records=self._records
            )
            completed = execution.run(chunks, wait, deadline)
        if check:
            completed.check_returncode()
        return completed

    def _begin(self, args: Args, **options: Any) -> Process:
        self._hooks.begins(self)
        channel = self._live()
        asked = command(
            argv(args), self._workload, self._request, channel.driven,
            runsc=self._record.command, spec=self._record.spec, **options,
        )  # fmt: skip
        process = Process(channel, asked)
        process.start()
        return process

    def popen(
        self, args: Args, *, env: Mapping[str, str] | None = None, cwd: str | None = None,
        user: UserSpec | None = None,
    ) -> Process:  # fmt: skip
        """Start a program in the sandbox, and return its `Process` as soon as it runs.

        ``args`` is its argv, each a str or a path. ``env`` is a dict of texts that comes on top of
        the sandbox's, ``cwd`` an absolute path inside. ``user`` is a uid, ``(uid, gid)`` or
        ``"uid:gid"``. Each is the sandbox's unless given. Standard input is a pipe.

        The program has no deadline: it runs until it ends, `Process.kill`, the end of the
        `Process`'s ``with``, or that of the sandbox. Only its start has one, the sandbox's
        ``timeout`` in seconds (60 by default).

        Raises `InsideError` if it cannot be started, `NotReady` if it has not started by then,
        `UsageError` for arguments of a wrong form, and `SandboxCrashed`.
        """
        if forbid := self._request.settings.forbid:
            raise UsageError(f"forbid={forbid!r}: popen has no trace", next_step="Use exec(…).")
        process = self._begin(args, env=env, cwd=cwd, user=user, reads=True, trace=False, repeat={})
        try:
            process.check_started(clock.monotonic() + self._wait(None))
        except (NotReady, Cancelled):
            process.kill()
            raise
        return process

    def load(
        self, module: Source, *, cwd: str | None = None, timeout: float | None = None
    ) -> Loaded:
        """Import untrusted code in a new process of the sandbox, and return a handle of the module.

        ``module`` is a file of the host, such as ``"solution.py"``, of which the process gets the
        text alone; or the dotted name of a module that the sandbox has. ``cwd`` is an absolute path
        inside, and the first folder of imports: a folder that only root writes. ``timeout`` is the
        deadline of the import and of each call, in seconds; the sandbox's by default.

        Calls go in, and data comes back as the host's own values: None, bool, int, float, str,
        bytes, list, tuple, dict, set, frozenset, dates and times, and a numpy array of numbers. A
        dataclass is a dict, and a value of a subclass is its base's. All else is a `Remote`. The
        process runs the sandbox's ``python3`` as a user of its own. It ends with the ``with`` of
        the result, or with the sandbox.

        Raises `RemoteError` for an exception of the module, `NoAnswer`, and `UsageError`.
        """
        guest = self._start_of_guest.mounts[0].destination
        return load(self.popen, guest, module, cwd, self._wait(timeout))

    def put(
        self, path: str, data: str | bytes, mode: int | None = 0o644, *,
        user: UserSpec | None = None,
    ) -> None:  # fmt: skip
        """Write a file in the sandbox, with missing folders. Raises `InsideError`.

        With a ``mode`` of None, a file that is there keeps its own. ``user`` is whose rights count,
        and who owns what is made; it is root by default.
        """
        if mode is not None and (not whole(mode) or not 0 <= mode <= 0o7777):
            raise UsageError(f"{mode!r} cannot be the mode of a file")
        raw = data.encode() if isinstance(data, str) else bytes(data)
        check_path(path, "path")
        asked = (path, -1 if mode is None else mode, self._who(user))
        Upload(self._live(), *asked).run(raw, clock.monotonic() + self._wait(None))

    def get(self, path: str, *, limit: int = 1024**3, user: UserSpec | None = None) -> bytes:
        """Read a file in the sandbox. Raises `InsideError`, also for more than ``limit`` bytes.

        ``user`` is whose rights count; it is root by default.
        """
        check_path(path, "path")
        if not whole(limit):
            raise UsageError(f"limit={limit!r} is no number of bytes")
        download = Download(self._live(), path, limit, self._who(user))
        return download.run(clock.monotonic() + self._wait(None))

    def _who(self, user: UserSpec | None) -> User:
        return ROOT if user is None else parse_user(self._workload.rootfs.find_user(user)[0])

    @property
    def user(self) -> tuple[int, int]:
        """The uid and gid of programs that start without ``user``."""
        who = parse_user(self._workload.user)
        return who.uid, who.gid

    def ping(self, timeout: float | None = None) -> float:
        """Ask whether the sandbox answers; return the seconds. Raises `NotReady`."""
        begun = clock.monotonic()
        deadline = begun + self._wait(timeout)
        channel = self._live()
        channel.add(answer := Answer(channel), {"op": "ping"})
        answer.wait(deadline, "the sandbox does not answer")
        return clock.monotonic() - begun

    def snapshot(self, *, timeout: float | None = None) -> Snapshot:
        """Save the sandbox, with its files and processes; it runs on.

        ``gvisor.sandbox(snapshot=…)`` starts copies of it. Raises `SnapshotError` where the
        platform or ``timeout`` (in seconds) forbids that.
        """
        if allow := self._request.settings.allow:
            raise SnapshotError(f"allow={allow!r}: a sandbox with an allow-list cannot be saved")
        channel, wait = self._live(), self._wait(timeout)
        if channel.driven.open:
            raise SnapshotError("a sandbox cannot be saved in a block of network(allow=[…])")
        return take(self._workload, channel, wait)

    def forward(self, port: int) -> Forward:
        """Forward an address on the host's loopback to a TCP port of the sandbox's loopback.

        Any program on this machine can connect to it while it is open. Each connection is made to
        127.0.0.1 inside, or else to ::1; one that is refused is reset. So is each one above 512 at
        once: `Forward.refused` counts those, and a warning tells of them at the end.
        """
        target = _port(port)
        return Forward(self._live(), target)

    def port(self, port: int) -> SandboxPort:
        """Return a TCP port of this sandbox's loopback, which others reach if their list has it.

        ``gvisor.sandbox(allow={"db:5432": db.port(5432)})`` starts one that does, by the name
        ``db``. Nothing else on this machine can connect to it. It lasts until this sandbox ends.
        """
        target, channel = _port(port), self._live()
        path = channel.driven.workspace.path(f"port-{target}")
        with channel.lock:
            if not os.path.exists(path):
                Forward(channel, target, path)
        return SandboxPort(target, path)

    @contextlib.contextmanager
    def network(self, allow: Sequence[str] | Mapping[str, SandboxPort | None]) -> Iterator[None]:
        """Let the sandbox reach these hosts and ports, until the end of the ``with``.

        ``allow`` is that of `Gvisor.sandbox`, and adds to it. All programs of the sandbox reach
        them. At the end, open connections are reset, and the host connects it to nothing of the
        list any more. Until then, no snapshot can be made.

        Raises `UsageError` for an entry that is open already, `InsideError` where /etc/hosts cannot
        be written, and `NotReady` where the sandbox does not answer.
        """
        settings = replaced(self._request.settings, {"allow": allow})
        with opened(self._live(), settings, self._wait(None)):
            yield

    def wait_for_port(self, port: int, timeout: float | None = None) -> None:
        """Wait until a program in the sandbox listens on 127.0.0.1 or ::1, and return nothing.

        ``port`` is a TCP port of the sandbox, from 1 to 65535. ``timeout`` is in seconds. The
        default is the sandbox's ``timeout``, which is 60 unless it was set. With 0 it looks once.

        Raises `NotReady` at the deadline, `UsageError` for another ``port`` or ``timeout``, and
        `SandboxCrashed`.
        """
        target, wait = _port(port), self._wait(timeout)
        waits.for_port(self._live(), target, wait)

    def wait_for_http(
        self, port: int, path: str = "/", status: int = 200, timeout: float | None = None
    ) -> None:
        """Wait until a server in the sandbox answers a GET with this status; return nothing.

        ``port`` is a TCP port of the sandbox, which speaks HTTP/1 without TLS. ``path`` is that of
        the URL, with its query. ``timeout`` is in seconds, as that of `wait_for_port`.

        Raises `NotReady` at the deadline with what was seen last, such as ``status 503``,
        `UsageError` for an argument of a wrong form, and `SandboxCrashed`.
        """
        wait, target = self._wait(timeout), self.port(port)
        waits.for_http(self._live(), target, path, status, wait)

    def close(self) -> None:
        """End the sandbox and all that runs in it. A second call does nothing."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            try:
                if self._channel is not None:
                    self._settle(self._channel)
            finally:  # until then, the harness waits for another thread that closes it
                self._opened.remove(self)

    def __exit__(self, *_: object) -> None:
        """Close the sandbox."""
        self.close()


def _port(port: int) -> int:
    if not whole(port) or not 0 < port < 65536:
        raise UsageError(f"{port!r} is not a TCP port")
    return port
