"""The request for a run, its record, and the folder that is made for it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_gvisor.base.completed import Completed
from pytest_gvisor.base.errors import FORBIDDEN, GvisorError, TraceError, note_forbidden, stage
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.oci.bundle import Bundle
from pytest_gvisor.oci.spec import Spec
from pytest_gvisor.oci.validate import check_id
from pytest_gvisor.programs import clock
from pytest_gvisor.programs.order import Order
from pytest_gvisor.programs.sources import Source
from pytest_gvisor.run.logs import DebugLogs
from pytest_gvisor.run.not_started import CALL, Asker
from pytest_gvisor.run.pipes import Pipes
from pytest_gvisor.run.workload import Workload
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.runsc.rootless import Way
from pytest_gvisor.sessions.launcher import Launcher
from pytest_gvisor.sessions.private import make_private

MAX_RECORDS = 50
MAX_REMEMBERED = 64 * 1024 * 1024
"""Bytes of input and output that the records of one harness hold, apart from the newest one's."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The folder of one run, inside the session folder."""

    id: str
    folder: str
    shared: str
    """Folder of the session for what its runs have in common."""

    netns: str
    """Where the child puts a network namespace, if the run needs a new one."""

    logs: DebugLogs | None = None
    """runsc's own logs, if it writes any."""

    sources: list[Source] = dataclasses.field(default_factory=list)
    """Files and folders that the child binds before runsc starts; `Runner.start` adds the mounts.
    """

    identities: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    """Device and inode of sources, by path, that must be the very ones that were checked."""

    begun: float = dataclasses.field(default_factory=clock.monotonic)
    """When the run began, on the monotonic clock."""

    def path(self, name: str) -> str:
        """Return the path of a part: ``bundle``, ``root``, ``runtime``, ``logs``, ``log``,
        ``panic``.
        """
        return os.path.join(self.folder, name)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The parameters of a run."""

    runsc: Runsc
    platform: Platform
    settings: Settings
    """How the sandbox is started, apart from the platform; network, limits of time and output."""

    workload: Workload | Bundle | None = None
    """The input of `specification.make_spec`; None if the caller makes the specification."""

    way: Way = Way.PRIVILEGED
    input: bytes | Iterable[bytes] | None = None
    asker: Asker = CALL
    """Where a remedy for the workload's failure is pasted."""

    stop_signal: int = signal.SIGTERM
    """The signal for the workload's first process at the deadline, a second before SIGKILL."""

    logs: bool = False
    """Whether runsc writes its own logs, without the strace that ``debug`` adds."""

    restores: str = ""
    """The folder of a saved sandbox that this run restores; ``""`` is a fresh start."""

    stop: int | None = None
    """A descriptor that ends the run once it is readable; None if only the deadline does."""

    extra_flags: tuple[str, ...] = ()
    streams: Callable[..., Pipes] = Pipes
    """Makes the workload's standard streams; takes the arguments of `Pipes`."""

    relay: Workload | None = None
    """The relay of the allow-list, if it has a container of its own: see `run.egress_relays`."""

    programs: bool = False
    """Whether each program of a traced sandbox has a trace of its own."""

    repeat: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Keyword arguments that repeat this run, for the repr."""


@dataclass(kw_only=True)
class Record:
    """The facts on a run after its end, whether that was a value or an error."""

    args: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()
    """runsc's own argv, the path of the binary first."""

    order: Order | None = None
    """The order that the keeper got."""

    command: str = ""
    input: bytes = b""
    completed: Completed | None = None
    error: GvisorError | None = None
    runsc_records: tuple[str, ...] = ()
    panic: str = ""
    debug_logs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    kept: str = ""
    notes: tuple[str, ...] = ()
    """Parts of a foreign bundle that were changed or have no effect: `Bundle.notes`."""

    spec: Spec | None = None
    start: float | None = None
    """Seconds from the hand-over to the keeper until the workload's start; None if the sentry has
    not reported one."""


@contextlib.contextmanager
def workspace_of(request: Request, launcher: Launcher, record: Record) -> Iterator[Workspace]:
    """Yield a new folder for a run, and remove it at the end of the block.

    An error of the block is noted in the record. Raises `LaunchError`.
    """
    written: DebugLogs | None = None
    try:
        shared, run = launcher.session().path, check_id("g" + secrets.token_hex(4))
        folder = os.path.join(shared, run)
        with contextlib.ExitStack() as undo:
            with stage("workspace", f"cannot make {folder}"):
                # A folder of this name would belong to another run: make_private fails then, before
                # the callback that would remove it.
                make_private(folder)
                undo.callback(shutil.rmtree, folder, ignore_errors=True)
                make_private(os.path.join(folder, "root"))
                if request.settings.debug or request.logs or request.settings.traces("paths"):
                    written = DebugLogs(os.path.join(folder, "logs"))
                    undo.callback(written.close)
            netns = os.path.join(folder, "netns")
            yield Workspace(id=run, folder=folder, shared=shared, netns=netns, logs=written)
    except GvisorError as error:
        record.error = error
        raise


def forget(records: list[Record]) -> None:
    """Drop the oldest records if there are too many, or too much input and output in them."""
    held = 0
    for age, record in enumerate(reversed(records)):
        done = record.completed
        given = record.input if done is None else done.settings.get("input")
        held += len(given) if isinstance(given, str | bytes) else 0
        if done is not None:
            held += len(done.stdout_bytes) + len(done.stderr_bytes)
        if age and (age >= MAX_RECORDS or held > MAX_REMEMBERED):
            del records[: len(records) - age]
            break


def check_forbidden(request: Request, done: Completed | None) -> None:
    """Raise `AssertionError` if a program did what is forbidden, and `TraceError` if it may have.

    A program that was not started has no trace. Nothing is known without ``done``. The error has
    the attribute `FORBIDDEN`, and `errors.forbidden` its text.
    """
    if not request.settings.forbid:
        return
    try:
        if done is None:
            raise TraceError("an exception came while the run was checked: its acts are unknown")
        if (trace := done.trace) is not None:
            trace.check(forbid=request.settings.forbid)
    except (AssertionError, TraceError) as error:
        vars(error)[FORBIDDEN] = True
        note_forbidden(str(error), request.settings.forbid)
        raise


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """The hooks of plugins on a run. Each one does nothing unless it is given."""

    modify_spec: Callable[[dict[str, Any]], None] | None = None
    """Change config.json's content in place; the result is validated like any other."""

    runsc_args: Callable[[], Sequence[str]] = tuple
    """More global flags for runsc."""

    run_finished: Callable[[Record], None] = lambda _record: None
    keep: Callable[[Workspace, Record], None] | None = None
    begins: Callable[[Any], None] = lambda _sandbox: None
    """Called before each program of a warm sandbox, which does not start if this raises."""
