"""What one pytest process has of gVisor, each made when it is first needed: the binary, the
launcher, and the verdicts on platforms, which all xdist workers of a run share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_gvisor.errors import GvisorError, LaunchError, PytestGvisorWarning, RunscError, stage
from pytest_gvisor.harness import verdicts
from pytest_gvisor.harness.gvisor import Gvisor
from pytest_gvisor.oci import rootfs
from pytest_gvisor.run.logs import cause, relevant
from pytest_gvisor.run.request import Hooks, Record
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.runsc import buildinfo, platforms, trial
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.runsc.platforms import Availability
from pytest_gvisor.sessions.launcher import Launcher
from pytest_gvisor.sessions.shared_folder import SharedDir
from pytest_gvisor.settings import Platform, Settings
from pytest_gvisor.wanted import Wanted

if TYPE_CHECKING:
    from pytest_gvisor.completed import Completed
    from pytest_gvisor.images.progress import Tell
    from pytest_gvisor.images.store import Images


class Engine:
    """One a pytest process. ``run`` is a name that all processes of this run have in common."""

    def __init__(self, run: str | None = None) -> None:
        self.launcher = Launcher()
        self.shared = None if run is None else SharedDir(run)
        self._found: dict[str | None, Runsc | GvisorError] = {}
        self._verdicts: dict[tuple[str, Platform], Availability] = {}
        self._images: Images | None = None
        self.tell: Callable[[], Tell | None] | None = None
        """For those who watch what a docker daemon does."""

    def images(self) -> Images:
        """The images of this session."""
        if self._images is None:
            from pytest_gvisor.images.store import Images  # noqa: PLC0415 -- only for who has one

            self._images = Images(tell=self.tell() if self.tell else None)
        return self._images

    def runsc(self, path: str | None) -> Runsc:
        """The binary at ``path``, or the one that the search finds; the search is done once.

        Raises `RunscNotFound`, `InsecureRunsc` or `RunscFailed`, the same each time, and
        `LaunchError` where this process is short of something: that may pass.
        """
        if path not in self._found:
            try:
                self._found[path] = Runsc.find(path)
            except LaunchError:
                raise
            except GvisorError as error:
                self._found[path] = error
        found = self._found[path]
        if isinstance(found, GvisorError):
            raise found.with_traceback(None)
        return found

    def binary(self, settings: Settings) -> Runsc:
        """The binary of these settings, of a release that they allow.

        Raises as `runsc`, and `UnwantedRelease`.
        """
        found = self.runsc(settings.runsc)
        if settings.release:
            wanted = Wanted.parse(settings.release, "gvisor_release")
            wanted.check(found.version, found.path, "the project")
        return found

    def platforms_of(self, settings: Settings) -> tuple[Platform, ...]:
        """The platforms that the settings mean. Raises as `runsc` where ``auto`` must look."""
        if settings.platforms:
            return settings.platforms
        return (platforms.automatic(self.binary(settings).platforms),)

    def check_listed(self, platform: Platform, settings: Settings) -> None:
        """Raise `UsageError` for a platform that is not known, and that no binary lists.

        Raises as `runsc` where it must look.
        """
        if platform.is_known:
            return
        lists = [self.runsc(settings.runsc).platforms]
        for release in settings.releases:
            with contextlib.suppress(RunscError):
                lists.append(self.runsc(release.path).platforms)
        platforms.check_listed(platform, lists)

    def availability(self, platform: Platform, settings: Settings) -> Availability:
        """The verdict on a platform, found out once per run and platform, or at an earlier run.

        One that hung is tried again where these settings give it longer. Raises as `runsc` and
        `check_listed`, `LaunchError` where nothing can be started at all, and `MixedReleases`.
        """
        runsc = self.binary(settings)
        self.check_listed(platform, settings)
        key = (runsc.fingerprint, platform)
        deadline = platforms.deadline_for(settings.timeout)
        found = self._verdicts.get(key)
        if found is None or not found.holds(deadline):
            with self._stored(f"{runsc.fingerprint[:16]}-{platform}.json") as stored:
                found = stored.verdict
                if found is None or not found.holds(deadline):
                    found = self._find_out(platform, runsc, settings, deadline)
                self._verdicts[key] = stored.verdict = found
        return found

    def known_broken(self, runsc: Runsc, platform: Platform) -> bool:
        """Whether an earlier session has found this build broken; nothing is tried."""
        found = verdicts.recall(runsc.fingerprint, platform, 0.0)
        return found is not None and found.cause is Cause.BROKEN_BUILD

    @contextlib.contextmanager
    def _stored(self, name: str) -> Iterator[_Stored]:
        """The verdict that another process of this run has left; the lock is held meanwhile."""
        stored = _Stored()
        if self.shared is None:
            yield stored
            return
        self.launcher.share(self.shared.place())
        path = os.path.join(self.shared.path(), name)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.ExitStack() as held:
            with stage("shared_folder", f"cannot read {path}"):
                # Without a buffer: what a full disk has refused is not written again by its close.
                file = held.enter_context(open(os.open(path, flags, 0o600), "r+b", buffering=0))
                fcntl.flock(file, fcntl.LOCK_EX)
                text = file.read() or b""
            stored.verdict = verdicts.decode(text.decode("utf-8", "replace")) if text else None
            yield stored
            if stored.verdict is not None:
                new = verdicts.encode(stored.verdict).encode()
                if new != text:
                    # One that is not there, or cut short, is found out again by who needs it.
                    with contextlib.suppress(OSError):
                        file.seek(0)
                        file.truncate()
                        file.write(new)

    def _find_out(
        self, platform: Platform, runsc: Runsc, settings: Settings, deadline: float
    ) -> Availability:
        if settings.reprobe:
            verdicts.forget(runsc.fingerprint, platform)
        known = verdicts.recall(runsc.fingerprint, platform, deadline)
        found = self._probe(platform, runsc, known, deadline)
        if found is not known:
            verdicts.keep(runsc.fingerprint, found)
        return found

    def _probe(
        self, platform: Platform, runsc: Runsc, known: Availability | None, deadline: float
    ) -> Availability:
        gvisor = Gvisor(runsc=runsc, platform=platform, launcher=self.launcher)

        record = Record()

        def run(deadline: float) -> tuple[Completed, str]:
            def attempt(args: Sequence[str]) -> Completed:
                request = dataclasses.replace(gvisor.request(args, timeout=deadline), logs=True)
                return Runner(request, self.launcher, record).run()

            completed = attempt(trial.PYTHON) if rootfs.has_python() else None
            # The loader's status for a library that is found by an environment variable alone.
            if completed is None or completed.returncode == trial.NOT_STARTED:
                completed = attempt(trial.WITHOUT)
            return completed, "\n".join(relevant(record.debug_logs.get("boot", "")))

        def said() -> str:
            kept = record.debug_logs
            # The gofer first: what a boot says of a gofer that died is only that.
            return cause(kept.get("gofer", ""), kept.get("boot", ""), record.panic)

        def go() -> str:
            return buildinfo.go_version(runsc.fd)

        found = platforms.probe(
            platform, runsc.platforms, run, deadline=deadline, known=known, said=said, go=go
        )
        if platform is Platform.SYSTRAP and found.tried and trial.is_doubtful(runsc.date, go):
            other = self._probe(Platform.PTRACE, runsc, None, deadline)
            # Where systrap traces its processes, the host lets ptrace do so too.
            if other.cause is Cause.BROKEN_BUILD or (
                found.available and other.cause is Cause.PROBE_FAILED
            ):
                return platforms.broken(other, platform)
        return found

    def gvisor(self, platform: Platform, settings: Settings, hooks: Hooks) -> Gvisor:
        """What runs workloads on ``platform`` with ``settings``."""
        return Gvisor(
            runsc=self.binary(settings),
            platform=platform,
            launcher=self.launcher,
            settings=settings,
            hooks=hooks,
            images=self.images,
        )

    def close(self) -> None:
        """`end`, and one warning of what could not be removed. Where warnings are errors, it is a
        line on standard error: this is a cleanup of pytest's, and others come after it.
        """
        leaks = self.end()
        if not leaks:
            return
        warning = PytestGvisorWarning(f"not removed: {'; '.join(leaks)}")
        try:
            warnings.warn(warning, stacklevel=1)
        except PytestGvisorWarning:
            print(f"{type(warning).__name__}: {warning}", file=sys.stderr)

    def end(self) -> list[str]:
        """End the keeper, remove the session folder, close the binaries, let go of images.

        Returns what could not be removed, in words.
        """
        leaks: list[str] = []
        try:
            # First: the keeper removes it at its own end where nobody holds it any more, this
            # process included, and this one may not live, or not be let, to do more.
            if self.shared is not None:
                leaks += self.shared.close()
        finally:
            leaks += self.launcher.close()
        if self._images is not None:
            self._images.close()
            self._images = None
        for found in self._found.values():
            if isinstance(found, Runsc):
                found.close()
        self._found.clear()
        return leaks


@dataclasses.dataclass
class _Stored:
    verdict: Availability | None = None
