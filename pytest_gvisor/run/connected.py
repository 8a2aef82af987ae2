"""A run whose first process speaks with this process over a socket until the run ends.

Its standard input is that socket; its standard output and error are captured, together. Everything
else is as in any other run.

It can be saved: `runsc` writes an image of the sandbox, and other runs start from the image.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pytest_gvisor.base.completed import Completed
from pytest_gvisor.base.egress import PROXY, Egress, merged, proxied
from pytest_gvisor.base.errors import GvisorError, LaunchError, SnapshotError, on_error
from pytest_gvisor.base.settings import Platform
from pytest_gvisor.run import logs
from pytest_gvisor.run.budget import Budget
from pytest_gvisor.run.egress_relays import OuterRelay
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.run.supervisor import Supervisor
from pytest_gvisor.runsc.command import save_argv
from pytest_gvisor.runsc.rootless import Way
from pytest_gvisor.sessions.private import make_private

LARGEST = 4 * 1024**3
"""The most bytes of an image: the session folder, which holds it, may be in memory."""

WATCH = 0.05
"""Seconds between two looks at an image that is being written."""

_LOG = "save.log"
_PLATFORMS = (Platform.SYSTRAP, Platform.PTRACE)


class Ended(NamedTuple):
    """The end of a driven run, with the error of `Runner.finish`; None after a kill by `end`."""

    completed: Completed | None
    error: GvisorError | None


def check(platform: Platform, way: Way) -> None:
    """Raise `SnapshotError` where no sandbox can be saved, nor be started from an image."""
    if platform not in _PLATFORMS:
        names = " and ".join(_PLATFORMS)
        raise SnapshotError(
            f"there are no snapshots on platform {platform}, only on {names}",
            next_step=f"Use platform={_PLATFORMS[0]}.",
        )
    if way is Way.FLAG:
        raise SnapshotError("runsc restores no sandbox with --rootless")


class Driven:
    """One driven run: `start`, then the supervisor's turns by the caller, then `end`."""

    def __init__(self, runner: Runner, undo: contextlib.ExitStack) -> None:
        """``undo`` removes everything that was made for the run; `start` takes it over."""
        self.runner = runner
        self.request, self.record, self.workspace = runner.request, runner.record, runner.workspace
        self.later: list[OuterRelay] = []
        """Relays that were started after the sandbox; some have ended."""

        self.changing = threading.Lock()
        """Held while a network is opened or closed."""

        self._undo = undo
        self._image = runner.workspace.path("image")
        self._too_large = False

    def start(self) -> Supervisor:
        """Make the streams and hand the run to the keeper. Raises the errors of `run` before a
        start.
        """
        self.runner.start(self._undo, math.inf)
        self._undo = self._undo.pop_all()
        return self.runner.supervisor

    def begin_save(self) -> None:
        """Begin to save the sandbox, whose guest is at rest; see `Supervisor.saved`.

        The caller has `check`-ed the run. Raises `SnapshotError` if the folder of the image cannot
        be made.
        """
        self._discard()
        try:
            make_private(self._image)
        except OSError as error:
            raise SnapshotError(f"cannot make {self._image}: {error.strerror}") from error
        self._too_large = False
        self.runner.supervisor.save(save_argv(self.workspace.id, self.workspace.folder))

    def is_saved(self) -> bool:
        """Whether the command that saves has ended. Call it each `WATCH` seconds.

        Each call empties the files of an image that has become too large. To kill the command would
        not stop the growth: the sentry holds the descriptors, and writes on until the image is
        whole.
        """
        if size_of(self._image) > LARGEST:
            self._too_large = True
            with contextlib.suppress(OSError), os.scandir(self._image) as entries:
                for entry in entries:
                    os.truncate(entry.path, 0)
        return self.runner.supervisor.saved is not None

    def finish_save(self) -> str:
        """Return the folder of the image when the command that saves has ended.

        The image is removed with the run, unless it is moved. Raises `SnapshotError`.
        """
        if self._too_large or size_of(self._image) > LARGEST:
            error = SnapshotError(f"the saved sandbox has more than {LARGEST} bytes")
        elif self.runner.supervisor.saved != 0:
            records = logs.records(self.workspace.path(_LOG))
            error = SnapshotError("the sandbox could not be saved", records=records)
        else:
            return self._image
        self._discard()
        raise error

    def _discard(self) -> None:
        """Remove an image, whole or not."""
        shutil.rmtree(self._image, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(self.workspace.path(_LOG))

    def save(self, budget: Budget) -> str:
        """Save the sandbox, in the thread that drives it; return the folder of `finish_save`.

        The sandbox runs on. If the budget is used up, `SnapshotError` is raised in the middle of
        the saving, and the caller has to `end` the run.
        """
        self.begin_save()
        supervisor = self.runner.supervisor
        while not self.is_saved() and not supervisor.over:
            if (left := budget.left) <= 0:
                raise SnapshotError("the sandbox was not saved in time")
            supervisor.turn(min(left, WATCH))
        return self.finish_save()

    def oom_kills(self) -> int:
        """Return the number of its processes that the kernel has killed for memory."""
        return self.runner.cgroups.oom_kills()

    @property
    def relays(self) -> list[OuterRelay]:
        """All relays that the sandbox has, or has had."""
        return [*([self.runner.relay] if self.runner.relay else []), *self.later]

    @property
    def open(self) -> tuple[str, ...]:
        """The entries that it reaches now."""
        return tuple(entry for one in self.relays if one.is_open for entry in one.allow)

    def proxied(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a program of the sandbox, with its proxy, if it has one."""
        for one in self.relays:
            if one.is_open and any(place.startswith(PROXY) for place in one.places):
                return proxied(one.places, env, [e for e in self.open if e not in one.allow])
        return dict(env)

    def check_relays(self) -> None:
        """Raise the `LaunchError` of a relay that is open and does not answer."""
        for relay in self.relays:
            if relay.is_open and relay.failure is not None:
                raise relay.failure

    def egress(self, before: Egress | None = None) -> Egress | None:
        """Return the traffic since ``before``; None for a sandbox without an allow-list."""
        if not self.relays:
            return None
        now = merged([relay.egress(settled=before is not None) for relay in self.relays])
        return now.since(before) if before else now

    def end(self, patience: float = 0.0) -> Ended:
        """Wait ``patience`` seconds for its end, kill the rest, and remove everything."""
        with self._undo:
            return self._finish(patience, self.runner.clean)

    def leave(self, patience: float = 0.0) -> Ended:
        """End it like `end`, and return while the keeper removes everything; then `settle`.

        The result does not list files that could not be removed.
        """
        with on_error(self.settle):
            return self._finish(patience, lambda: self.runner.supervisor.ask("release"))

    def settle(self) -> None:
        """Wait until everything is removed, after `leave`. A second call does nothing."""
        self._undo.close()

    def _finish(self, patience: float, remove: Callable[[], None]) -> Ended:
        """End it, and have it removed by ``remove``."""
        try:
            killed = self.runner.supervisor.end(patience)
            _completed, error = self.runner.finish(remove)
        except GvisorError as caught:
            killed, error = False, caught
        except MemoryError:
            killed, error = False, LaunchError("end", "there is no memory for it")
        self.record.error = None if killed else error
        return Ended(completed=self.record.completed, error=self.record.error)


def size_of(image: str) -> int:
    """Return the number of bytes in the files of an image; 0 if it has been removed."""
    try:
        with os.scandir(image) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    except OSError:
        return 0
