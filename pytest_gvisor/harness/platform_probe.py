"""The trial of a platform on this machine: a bounded run, whose verdict all workers share."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
from typing import TYPE_CHECKING

from pytest_gvisor.base.errors import LaunchError
from pytest_gvisor.base.settings import Platform
from pytest_gvisor.guest.wire.checked_json import loads
from pytest_gvisor.harness.gvisor import Gvisor
from pytest_gvisor.oci import rootfs
from pytest_gvisor.run import runner
from pytest_gvisor.run.logs import cause
from pytest_gvisor.run.request import Hooks, Record
from pytest_gvisor.runsc import elf, platforms
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.runsc.platforms import Availability
from pytest_gvisor.sessions import private

if TYPE_CHECKING:
    from pytest_gvisor.base.completed import Completed
    from pytest_gvisor.base.settings import Settings
    from pytest_gvisor.runsc.binary import Runsc
    from pytest_gvisor.sessions.launcher import Launcher


_LOCK_PATIENCE = 20.0
"""Seconds beyond the deadline of a probe for which another worker's probe is waited for."""


class PlatformProbe:
    """The verdicts of one process; ``shared`` is the folder of its run's workers, if it has any."""

    def __init__(self, launcher: Launcher, shared: str | None) -> None:
        self._launcher = launcher
        self._shared = shared
        self._verdicts: dict[tuple[str, Platform], Availability] = {}

    def availability(self, platform: Platform, runsc: Runsc, settings: Settings) -> Availability:
        """Return the verdict on a platform that ``runsc`` lists, found once per run.

        Raises `LaunchError` where nothing can be started at all, and `MixedReleases`.
        """
        key = (runsc.fingerprint, platform)
        if key not in self._verdicts:
            deadline = platforms.deadline_for(settings.timeout)
            with contextlib.ExitStack() as held:
                name = f"gvisor-{runsc.fingerprint[:16]}-{platform}.json"
                file = self._locked(name, deadline, held)
                found = None if file is None else _read(file)
                if found is None:
                    found = self._probe(platform, runsc, deadline)
                    if file is not None:
                        _write(file, found)
            self._verdicts[key] = found
        return self._verdicts[key]

    def _locked(self, name: str, deadline: float, held: contextlib.ExitStack) -> io.FileIO | None:
        """Open and lock a file of the workers' folder, for the verdict that one of them finds out.

        None if it cannot be opened or locked: the worker then finds out its own verdict.
        """
        with contextlib.suppress(LaunchError, OSError):
            if self._shared is not None:
                folder = private.open_private(self._shared)
                held.callback(os.close, folder)
                # Without a buffer: a buffer that a full disk has refused is written again at the
                # close, which would raise outside of `_write`.
                file = held.enter_context(io.FileIO(private.open_lock(name, folder), "r+"))
                # A probe may run two programs, and a second platform.
                patience = 4 * deadline + _LOCK_PATIENCE
                return file if private.take_lock_in(patience, file.fileno()) else None
        return None

    def _probe(self, platform: Platform, runsc: Runsc, deadline: float) -> Availability:
        gvisor = Gvisor(runsc=runsc, platform=platform, launcher=self._launcher)
        record = Record()
        programs = [platforms.PYTHON] if rootfs.has_python() else []

        def run(deadline: float) -> Completed:
            for args in (*programs, platforms.WITHOUT):
                request = dataclasses.replace(gvisor.request(args, timeout=deadline), logs=True)
                completed = runner.run(request, self._launcher, record, Hooks())
                # The loader's status for a library that is found by an environment variable alone.
                if completed.returncode != platforms.NOT_STARTED:
                    break
            return completed

        def said() -> str:
            kept = record.debug_logs
            # The gofer first: what a boot says of a gofer that died is only that.
            return cause(kept.get("gofer", ""), kept.get("boot", ""), record.panic)

        go = functools.partial(elf.go_version, runsc.fd)
        found = platforms.probe(platform, runsc.platforms, run, deadline=deadline, said=said, go=go)
        if platform is Platform.SYSTRAP and found.tried and platforms.is_doubtful(runsc.date, go):
            other = self._probe(Platform.PTRACE, runsc, deadline)
            # Where systrap traces its processes, the host lets ptrace do so too.
            if other.cause is Cause.BROKEN_BUILD or (
                found.available and other.cause is Cause.PROBE_FAILED
            ):
                return platforms.broken(other, platform)
        return found


def _read(file: io.FileIO) -> Availability | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        fields = loads(file.read() or b"")
        return Availability(
            platform=Platform(fields["platform"]),
            cause=Cause(fields["cause"]),
            detail=str(fields["detail"]),
            next_step=str(fields["next_step"]),
        )
    return None


def _write(file: io.FileIO, verdict: Availability) -> None:
    # A file that is cut short, on a full disk, holds no verdict.
    with contextlib.suppress(OSError):
        file.seek(0)
        file.truncate()
        file.write(json.dumps(dataclasses.asdict(verdict)).encode())
