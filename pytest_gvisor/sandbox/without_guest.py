"""A warm sandbox without a guest: each program by ``runsc exec``.

For a folder as root file system in which no mount point is, and none may be made: its first process
is a ``sleep`` of its own. A deadline ends the whole sandbox here, since the end of a ``runsc exec``
does not end what it has started; the next use starts another one. Of ``exit 137`` and SIGKILL the
status is the same (`Completed.exact`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import threading
import time
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pytest_gvisor.completed import Completed, Outcome, SandboxCrashed, WorkloadTimeout
from pytest_gvisor.errors import (
    GvisorError,
    LaunchError,
    PytestGvisorWarning,
    RunscFailed,
    UsageError,
    stage,
)
from pytest_gvisor.oci import paths
from pytest_gvisor.oci.reader import write
from pytest_gvisor.oci.spec import Process, Spec, User
from pytest_gvisor.programs.order import Order
from pytest_gvisor.run import logs
from pytest_gvisor.run.capture import streams
from pytest_gvisor.run.connected import Driven
from pytest_gvisor.run.pipes import Pipes
from pytest_gvisor.run.request import Record, Workspace
from pytest_gvisor.run.supervisor import Supervisor
from pytest_gvisor.run.verdict import Evidence, judge, paste
from pytest_gvisor.sandbox.interpreter import PRIVATE, Start
from pytest_gvisor.sessions.private import make_private

if TYPE_CHECKING:
    from pytest_gvisor.sandbox.plan import Plan
    from pytest_gvisor.sandbox.process import Command

_SEEN = 0.2
_LONG = str(2**31 - 1)
_IDLE = (
    ("/bin/sleep", _LONG),
    ("/usr/bin/sleep", _LONG),
    ("/bin/busybox", "sleep", _LONG),
    ("/usr/bin/busybox", "sleep", _LONG),
    ("/busybox", "sleep", _LONG),
    ("/bin/tail", "-f", "/dev/null"),
    ("/usr/bin/tail", "-f", "/dev/null"),
)


def idle(root: str) -> tuple[str, ...]:
    """Return a program that waits for ever in a root file system. Raises `UsageError` if none is
    known.
    """
    for argv in _IDLE:
        place = paths.resolve(root, argv[0], {})
        if place.exists and not place.folder and os.access(place.host, os.X_OK):
            return argv
    raise UsageError(
        f"{root} has neither a mount point for the host's Python nor a program that waits",
        next_step=f"Make an empty folder {PRIVATE} in it.",
    )


REPLACED = "a sandbox was killed, and another one takes its place: what was in it is gone"


class Plain:
    """A sandbox without a guest, started when it is made."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._guard = threading.Lock()
        self._driven: Driven | None = None
        self._process: Process
        self._was_killed = False
        self.record = Record()
        self._live()

    @property
    def alive(self) -> bool:
        """Whether the sandbox is there, as far as is known."""
        return self._driven is not None

    def _live(self) -> Driven:
        with self._guard:
            if self._was_killed:
                self._was_killed = False
                warnings.warn(PytestGvisorWarning(REPLACED), stacklevel=5)
            if self._driven is None:
                self._driven = self._start()
            return self._driven

    def _start(self) -> Driven:
        folder = self._plan.workload.rootfs.folder
        assert folder is not None
        start = Start(argv=idle(folder))
        self.record = Record()
        driven = self._plan.driven(self.record, start)

        def make_spec(workspace: Workspace) -> Spec:
            spec = self._plan.spec(workspace, start)
            self._process = spec.process
            return spec

        driven.request = dataclasses.replace(driven.request, make_spec=make_spec)
        supervisor = driven.start()
        deadline = time.monotonic() + self._plan.start_deadline
        listener = supervisor.listener
        try:
            while listener is not None and not listener.started and not supervisor.over:
                if time.monotonic() > deadline:
                    break
                supervisor.turn(deadline - time.monotonic())
        except BaseException:
            driven.end()
            raise
        if supervisor.over or (listener is not None and not listener.started):
            raise self._lost(driven, None)
        return driven

    def _lost(self, driven: Driven, completed: Completed | None) -> GvisorError:
        """Remove a lost sandbox; return the error to raise."""
        ended = driven.end()
        self._driven = None
        self._plan.finished(self.record)
        if ended.error is not None and completed is None:
            return ended.error
        held = completed or ended.completed
        if held is None:
            return LaunchError("sandbox", "it did not start")
        return SandboxCrashed("the sandbox is gone", completed=held, panic=self.record.panic)

    def run(self, command: Command, chunks: Iterable[bytes] | None, timeout: float) -> Completed:
        """Run one program to its end. Raises the errors of `Sandbox.exec`."""
        driven = self._live()
        begun = time.monotonic()
        with contextlib.ExitStack() as undo:
            folder = os.path.join(driven.workspace.shared, "g" + secrets.token_hex(4))
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            order = self._order(driven, command, folder)
            with stage("pipes", "cannot make the program's pipes"):
                made = Pipes(command.max_output, sha256=command.sha256, feed=chunks)
                pipes = undo.enter_context(contextlib.closing(made))
                supervisor = Supervisor(order, pipes, timeout=timeout)
            undo.callback(supervisor.close)
            self._plan.request.runsc.check_unchanged()
            try:
                supervisor.launch(self._plan.launcher.keeper(), self._plan.request.runsc.fd)
                supervisor.watch()
                records = logs.records(os.path.join(folder, "log"))
            finally:
                supervisor.clean()
        if supervisor.failure is not None:
            raise supervisor.failure
        completed = _completed(command, supervisor, records, time.monotonic() - begun)
        self._check(driven, command, completed, records, timeout)
        self._plan.note(command, self.record, completed, None)
        return completed

    def _order(self, driven: Driven, command: Command, folder: str) -> Order:
        count = len(command.args)
        uid, gid, groups = command.user
        process = dataclasses.replace(
            self._process,
            args=command.args,
            env=tuple(text.decode("utf-8", "surrogateescape") for text in command.strings[count:]),
            cwd=command.cwd,
            user=User(uid=uid, gid=gid, additional_gids=groups),
        )
        base = ["runsc", "--root", driven.workspace.path("root"), "--ignore-cgroups"]
        with stage("workspace", f"cannot make {folder}"):
            make_private(folder)
            make_private(os.path.join(folder, "runtime"))
            # Some releases split --env at commas; some take the user from here, and some from
            # --user.
            with open(os.path.join(folder, "process.json"), "w", encoding="utf-8") as file:
                json.dump(write(process), file)
        argv = [*base, "--log", os.path.join(folder, "log"), "exec"]
        argv += ["--process", os.path.join(folder, "process.json"), "--user", f"{uid}:{gid}"]
        argv.append(driven.workspace.id)
        nothing = (*base, "list")
        return Order(
            id=os.path.basename(folder),
            argv=tuple(argv),
            term=nothing,  # there is no way to send it a signal: see `run`
            delete=nothing,
            env=dict(self.record.env),
            folder=folder,
            root=os.path.join(folder, "root"),
        )

    def _check(
        self,
        driven: Driven,
        command: Command,
        completed: Completed,
        records: tuple[str, ...],
        timeout: float,
    ) -> None:
        """Raise the error of a failed program, if any."""
        supervisor = driven.supervisor
        with self._guard:
            if self._driven is driven:
                failed = completed.outcome is Outcome.RUNSC_FAILED
                supervisor.wait(_SEEN if failed else 0.0)  # perhaps the sandbox's end is the reason
                if supervisor.over:
                    raise self._lost(driven, completed)
                if completed.outcome is Outcome.TIMED_OUT:
                    driven.end()
                    self._driven = None
                    self._was_killed = True
                    self._plan.finished(self.record)
        if completed.outcome is Outcome.TIMED_OUT:
            error = WorkloadTimeout(
                f"{list(command.args)!r} was still running after {timeout:g} s on "
                f"{command.platform}; the whole sandbox has been killed with it",
                completed=completed,
                next_step="Give it longer with timeout=SECONDS or --gvisor-timeout.",
            )
            self._plan.note(command, self.record, completed, error)
            raise error
        if completed.outcome is Outcome.RUNSC_FAILED:
            raise RunscFailed(
                f"runsc exec failed: {records[-1] if records else completed.stderr[-500:]}",
                records=records,
                command=completed.command,
            )

    def close(self) -> None:
        """End the sandbox."""
        with self._guard:
            if self._driven is not None:
                self._driven.end()
                self._driven = None
                self._plan.finished(self.record)


def _completed(
    command: Command, supervisor: Supervisor, records: tuple[str, ...], duration: float
) -> Completed:
    verdict = judge(
        Evidence(
            runsc_status=9 if supervisor.status is None else supervisor.status,
            records=records,
            timed_out=supervisor.timed_out,
        )
    )
    return Completed(
        args=command.args,
        returncode=verdict.returncode,
        **streams(supervisor.pipes.stdout, supervisor.pipes.stderr),
        duration=duration,
        platform=command.platform,
        outcome=verdict.outcome,
        exact=verdict.exact or 0 <= verdict.returncode < 128,
        command=paste(supervisor.order.argv, supervisor.order.env),
        settings=command.repeat,
    )
