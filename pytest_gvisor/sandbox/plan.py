"""The plan of a warm sandbox: its start, and the defaults of its programs."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_gvisor.errors import UsageError
from pytest_gvisor.oci import defaults
from pytest_gvisor.run.connected import Driven
from pytest_gvisor.run.request import Record, Request, Workspace
from pytest_gvisor.run.workload import identified
from pytest_gvisor.sandbox import interpreter

if TYPE_CHECKING:
    from pytest_gvisor.completed import Completed
    from pytest_gvisor.errors import GvisorError
    from pytest_gvisor.oci.spec import Spec
    from pytest_gvisor.run.request import Hooks
    from pytest_gvisor.run.workload import Workload
    from pytest_gvisor.sandbox.snapshot import Snapshot
    from pytest_gvisor.sessions.launcher import Launcher
    from pytest_gvisor.settings import Platform, Settings

_MAX_RECORDS = 50
_MAX_NOTED = 5
_MAX_PATH = 4096
_START_DEADLINE = 30.0


@dataclass(frozen=True, kw_only=True)
class Command:
    """The program to start, with the facts for its error or result."""

    args: tuple[str, ...]
    strings: tuple[bytes, ...]
    """The arguments and then the environment, ``NAME=value``."""

    cwd: str
    user: tuple[int, int, tuple[int, ...]]
    reads: bool
    """Whether it has a standard input to read from; else that is at its end at once."""

    timeout: float
    max_output: int
    platform: Platform
    runsc: str
    """The sandbox's own command line."""

    repeat: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All parameters of one sandbox, decided before its start."""

    request: Request
    """The run of the sandbox itself; its first process is still to be chosen: see `driven`."""

    launcher: Launcher
    hooks: Hooks
    workload: Workload
    """Its root file system and mounts, and the defaults of its programs: env, cwd, user."""

    make_spec: Callable[[Workspace, Workload], Spec]
    records: list[Record]
    """Where what has been run is noted, for the test's report."""

    snapshot: Snapshot | None = None
    """The saved sandbox that this one is a copy of."""

    noted: collections.deque[Record] = dataclasses.field(default_factory=collections.deque)
    """Those of ``records`` that are programs in this sandbox."""

    @property
    def settings(self) -> Settings:
        """The settings of the sandbox."""
        return self.request.settings

    @property
    def start_deadline(self) -> float:
        """The deadline of the start in seconds."""
        return max(self.settings.timeout, _START_DEADLINE)

    def driven(self, record: Record) -> Driven:
        """Return the run whose first process is the guest, not started.

        Raises `UsageError` where the guest cannot be mounted.
        """
        start = interpreter.start(self.workload.rootfs, self.workload.mounts)
        request = dataclasses.replace(
            self.request,
            make_spec=lambda workspace: self.spec(workspace, start),
            restores="" if self.snapshot is None else self.snapshot.folder,
        )
        return Driven(request, self.launcher, record, self.hooks.keep)

    def spec(self, workspace: Workspace, start: interpreter.Start) -> Spec:
        """Return the specification of that run."""
        guest = dataclasses.replace(
            self.workload,
            args=start.argv,
            env=start.env,
            cwd="/",
            user=0,
            entry=self.workload.user,
            home=None,
            mounts=(*self.workload.mounts, *interpreter.make_points(start, workspace.folder)),
        )
        spec = self.make_spec(workspace, guest)
        interpreter.check_preload(spec.root.path, spec.mounts)
        return spec

    def command(
        self,
        args: tuple[str, ...],
        *,
        record: Record,
        env: Mapping[str, str] | None,
        cwd: str | os.PathLike[str] | None,
        user: int | str | tuple[int, int] | None,
        reads: bool,
        repeat: Mapping[str, object],
    ) -> Command:
        """Return the command for ``args`` in this sandbox. Raises `UsageError`."""
        asked, home = self.workload.user, self.workload.home
        if user is not None:
            asked, home = identified(user, self.workload.rootfs.says)
        who = defaults.parse_user(asked)
        path = interpreter.programs(self.workload.rootfs)
        given = {**self.workload.env, **(env or {})}
        folder: str | bytes = self.workload.cwd if cwd is None else os.fspath(cwd)
        strings = (*args, *defaults.environment(given, uid=who.uid, path=path, home=home))
        if not args or not args[0]:
            raise UsageError("args name no program")
        if not isinstance(folder, str) or not folder.startswith("/") or len(folder) > _MAX_PATH:
            raise UsageError(f"cwd={folder!r} is not an absolute path")
        encoded(folder)
        return Command(
            args=args,
            strings=tuple(encoded(string) for string in strings),
            cwd=folder,
            user=(who.uid, who.gid, who.additional_gids),
            reads=reads,
            timeout=self.settings.timeout,
            max_output=self.settings.max_output,
            platform=self.request.platform,
            runsc=record.command,
            repeat={k: v for k, v in repeat.items() if v is not None},
        )

    def note(
        self, command: Command, record: Record, completed: Completed, error: GvisorError | None
    ) -> None:
        """Record a program that has ended, or an error, for the test's report."""
        noted = Record(
            args=command.args,
            argv=record.argv,
            env=record.env,
            command=record.command,
            completed=completed,
            error=error,
            spec=record.spec,
        )
        # Each holds its output: of many programs in one sandbox only the last ones are of use.
        self.noted.append(noted)
        if len(self.noted) > _MAX_NOTED:
            oldest = self.noted.popleft()
            self.records[:] = [record for record in self.records if record is not oldest]
        self._add(noted)

    def finished(self, record: Record) -> None:
        """Record the end of the sandbox itself, and call the hook."""
        self._add(record)
        self.hooks.run_finished(record)

    def _add(self, record: Record) -> None:
        self.records.append(record)
        del self.records[:-_MAX_RECORDS]


def encoded(string: str) -> bytes:
    """Encode an argument or a path for the kernel. Raises `UsageError`."""
    try:
        data = string.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise UsageError(f"{string!r} cannot be given to the sandbox: {error.reason}") from error
    if b"\0" in data:
        raise UsageError(f"a NUL byte in {string!r}: the kernel would cut the string there")
    return data
