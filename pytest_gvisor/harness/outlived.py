"""Runs whose sandbox outlives the workload, so that a shell can look into it (``--gvisor-shell``).

The workload is a program in a warm sandbox. So it is not the sandbox's first process, and its pid
is not 1. What it returns or raises is that of a run.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_gvisor.completed import Completed, Outcome, SandboxCrashed, WorkloadTimeout
from pytest_gvisor.errors import GvisorError, InsideError, UsageError
from pytest_gvisor.run import not_started
from pytest_gvisor.run.request import Hooks, Record
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.sandbox.plan import Plan
from pytest_gvisor.sandbox.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_gvisor.oci.spec import Spec
    from pytest_gvisor.run.request import Request, Workspace
    from pytest_gvisor.run.workload import Workload
    from pytest_gvisor.sessions.launcher import Launcher

MOST = 4
"""The sandboxes that are kept of one test: those of its last runs."""

_OUT = (Outcome.OUT_OF_MEMORY, Outcome.OUT_OF_TASKS)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A run, and its sandbox if that is still there."""

    record: Record
    sandbox: Sandbox | None = None
    reason: str = ""
    """The reason for which there is no sandbox."""


class OutlivedRuns:
    """The last runs of a test, with their sandboxes. Several threads may run at once."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._guard = threading.Lock()
        self._kept: collections.deque[Kept] = collections.deque()

    @property
    def kept(self) -> Sequence[Kept]:
        """The last runs, the oldest first."""
        with self._guard:
            return tuple(self._kept)

    def run(
        self,
        request: Request,
        record: Record,
        make_spec: Callable[[Workspace, Workload], Spec],
        keep: Callable[[Workspace, Record], None] | None,
    ) -> Completed:
        """Run a request in a sandbox that stays. Raises the errors of `Runner.run`."""
        begun = time.monotonic()
        sandboxes: list[Record] = []
        plan = self._plan(request, make_spec, sandboxes)
        try:
            sandbox = Sandbox(plan)
        except UsageError as error:
            # There is no place for the first process, or the root would have a say in it.
            self._add(Kept(record=record, reason=error.message))
            return Runner(request, self._launcher, record, keep).run()
        except GvisorError as error:
            record.error = error
            raise
        try:
            completed = _Call(sandbox, plan, request, record, begun).run()
        except SandboxCrashed as error:
            sandbox.close()
            self._add(Kept(record=record, reason=error.message))
            return _out_of(error, sandboxes, record)
        except GvisorError as error:
            record.error = error
            self._add(Kept(record=record, sandbox=sandbox))
            raise
        except BaseException:
            sandbox.close()
            raise
        self._add(Kept(record=record, sandbox=sandbox))
        return completed

    def _plan(
        self,
        request: Request,
        make_spec: Callable[[Workspace, Workload], Spec],
        records: list[Record],
    ) -> Plan:
        assert request.workload is not None
        return Plan(
            request=dataclasses.replace(request, input=None),
            launcher=self._launcher,
            hooks=Hooks(),
            workload=request.workload,
            make_spec=make_spec,
            records=records,
            folder=request.workload.cwd,
        )

    def _add(self, kept: Kept) -> None:
        with self._guard:
            self._kept.append(kept)
            oldest = self._kept.popleft() if len(self._kept) > MOST else None
        if oldest is not None and oldest.sandbox is not None:
            oldest.sandbox.close()

    def close(self) -> None:
        """Close all sandboxes."""
        with contextlib.ExitStack() as undo:
            for one in self.kept:
                if one.sandbox is not None:
                    undo.callback(one.sandbox.close)
            self._kept.clear()


class _Call:
    """One workload in its sandbox."""

    def __init__(
        self, sandbox: Sandbox, plan: Plan, request: Request, record: Record, begun: float
    ) -> None:
        self._sandbox = sandbox
        self._plan = plan
        self._request = request
        self._record = record
        self._begun = begun
        self._note()

    def _note(self) -> None:
        """Record the command line, and the specification as it would be of the workload alone."""
        assert self._request.workload is not None
        workload, record, of_sandbox = self._request.workload, self._record, self._sandbox.record
        record.argv, record.env = of_sandbox.argv, of_sandbox.env
        record.command, record.start = of_sandbox.command, of_sandbox.start
        record.args = workload.args
        if isinstance(self._request.input, bytes):
            record.input = self._request.input
        if of_sandbox.spec is not None:
            process = dataclasses.replace(
                of_sandbox.spec.process, args=workload.args, cwd=workload.cwd
            )
            record.spec = dataclasses.replace(of_sandbox.spec, process=process)

    def run(self) -> Completed:
        """Run it. Raises as `Runner.run`."""
        assert self._request.workload is not None
        args, given = self._request.workload.args, self._request.input
        try:
            done = self._sandbox.exec(args, input=given, timeout=self._request.settings.timeout)
        except InsideError as error:
            raise self._not_started(error.errno) from error
        except WorkloadTimeout as error:
            error.completed = self._completed(error.completed)
            raise
        return self._completed(done)

    def _completed(self, done: Completed) -> Completed:
        failed = bool(done.returncode)
        project = self._request.project
        self._record.completed = dataclasses.replace(
            done,
            duration=time.monotonic() - self._begun,
            hint=not_started.hint(self._record.spec, project) if failed else "",
            settings=self._request.repeat,
        )
        return self._record.completed

    def _not_started(self, number: int) -> GvisorError:
        assert self._record.spec is not None
        assert self._request.workload is not None
        env = self._plan.environment()
        return not_started.refused(
            os.strerror(number).lower() if number != errno.EIO else "it cannot be read",
            self._record.spec,
            path=env.get("PATH", ""),
            command=self._record.command,
            project=self._request.project,
        )


def _out_of(error: SandboxCrashed, sandboxes: Sequence[Record], record: Record) -> Completed:
    """Return the result of a workload whose whole sandbox has reached a limit, or raise."""
    for one in sandboxes:
        found = one.completed
        if found is not None and found.outcome in _OUT:
            record.completed = dataclasses.replace(
                error.completed, outcome=found.outcome, reason=found.reason, usage=found.usage
            )
            return record.completed
    record.error, record.panic = error, error.panic
    record.completed = error.completed
    raise error
