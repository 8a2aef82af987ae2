"""Runs of a fake runsc, from the request to the end."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from pytest_gvisor.base.completed import Completed, Outcome
from pytest_gvisor.base.errors import GvisorError
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.oci.rootfs import empty
from pytest_gvisor.programs import leftovers
from pytest_gvisor.run import runner
from pytest_gvisor.run.connected import Driven
from pytest_gvisor.run.request import Hooks, Record, Request, workspace_of
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.run.specification import make_spec
from pytest_gvisor.run.workload import make_workload
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.sessions.launcher import Launcher


@dataclass(kw_only=True)
class Ended:
    """One run that is over, in a value or in an error."""

    record: Record
    completed: Completed | None
    error: GvisorError | None

    @property
    def outcome(self) -> Outcome | None:
        """The verdict, also where it was raised as an error; None where there was none."""
        known = self.record.completed
        return None if known is None else known.outcome

    @property
    def was_prepared(self) -> bool:
        """Whether the run got as far as a command line of runsc."""
        return bool(self.record.argv)


@dataclass(kw_only=True)
class Runs:
    """Runs a fake runsc to its end."""

    launcher: Launcher
    binary: Runsc

    def request(self, **options: Any) -> Request:
        """A request whose workload runsc does not read, with options of it or of `Settings`."""
        workload = make_workload(["true"], rootfs=empty())
        given = {"platform": Platform.SYSTRAP, "workload": workload, "timeout": 30.0, **options}
        names = {field.name for field in fields(Settings)} & given.keys()
        settings = Settings(**{name: given.pop(name) for name in names})
        return Request(runsc=self.binary, settings=settings, **given)

    def __call__(self, *, hooks: Hooks | None = None, **options: Any) -> Ended:
        """Run once, with options of `request`; the result has any `GvisorError`."""
        record = Record()
        completed, error = None, None
        try:
            completed = runner.run(self.request(**options), self.launcher, record, hooks or Hooks())
        except GvisorError as caught:
            error = caught
        return Ended(record=record, completed=completed, error=error)

    @contextlib.contextmanager
    def driven(self) -> Iterator[Driven]:
        """Yield a driven run that is not started."""
        request, record = self.request(), Record()
        with contextlib.ExitStack() as undo:
            workspace = undo.enter_context(workspace_of(request, self.launcher, record))
            spec = make_spec(request, workspace, Hooks())
            yield Driven(Runner(request, spec, workspace, self.launcher, record), undo)

    def left(self) -> list[str]:
        """The remains of finished runs: processes, and entries of the session folder."""
        session = self.launcher.session().path
        found = [f"process {pid}" for pid in leftovers.processes(session, everywhere=True)]
        return found + sorted(set(os.listdir(session)) - {"lock", "journal"})
