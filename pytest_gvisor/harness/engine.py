"""The engine of one pytest process: the binary, the launcher, and verdicts on platforms.

Each is made when it is first needed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Unpack

from pytest_gvisor.base import errors
from pytest_gvisor.base.kernel import named_sandbox
from pytest_gvisor.base.release_range import ReleaseRange
from pytest_gvisor.base.settings import Platform, SessionSettings, Settings, replaced
from pytest_gvisor.run.request import Hooks
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.runsc.platforms import Availability
from pytest_gvisor.sessions.launcher import Launcher

if TYPE_CHECKING:
    from pytest_gvisor.harness.gvisor import Gvisor
    from pytest_gvisor.harness.platform_probe import PlatformProbe
    from pytest_gvisor.images.store import Images

ALREADY_INSIDE = "this process is already inside"
NO_NESTING = "and runsc starts no sandbox in a sandbox"


def _harness() -> tuple[type[Gvisor], type[PlatformProbe]]:
    """Return classes whose import a start of tests inside would wait for."""
    from pytest_gvisor.harness import gvisor, platform_probe  # noqa: PLC0415 -- a start would wait

    return gvisor.Gvisor, platform_probe.PlatformProbe


class Engine:
    """The engine of a pytest process."""

    def __init__(self) -> None:
        self.launcher = Launcher()
        self._found: dict[str | None, Runsc | errors.GvisorError] = {}
        self._images: Images | None = None

    @functools.cached_property
    def _probe(self) -> PlatformProbe:
        return _harness()[1](self.launcher)

    def images(self) -> Images:
        """The images of this session. Raises `UsageError` when it is over."""
        self.launcher.check_open()
        if self._images is None:
            # Its modules take some 40 ms, and a start without an image would wait for them.
            from pytest_gvisor.images.store import Images  # noqa: PLC0415

            self._images = Images()
        return self._images

    def runsc(self, path: str | None) -> Runsc:
        """Return the binary at ``path``, or the one that a single search finds.

        Raises `RunscNotFound`, `InsecureRunsc`, `UnwantedRelease` or `RunscFailed`, the same each
        time. Raises `LaunchError` where this process is short of something: that may pass.
        """
        if path not in self._found:
            try:
                self._found[path] = Runsc.find(path)
            except errors.LaunchError:
                raise
            except errors.GvisorError as error:
                self._found[path] = error
        found = self._found[path]
        if isinstance(found, errors.GvisorError):
            raise found.with_traceback(None)
        return found

    def binary(self, settings: Settings, platform: Platform | None = None) -> Runsc:
        """Return the binary of these settings, of a release that they allow.

        Raises as `runsc`, and `PlatformUnavailable` for every ``platform`` in a sandbox.
        """
        if where := named_sandbox(os.uname()):
            platform = platform or self.platforms_of(settings)[0]
            asked = ", ".join(settings.of_its_sandbox)
            lost = f"; asked for: {asked}" if asked else ""
            cause = f"{ALREADY_INSIDE} {where}, {NO_NESTING}{lost}"
            raise errors.PlatformUnavailable(platform.value, cause)
        found = self.runsc(settings.runsc)
        if settings.release:
            releases = ReleaseRange.parse(settings.release, "gvisor_release")
            releases.check(found.version, found.path, "the project")
        return found

    def platforms_of(self, settings: Settings) -> tuple[Platform, ...]:
        """Return the platforms of the settings; ``auto`` is systrap."""
        return settings.platforms or (Platform.SYSTRAP,)

    def check_listed(self, platform: Platform, settings: Settings) -> None:
        """Raise `UsageError` for a platform that is unknown and that no binary lists.

        Raises as `runsc` where it must look.
        """
        if platform.is_known:
            return
        lists = [self.runsc(settings.runsc).platforms]
        for release in settings.releases:
            with contextlib.suppress(errors.RunscError):
                lists.append(self.runsc(release.path).platforms)
        if any(platform in names for names in lists):
            return
        theirs = ", ".join(sorted({name for names in lists for name in names})) or "none"
        raise errors.UsageError(
            f"platform={platform.value!r} is not one of {', '.join(Platform)}, and no runsc of "
            f"this run lists it: there are {theirs}",
            next_step="`runsc help platforms` lists the platforms of a binary.",
        )

    def availability(self, platform: Platform, settings: Settings) -> Availability:
        """Return the verdict on a platform, found once per run and platform.

        Raises as `runsc` and `check_listed`, `LaunchError` where nothing can be started at all, and
        `MixedReleases`.
        """
        runsc = self.binary(settings, platform)
        self.check_listed(platform, settings)
        return self._probe.availability(platform, runsc, settings)

    def gvisor(self, platform: Platform, settings: Settings, hooks: Hooks, **more: Any) -> Gvisor:
        """Return a `Gvisor` that runs workloads on ``platform`` with ``settings``.

        ``more`` are its ``project`` and ``asker``.
        """
        return _harness()[0](
            runsc=self.binary(settings, platform),
            platform=platform,
            launcher=self.launcher,
            settings=settings,
            hooks=hooks,
            images=self.images,
            **more,
        )

    def close(self) -> None:
        """Call `end`, and warn once of all that could not be removed.

        Where warnings are errors, write to standard error: other cleanups of pytest's come after
        this one.
        """
        leaks = self.end()
        if not leaks:
            return
        warning = errors.PytestGvisorWarning(f"not removed: {'; '.join(leaks)}")
        try:
            warnings.warn(warning, stacklevel=1)
        except errors.PytestGvisorWarning:
            print(f"{type(warning).__name__}: {warning}", file=sys.stderr)

    def end(self) -> list[str]:
        """End the keeper, remove the session folder, close the binaries, release images.

        Returns a text for each thing that could not be removed.
        """
        self.launcher.over = True
        leaks = self.launcher.close()
        if self._images is not None:
            self._images.close()
            self._images = None
        for found in self._found.values():
            if isinstance(found, Runsc):
                found.close()
        self._found.clear()
        return leaks


@contextlib.contextmanager
def session(**settings: Unpack[SessionSettings]) -> Iterator[Gvisor]:
    """Yield a `Gvisor` on one platform, without pytest: for scripts, notebooks, other test runners.

    At the end, nothing that it has started is left.

    ``settings`` are those of the ``gvisor`` marker. Raises `UsageError`, `RunscNotFound`,
    `InsecureRunsc`, `RunscFailed`, `LaunchError`, or `PlatformUnavailable` where the platform does
    not work here.
    """
    chosen = replaced(Settings(), settings)
    if len(chosen.platforms) > 1 or chosen.native:
        raise errors.UsageError("a session runs on one platform", next_step="Make one for each.")
    engine = Engine()
    with contextlib.ExitStack() as undo:
        undo.callback(engine.close)
        platform = engine.platforms_of(chosen)[0]
        engine.availability(platform, chosen).check()
        gvisor = engine.gvisor(platform, chosen, Hooks())
        undo.callback(gvisor.close)
        yield gvisor
