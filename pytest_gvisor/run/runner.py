"""One whole run: workspace, bundle, launch, supervision, verdict, removal.

This is where the parts meet. Whatever happens, a workspace that was made is removed, and an error
is one of our tree.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable

from pytest_gvisor.completed import Completed, Outcome, Usage
from pytest_gvisor.errors import GvisorError, stage
from pytest_gvisor.oci import host_paths
from pytest_gvisor.oci.bundle import Bundle
from pytest_gvisor.oci.mounts import shows_devices
from pytest_gvisor.oci.spec import Spec
from pytest_gvisor.oci.validate import check_id
from pytest_gvisor.programs.order import Order
from pytest_gvisor.run import (
    bad_news,
    cgroup,
    limits,
    logs,
    not_started,
    saved,
    sentry,
)
from pytest_gvisor.run.capture import streams
from pytest_gvisor.run.cgroup import Cgroups, limits_of, measured
from pytest_gvisor.run.host_sources import check_points, placed, written
from pytest_gvisor.run.request import Record, Request, Workspace
from pytest_gvisor.run.supervisor import Supervisor
from pytest_gvisor.run.verdict import Evidence, Verdict, judge
from pytest_gvisor.runsc.command import (
    gofer_flags,
    run_argv,
    runsc_env,
    shell_line,
    term_argv,
)
from pytest_gvisor.runsc.features import registers_in_vain
from pytest_gvisor.runsc.rootless import Way
from pytest_gvisor.sessions.launcher import Keeper, Launcher
from pytest_gvisor.sessions.private import make_private
from pytest_gvisor.sessions.session_folder import SessionDir
from pytest_gvisor.settings import Network


class Runner:
    """A runner of requests, one after the other; several runners may share a `Launcher`."""

    def __init__(
        self,
        request: Request,
        launcher: Launcher,
        record: Record,
        keep: Callable[[Workspace, Record], None] | None = None,
        supervise: Callable[..., Supervisor] = Supervisor,
    ) -> None:
        self.request = request
        self.launcher = launcher
        self.record = record
        self.keep = keep
        self.workspace: Workspace
        self.supervisor: Supervisor
        self._make_supervisor = supervise
        self._cgroups = Cgroups()
        self._usage = Usage()
        self._listener: sentry.Listener
        self._leaks: tuple[str, ...] | None = None
        """What could not be removed; None before `_clean`."""

        self._started_at = time.monotonic()

    def run(self) -> Completed:
        """Run the request to its end.

        Raises `InvalidBundle`, `UsageError`, `InsecureRunsc` or `LaunchError` before anything has
        started, and
        `RunscFailed`, `SandboxCrashed` or `WorkloadTimeout` after.
        """
        try:
            with contextlib.ExitStack() as undo:
                self._begin(undo, self.request.settings.timeout)
                self.supervisor.watch()
                self.supervisor.drain_events()
                verdict = self._judge()
                self._clean()
                completed = self._completed(verdict)
            self._raise_for(verdict, completed)
        except GvisorError as error:
            self.record.error = error
            raise
        return completed

    def _begin(self, undo: contextlib.ExitStack, timeout: float) -> None:
        """Make the run's parts and hand it to the keeper; ``undo`` ends and removes it all."""
        keeper, order = self._prepare(undo)
        settings = self.request.settings
        with stage("pipes", "cannot make the workload's streams"):
            pipes = self.request.streams(settings.max_output, feed=self.request.input)
            undo.callback(pipes.close)
            if self.workspace.logs is not None:
                pipes.drains += self.workspace.logs.drains
            self.supervisor = self._make_supervisor(
                order, pipes, timeout=timeout, listener=self._listener, stop=self.request.stop
            )
            undo.callback(self.supervisor.close)
        undo.callback(self._clean)
        self._launch(keeper)

    def _prepare(self, undo: contextlib.ExitStack) -> tuple[Keeper, Order]:
        """Make everything that the launch needs; ``undo`` removes it."""
        if self.request.restores:
            saved.check(self.request.platform, self.request.way)
        keeper, session = self.launcher.keeper(), self.launcher.session()
        workspace = self.workspace = self._make_workspace(session, undo)
        with stage("events", "cannot listen to the sandbox"):
            self._listener = sentry.Listener(workspace.folder)
            undo.callback(self._listener.close)
        spec = self.request.make_spec(workspace)
        self.record.args, self.record.spec = spec.process.args, spec
        check_points(spec, host_paths.written_now)
        undo.enter_context(host_paths.writing(written(spec)))
        told, sources = placed(spec, workspace)
        workspace.sources.extend(sources)
        Bundle.create(workspace.path("bundle"), told, terminal=self.request.streams.terminal)
        limited = limits_of(spec)
        memory = limited.get("memory")
        if memory is not None:
            workspace.sources.extend(limits.total_memory(int(memory), workspace.folder))
        self._cgroups = cgroup.create(
            limited, lambda path: session.journal(id=workspace.id, cgroups=[path])
        )
        undo.callback(self._cgroups.remove)
        return keeper, self._order(workspace, spec)

    def _make_workspace(self, session: SessionDir, undo: contextlib.ExitStack) -> Workspace:
        run = check_id("g" + secrets.token_hex(4))
        folder = os.path.join(session.path, run)
        written: logs.DebugLogs | None = None
        with stage("workspace", f"cannot make {folder}"):
            # What is there is another run's: it is neither used nor, with the rest, removed.
            make_private(folder)
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            make_private(os.path.join(folder, "root"))
            if self.request.settings.debug or self.request.logs:
                written = logs.DebugLogs(os.path.join(folder, "logs"))
                undo.callback(written.close)
        netns = os.path.join(folder, "netns")
        return Workspace(id=run, folder=folder, shared=session.path, netns=netns, logs=written)

    def _order(self, workspace: Workspace, spec: Spec) -> Order:
        request, runsc = self.request, self.request.runsc
        root = workspace.path("root")
        # With --rootless, only runsc is in a user namespace in which something may be mounted.
        flag = request.way is Way.FLAG and not workspace.sources
        argv = run_argv(
            workspace.id,
            workspace.folder,
            platform=request.platform,
            network=request.settings.network,
            rootless=flag,
            logs=workspace.logs is not None,
            strace=request.settings.debug,
            one_release=runsc.enforces_release,
            restores=request.restores,
            extra=(*self._gofer_flags(spec), *request.extra_flags),
        )
        hide = request.settings.network is Network.SANDBOX
        order = Order(
            id=workspace.id,
            argv=argv,
            term=term_argv(workspace.id, workspace.folder, request.stop_signal),
            env=runsc_env(root, runsc.sidecars.folder if runsc.uses_sidecars else ""),
            folder=workspace.folder,
            root=root,
            cgroups=tuple(self._cgroups.folders),
            hide_net_sysctls=hide,
            own_users=not flag and request.way in (Way.OWN, Way.FLAG),
            skip_membarrier=registers_in_vain(runsc.date, request.platform),
            netns="" if not hide or request.settings.netns else workspace.netns,
            sources=tuple(workspace.sources),
            terminal=request.streams.terminal,
        )
        record = self.record
        record.order, record.argv = order, (runsc.path, *argv[1:])
        record.command = shell_line(record.argv, order.env)
        if isinstance(request.input, bytes):
            record.input = request.input
        return order

    def _gofer_flags(self, spec: Spec) -> tuple[str, ...]:
        binds = [mount for mount in spec.mounts if mount.is_bind and "nodev" not in mount.options]
        devices = any(shows_devices(mount.source) for mount in binds)
        return gofer_flags(self.request.runsc.flags, devices=devices)

    def _launch(self, keeper: Keeper) -> None:
        # Last of all: what is written to the file from here on has the time of an execve.
        runsc = self.request.runsc
        runsc.check_unchanged()
        with self._cgroups.descriptors() as fds:
            self.supervisor.launch(keeper, runsc.fd, fds)

    def _judge(self) -> Verdict:
        """Read what runsc has left, have it kept, and return the verdict on all of it."""
        record, workspace, supervisor = self.record, self.workspace, self.supervisor
        self._usage = measured(self._cgroups.places)
        record.start = supervisor.start
        record.runsc_records = logs.records(workspace.path("log"))
        record.panic = logs.panic(workspace.path("panic"))
        if workspace.logs is not None:
            captured = workspace.logs.captured()
            record.debug_logs = {name: logs.end(log) for name, log in captured.items()}
        if self.keep is not None:
            self.keep(workspace, record)
        if supervisor.failure is not None:
            return Verdict(outcome=Outcome.LAUNCH_FAILED, returncode=127)
        listener = self._listener
        evidence = Evidence(
            runsc_status=9 if supervisor.status is None else supervisor.status,
            records=record.runsc_records,
            panic=record.panic,
            timed_out=supervisor.timed_out,
            cancelled=supervisor.cancelled,
            oom_kills=self._cgroups.oom_kills(),
            refused_tasks=self._cgroups.refused_tasks(),
            sentry_reports=listener.complete,
            started=listener.started,
            workload_statuses=listener.workload_statuses,
            gofer_died=supervisor.gofer_died,
        )
        return judge(evidence)

    def _clean(self) -> None:
        """Have the keeper remove everything of the run. A second call does nothing."""
        if self._leaks is not None:
            return
        self._leaks = ()
        try:
            self._leaks = self.supervisor.clean()
        except GvisorError as error:
            self._leaks = (str(error),)
        self.launcher.left += len(self._leaks)

    def _completed(self, verdict: Verdict) -> Completed:
        failed, project = bool(verdict.returncode), self.request.project
        pipes = self.supervisor.pipes
        reason = ""
        if verdict.outcome is Outcome.OUT_OF_TASKS:
            most = bad_news.most_tasks(self.record)
            reason = limits.tasks_reached(most, self.request.platform)
        completed = Completed(
            args=self.record.args,
            returncode=verdict.returncode,
            **streams(pipes.stdout, pipes.stderr),
            duration=time.monotonic() - self._started_at,
            platform=self.request.platform,
            outcome=verdict.outcome,
            exact=verdict.exact,
            reason=reason,
            hint=not_started.hint(self.record.spec, project) if failed else "",
            command=self.record.command,
            settings=self.request.repeat,
            usage=self._usage,
            leaks=self._leaks or (),
        )
        self.record.completed = completed
        return completed

    def _raise_for(self, verdict: Verdict, completed: Completed) -> None:
        error = self.supervisor.failure or bad_news.error_of(
            verdict, self.request, self.record, completed, had_started=self._listener.started
        )
        if error is not None:
            raise error
