"""Warm sandboxes, and snapshots of them, that a whole session shares."""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from pytest_gvisor.base import setting_values
from pytest_gvisor.base import settings as words
from pytest_gvisor.base.errors import PytestGvisorWarning, UsageError
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.plugin.markers import Running
from pytest_gvisor.plugin.skips import skip_missing
from pytest_gvisor.run.request import Hooks

if TYPE_CHECKING:
    from pytest_gvisor.harness.engine import Engine
    from pytest_gvisor.harness.gvisor import Gvisor
    from pytest_gvisor.oci.project import Project
    from pytest_gvisor.sandbox.sandbox import Sandbox
    from pytest_gvisor.sandbox.snapshot import Snapshot

Prepare = Callable[["Sandbox"], object]
"""A function that fills a sandbox before it is saved."""

_Made = TypeVar("_Made", "Sandbox", "Snapshot")


class _Harnesses(Generic[_Made]):
    """The harnesses of the session, one for each platform and release, and what they have made."""

    hooks = Hooks()

    def __init__(self, engine: Engine, settings: Settings, project: Project) -> None:
        self._engine = engine
        self._settings = settings
        self._project = project
        self._guard = threading.Lock()
        self._harnesses: dict[tuple[Platform, str], Gvisor] = {}
        self._made: list[tuple[object, _Made]] = []

    def _harness(self, asked: Platform | str | None, release: str | None) -> Gvisor:
        settings = self._settings
        with skip_missing(settings):
            if release is not None:
                settings = words.on_release(settings, release)
            if asked is None:
                platform = self._engine.platforms_of(settings)[0]
            else:
                platform = setting_values.platform(asked, "platform")
            key = platform, settings.label
            if key not in self._harnesses:
                self._engine.availability(platform, settings).check()
                self._harnesses[key] = self._engine.gvisor(
                    platform, settings, self.hooks, project=self._project
                )
        return self._harnesses[key]

    def close(self) -> None:
        """Close all that was made, even if one of them raises."""
        with self._guard, contextlib.ExitStack() as undo:
            for _key, made in self._made:
                undo.callback(made.close)
            self._made.clear()
        for harness in self._harnesses.values():
            warn_of_leaks(harness)


def warn_of_leaks(harness: Gvisor) -> None:
    """Warn of all that a harness's sandboxes have left."""
    for record in harness.records:
        for leak in record.completed.leaks if record.completed else ():
            warnings.warn(PytestGvisorWarning(f"not removed: {leak}"), stacklevel=1)


class SharedSandboxes(_Harnesses["Sandbox"]):
    """The type of ``gvisor_sandboxes``: the same arguments give the same sandbox, while it
    lives.
    """

    def __init__(self, engine: Engine, settings: Settings, project: Project, test: Running) -> None:
        super().__init__(engine, settings, project)
        self.hooks = Hooks(begins=self._check_forbid)
        self._test = test
        self._deciding: list[Sandbox] = []
        """Those whose call had ``forbid``, which counts then."""

    def _check_forbid(self, sandbox: Sandbox) -> None:
        """Raise `UsageError` where acts would be unseen that the running test forbids."""
        unseen = {*self._test.forbid} - {*self._settings.forbid}
        if unseen and sandbox not in self._deciding:
            raise UsageError(
                f"forbid={sorted(unseen)} of a marker is not for a sandbox of the session",
                next_step="Write gvisor_sandboxes(forbid=[…]), or use gvisor_sandbox.",
            )

    def __call__(
        self,
        platform: Platform | str | None = None,
        *,
        release: str | None = None,
        **options: object,
    ) -> Sandbox:
        """Return the session's sandbox with these options, which are those of `Gvisor.sandbox`.

        ``release`` is the label of one of several releases; the first unless it is given.
        It is started when it is first asked for, and again when it has crashed since. A platform
        that does not work skips the test, or fails it under ``--gvisor-strict``.
        """
        with self._guard:
            harness = self._harness(platform, release)
            key = (harness.platform, harness.settings.label, _frozen(options))
            for entry in [one for one in self._made if one[0] == key]:
                if entry[1].alive:
                    return entry[1]
                self._made.remove(entry)
                self._deciding = [one for one in self._deciding if one is not entry[1]]
                entry[1].close()
            made = harness.sandbox(**options)  # type: ignore[arg-type]
            self._made.append((key, made))
            self._deciding += [made] if "forbid" in options else []
            return made


class SharedSnapshots(_Harnesses["Snapshot"]):
    """The type of ``gvisor_snapshot``: the same arguments give the same snapshot."""

    def __call__(
        self,
        prepare: Prepare,
        platform: Platform | str | None = None,
        *,
        release: str | None = None,
        **options: object,
    ) -> Snapshot:
        """Return the session's snapshot of a sandbox that ``prepare`` has filled.

        ``options`` are those of `Gvisor.sandbox`, ``release`` is as for ``gvisor_sandboxes``. The
        sandbox is started when the snapshot is first asked for, and ended when it is saved.
        """
        with self._guard:
            harness = self._harness(platform, release)
            key = (prepare, harness.platform, harness.settings.label, _frozen(options))
            for known, snapshot in self._made:
                if known == key:
                    return snapshot
            with harness.sandbox(**options) as sandbox:  # type: ignore[arg-type]
                prepare(sandbox)
                snapshot = sandbox.snapshot()
            self._made.append((key, snapshot))
            return snapshot


def _frozen(options: Mapping[str, object]) -> dict[str, object]:
    """Return a copy of options that stays as it is when their caller changes a list or dict."""
    return {
        name: copy.copy(value) if isinstance(value, list | dict) else value
        for name, value in options.items()
    }
