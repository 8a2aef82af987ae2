"""Runs of a fake runsc, from the request to the end."""

import os
from dataclasses import dataclass, fields
from typing import Any

from pytest_gvisor.completed import Completed, Outcome
from pytest_gvisor.errors import GvisorError
from pytest_gvisor.oci.defaults import default_spec
from pytest_gvisor.oci.rootfs import empty
from pytest_gvisor.oci.spec import Spec
from pytest_gvisor.programs import leftovers
from pytest_gvisor.run.request import Record, Request, Workspace
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.sessions.launcher import Launcher
from pytest_gvisor.settings import Platform, Settings


def make_spec(workspace: Workspace) -> Spec:
    """A specification that breaks no rule, for a runsc that does not read it."""
    prepared = empty().prepare(workspace.folder)
    return default_spec(["true"], root_path=prepared.root_path, mounts=prepared.mounts)


@dataclass(kw_only=True)
class Ended:
    """One run that is over, in a value or in an error."""

    runner: Runner
    completed: Completed | None
    error: GvisorError | None

    @property
    def outcome(self) -> Outcome | None:
        """The verdict, also where it was raised as an error; None where there was none."""
        known = self.runner.record.completed
        return None if known is None else known.outcome

    @property
    def was_prepared(self) -> bool:
        """Whether the run got as far as a command line of runsc."""
        return bool(self.runner.record.argv)


@dataclass(kw_only=True)
class Runs:
    """Runs a fake runsc to its end."""

    launcher: Launcher
    binary: Runsc

    def __call__(self, **options: Any) -> Ended:
        """Run once, with options of `Request` or `Settings`; the result has any `GvisorError`."""
        usual = {"platform": Platform.SYSTRAP, "make_spec": make_spec, "timeout": 30.0}
        given = {**usual, **options}
        names = {field.name for field in fields(Settings)} & given.keys()
        settings = Settings(**{name: given.pop(name) for name in names})
        request = Request(runsc=self.binary, settings=settings, **given)
        runner = Runner(request, self.launcher, Record())
        completed, error = None, None
        try:
            completed = runner.run()
        except GvisorError as caught:
            error = caught
        return Ended(runner=runner, completed=completed, error=error)

    def left(self) -> list[str]:
        """The remains of finished runs: processes, and entries of the session folder."""
        session = self.launcher.session().path
        found = [f"process {pid}" for pid in leftovers.processes(session, everywhere=True)]
        return found + sorted(set(os.listdir(session)) - {"lock", "journal"})
