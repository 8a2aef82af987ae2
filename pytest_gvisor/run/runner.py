"""One whole run: workspace, specification, bundle, launch, supervision, verdict, removal.

This is where the parts meet. Each value is made from the one before, and nothing below calls back.
However a run ends, its workspace is removed, and an error is a `GvisorError`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from pytest_gvisor.base.completed import Completed, Outcome, Usage
from pytest_gvisor.base.egress import Egress, places
from pytest_gvisor.base.errors import GvisorError, LaunchError, on_exception, stage
from pytest_gvisor.base.settings import Network
from pytest_gvisor.oci import host_paths
from pytest_gvisor.oci.bundle import Bundle
from pytest_gvisor.oci.mounts import shows_devices
from pytest_gvisor.oci.spec import Spec
from pytest_gvisor.programs import clock
from pytest_gvisor.programs.order import Order
from pytest_gvisor.run import cgroup, egress_relays, limits, logs, not_started, sentry
from pytest_gvisor.run.capture import streams
from pytest_gvisor.run.host_sources import check_points, placed, settled, written
from pytest_gvisor.run.pipes import Pipes
from pytest_gvisor.run.request import Hooks, Record, Request, Workspace, workspace_of
from pytest_gvisor.run.specification import make_spec
from pytest_gvisor.run.supervisor import Supervisor
from pytest_gvisor.run.verdict import Evidence, Verdict, error_of, judge, most_tasks
from pytest_gvisor.runsc.command import file_flags, run_argv, runsc_env, shell_line, term_argv
from pytest_gvisor.runsc.features import registers_in_vain
from pytest_gvisor.runsc.rootless import Way
from pytest_gvisor.runsc.sidecars import ONE_RELEASE
from pytest_gvisor.sessions.launcher import Launcher
from pytest_gvisor.trace import points

if TYPE_CHECKING:
    from pytest_gvisor.base.traced import Trace
    from pytest_gvisor.trace.recorder import Recorder


def run(request: Request, launcher: Launcher, record: Record, hooks: Hooks) -> Completed:
    """Run a request to its end, and note it in the record.

    Raises `InvalidBundle`, `UsageError`, `InsecureRunsc` or `LaunchError` before anything has
    started, and `RunscFailed`, `SandboxCrashed` or `WorkloadTimeout` after.
    """
    with workspace_of(request, launcher, record) as workspace:
        spec = make_spec(request, workspace, hooks)
        return Runner(request, spec, workspace, launcher, record, keep=hooks.keep).run()


class Runner:
    """One run of a specification. `run` is all of it: `start`, the supervisor's turns, `finish`.

    The caller has made the workspace, and removes it. Several runners may share a `Launcher`.
    """

    def __init__(
        self,
        request: Request,
        spec: Spec,
        workspace: Workspace,
        launcher: Launcher,
        record: Record,
        *,
        keep: Callable[[Workspace, Record], None] | None = None,
    ) -> None:
        self.request = request
        self.workspace = workspace
        self.launcher = launcher
        self.record = record
        record.args, record.spec = spec.process.args, spec
        self.supervisor: Supervisor
        self.cgroups = cgroup.Cgroups()
        self.relay: egress_relays.OuterRelay | None = None
        self._spec = spec
        self._keep = keep
        self._usage = Usage()
        self._egress: Egress | None = None
        self._waited = 0.0
        self._leaks: tuple[str, ...] | None = None
        """Files and processes that could not be removed, as texts; None before `clean`."""

    def run(self) -> Completed:
        """Run it to its end. Raises as the function `run`."""
        with contextlib.ExitStack() as undo:
            folder, stop = os.path.dirname(self.workspace.shared), self.request.stop
            with self.launcher.starts.slot(folder, stop) as self._waited:
                self.start(undo, self.request.settings.timeout)
                undo.enter_context(on_exception(self._cut_short))
                self.supervisor.await_start()
            self.supervisor.watch()
            self.supervisor.drain_events()
            completed, error = self.finish(self.clean)
        if error is not None:
            raise error
        return completed

    def start(self, undo: contextlib.ExitStack, timeout: float) -> None:
        """Make everything for the run, and hand it to the keeper; ``undo`` ends and removes it."""
        request, workspace, chosen = self.request, self.workspace, self.request.settings
        keeper, runsc = self.launcher.keeper(), request.runsc
        values, warm = chosen.traces("values"), request.programs
        first = egress_relays.FIRST_PROCESS if request.relay else 1
        recorder = runsc.recorder(warm=warm, values=values, first=first) if chosen.traced else None
        with stage("events", "cannot listen to the sandbox"):
            listener = sentry.Listener(workspace.folder, recorder, first)
            undo.callback(listener.close)
        with stage("pipes", "cannot make the workload's streams"):
            pipes = request.streams(chosen.max_output, feed=request.input)
            undo.callback(pipes.close)
        if chosen.allow:
            allow, ports = chosen.allow, chosen.ports
            self.relay = undo.enter_context(egress_relays.OuterRelay(allow, ports, places(allow)))
        if workspace.logs is not None:
            pipes.drains += workspace.logs.drains
        check_points(self._spec, host_paths.written_now)
        spec = self.record.spec = settled(self._spec, workspace.shared)
        check_points(spec, host_paths.written_now)  # a link of the root may lead there
        undo.enter_context(host_paths.writing(written(spec)))
        told, sources = placed(spec, workspace)
        workspace.sources.extend(sources)
        annotations: Mapping[str, str] = {}
        if request.relay is not None:
            egress_relays.make(request.relay, request, workspace)
            told, annotations = egress_relays.beside(told, workspace.id)
        folder = workspace.path("bundle")
        Bundle.create(folder, told, terminal=pipes.terminal, annotations=annotations)
        self._limit(undo)
        order = order_of(request, spec, workspace, self.cgroups.folders, pipes.terminal)
        self._note(order)
        with stage("pipes", "cannot make the workload's streams"):
            self.supervisor = Supervisor(
                order, pipes, timeout=timeout, listener=listener, stop=request.stop
            )
        undo.callback(self.supervisor.close)
        undo.callback(self.clean)
        # Last of all, so that a write after the check has only the moment until the execve.
        runsc.check_unchanged()
        with self.cgroups.descriptors() as fds:
            links = [self.relay.link.fileno()] if self.relay else []
            self.supervisor.launch(keeper, runsc.fd, [*fds, *links])
        if self.relay is not None:
            self.relay.link.close()  # so that it ends with the sandbox

    def _limit(self, undo: contextlib.ExitStack) -> None:
        """Make the cgroups of the limits, and show runsc the one on memory."""
        workspace, session = self.workspace, self.launcher.session()
        limited = cgroup.limits_of(self._spec.linux.resources)
        if (memory := limited.get("memory")) is not None:
            workspace.sources.extend(limits.total_memory(int(memory), workspace.folder))
        self.cgroups = cgroup.create(
            limited, lambda path: session.journal(id=workspace.id, cgroups=[path])
        )
        undo.callback(self.cgroups.remove)

    def _note(self, order: Order) -> None:
        record = self.record
        record.order, record.argv = order, (self.request.runsc.path, *order.argv[1:])
        record.command = shell_line(record.argv, order.env)
        if isinstance(self.request.input, bytes):
            record.input = self.request.input

    def _cut_short(self, _error: BaseException) -> None:
        """Note what a workload did until its input or a handler raised, if acts are forbidden."""
        if not self.request.settings.forbid or self.record.completed is not None:
            return
        self.supervisor.cancelled = True
        self.record.start = self.supervisor.start  # at once: the handler may raise again

        def remove() -> None:
            self.clean()
            self.supervisor.drain_events()
            self.record.start = self.supervisor.start

        with contextlib.suppress(GvisorError):
            self.finish(remove)

    def finish(self, remove: Callable[[], None]) -> tuple[Completed, GvisorError | None]:
        """Return the result of a run that has ended, and its error; ``remove`` removes the run."""
        verdict = self._judge()
        if self.relay is not None and self.request.relay is not None:
            self._egress = egress_relays.last_egress(self.relay)
        remove()
        completed = self._completed(verdict)
        unknown = self.relay.failure if self.relay is not None else None
        return completed, self.supervisor.failure or unknown or error_of(
            verdict, self.request, self.record, completed,
            had_started=self.supervisor.listener.started,
        )  # fmt: skip

    def _judge(self) -> Verdict:
        """Read the logs and counters of the run, have them kept, and return the verdict."""
        record, workspace, supervisor = self.record, self.workspace, self.supervisor
        with contextlib.suppress(LaunchError):  # figures alone: no verdict depends on them
            self._usage = cgroup.measured(self.cgroups.places)
        record.start = supervisor.start
        record.runsc_records = logs.records(workspace.path("log"))
        record.panic = logs.panic(workspace.path("panic"))
        if workspace.logs is not None:
            captured = workspace.logs.captured()
            record.debug_logs = {name: logs.end(log) for name, log in captured.items()}
        if self._keep is not None:
            self._keep(workspace, record)
        if supervisor.failure is not None:
            return Verdict(outcome=Outcome.LAUNCH_FAILED, returncode=127)
        listener = supervisor.listener
        evidence = Evidence(
            runsc_status=9 if supervisor.status is None else supervisor.status,
            records=record.runsc_records,
            panic=record.panic,
            timed_out=supervisor.timed_out,
            cancelled=supervisor.cancelled,
            oom_kills=self.cgroups.oom_kills(),
            refused_tasks=self.cgroups.refused_tasks(),
            sentry_reports=listener.complete,
            started=listener.started,
            workload_statuses=listener.workload_statuses,
            gofer_died=supervisor.gofer_died,
        )
        return judge(evidence)

    def clean(self) -> None:
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
        pipes = self.supervisor.pipes
        reason = ""
        if verdict.outcome is Outcome.OUT_OF_TASKS:
            reason = limits.tasks_reached(most_tasks(self.record), self.request.platform)
        completed = Completed(
            args=self.record.args,
            returncode=verdict.returncode,
            **streams(pipes.stdout, pipes.stderr),
            duration=clock.monotonic() - self.workspace.begun,
            waited=self._waited,
            platform=self.request.platform,
            outcome=verdict.outcome,
            exact=verdict.exact,
            reason=reason,
            hint=self._hint(pipes) if verdict.returncode else "",
            command=self.record.command,
            settings=self.request.repeat,
            usage=self._usage,
            trace=self._trace(verdict),
            leaks=self._leaks or (),
            egress=self._egress,
        )
        self.record.completed = completed
        return completed

    def _trace(self, verdict: Verdict) -> Trace | None:
        """Return the trace of a run that was traced.

        Its end is known if the verdict is by it, or if this process has killed it.
        """
        listener = self.supervisor.listener
        if listener.recorder is None or self.request.programs:
            return None
        ends = (Outcome.EXITED, Outcome.SIGNALLED, Outcome.TIMED_OUT)
        told = verdict.exact and verdict.outcome in ends and bool(listener.workload_statuses)
        traces, written = self.request.settings.traces("paths"), self.workspace.logs
        log = written.captured().get("boot") if traces and written else None
        return cast("Recorder", listener.recorder).trace(
            dropped=listener.dropped,
            broken=listener.broken,
            ended=told or verdict.outcome is Outcome.CANCELLED,
            strace=log.data().decode("utf-8", "backslashreplace") if log else "",
            cut=log is not None and log.truncated,
        )

    def _hint(self, pipes: Pipes) -> str:
        for entry, problem in (self._egress.refused if self._egress else {}).items():
            return f"{entry}: {problem}."
        settings = self.request.settings
        stderr = pipes.stderr.last(not_started.TAIL).decode("utf-8", "replace")
        return not_started.hint(
            self._spec, self.request.asker, stderr=stderr,
            networked=settings.network is not Network.NONE, allow=settings.allow,
        )  # fmt: skip


def order_of(
    request: Request, spec: Spec, workspace: Workspace, cgroups: Sequence[str], terminal: bool
) -> Order:
    """Return the order to the keeper for a run. Raises `UsageError` for a NUL byte in a flag."""
    runsc, root, network = request.runsc, workspace.path("root"), request.settings.network
    # With --rootless, runsc makes the user namespace after the child has become runsc. So a child
    # that has to bind sources makes one itself, in place of the flag.
    flag = request.way is Way.FLAG and not workspace.sources
    flags = tuple(_flags(request, spec, workspace, rootless=flag))
    name, folder = workspace.id, workspace.folder
    hide = network is Network.SANDBOX
    # Behind the streams, the executable and the error pipe: see `child.become`.
    link = 5 + len(cgroups) if request.settings.allow else 0
    first: tuple[str, ...] = ()
    if request.relay is not None:
        first, link = egress_relays.argv(request, name, folder, flags, link), 0
    return Order(
        id=name,
        argv=run_argv(
            name, folder, request.platform, network, *flags, restores=request.restores, link=link
        ),
        term=term_argv(name, folder, request.stop_signal),
        env=runsc_env(root, runsc.sidecars.folder if runsc.uses_sidecars else ""),
        folder=folder,
        root=root,
        cgroups=tuple(cgroups),
        hide_net_sysctls=hide,
        own_users=not flag and request.way in (Way.OWN, Way.FLAG),
        skip_membarrier=registers_in_vain(runsc.date, request.platform),
        netns="" if not hide or request.settings.netns else workspace.netns,
        sources=tuple(workspace.sources),
        link=bool(request.settings.allow),
        first=first,
        terminal=terminal,
    )


def _flags(request: Request, spec: Spec, workspace: Workspace, *, rootless: bool) -> Iterator[str]:
    """Yield the flags that not every run has.

    ``rootless`` is for an unprivileged caller in no user namespace of its own.
    """
    if rootless:
        yield "--rootless"
    if workspace.logs is not None:
        # Without --debug, with which the sentry's output goes into the workload's streams.
        yield from ("--debug-log", f"{workspace.folder}/logs/%COMMAND%")
    if request.settings.debug:
        yield "--strace"
    elif request.settings.traces("paths"):
        yield from ("--strace", f"--strace-syscalls={','.join(points.changes().values())}")
    if request.runsc.enforces_release:
        # By default the labels of two builds that are no releases may differ.
        yield f"--{ONE_RELEASE}=ALWAYS"
    binds = [mount for mount in spec.mounts if mount.is_bind and "nodev" not in mount.options]
    devices = any(shows_devices(mount.source) for mount in binds)
    yield from file_flags(request.runsc.flags, devices=devices, most=limits.nofile()[1])
    yield from request.extra_flags
