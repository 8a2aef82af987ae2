"""The trial of a platform on this machine: a bounded run, once for each run."""

from __future__ import annotations

import dataclasses
import functools

from pytest_gvisor.base.completed import Completed
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.harness.gvisor import Gvisor
from pytest_gvisor.oci import rootfs
from pytest_gvisor.run import runner
from pytest_gvisor.run.logs import cause
from pytest_gvisor.run.request import Hooks, Record
from pytest_gvisor.runsc import elf, platforms
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.runsc.platforms import Availability
from pytest_gvisor.sessions.launcher import Launcher


class PlatformProbe:
    """The verdicts of one process."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._verdicts: dict[tuple[str, Platform], Availability] = {}

    def availability(self, platform: Platform, runsc: Runsc, settings: Settings) -> Availability:
        """Return the verdict on a platform that ``runsc`` lists, found once per run.

        Raises `LaunchError` where nothing can be started at all, and `MixedReleases`.
        """
        key = (runsc.fingerprint, platform)
        if key not in self._verdicts:
            deadline = platforms.deadline_for(settings.timeout)
            self._verdicts[key] = self._probe(platform, runsc, deadline)
        return self._verdicts[key]

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
