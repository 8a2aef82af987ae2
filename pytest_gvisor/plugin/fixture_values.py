"""The values of the fixtures, which `fixtures` declares; imported when a test asks for one."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_gvisor.base import removed, setting_values
from pytest_gvisor.base.errors import PytestGvisorWarning, UsageError
from pytest_gvisor.base.settings import Keep, Platform, Settings
from pytest_gvisor.harness.call import write_bundle
from pytest_gvisor.oci import host_paths, project
from pytest_gvisor.oci.project import Project
from pytest_gvisor.plugin import markers
from pytest_gvisor.plugin.precedence import resolve_image_path, run_settings, settings_of
from pytest_gvisor.plugin.shared_sandboxes import SharedSandboxes, SharedSnapshots, warn_of_leaks
from pytest_gvisor.plugin.skips import as_outcome, fail_misuse, prefix_location, skip_missing
from pytest_gvisor.plugin.stash import engine_of, has_failed, record_harness, record_run
from pytest_gvisor.run.kept import keep
from pytest_gvisor.run.request import Hooks, Record, Workspace

if TYPE_CHECKING:
    from pytest_gvisor.harness.engine import Engine
    from pytest_gvisor.harness.gvisor import Gvisor
    from pytest_gvisor.oci.bundle import Bundle
    from pytest_gvisor.oci.rootfs import Rootfs
    from pytest_gvisor.run.workload import Args
    from pytest_gvisor.runsc.binary import Runsc


class BundleFactory(Protocol):
    """The type of ``oci_bundle``."""

    def __call__(self, args: Args, **options: Any) -> Bundle:
        """Write a bundle for ``args`` to a new folder of the test, and return it.

        ``options`` are those of `Gvisor.run`, apart from ``input``, ``timeout`` and ``check``.
        Raises `InvalidBundle`, `UsageError`, `ImageError` or `LaunchError`.
        """


class Values:
    """The values of the fixtures for one request."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._config = request.config

    def runsc(self) -> Runsc:
        """See the fixture."""
        return self._binary(run_settings(self._config))

    def gvisor_runsc(self) -> Runsc:
        """See the fixture."""
        settings = self._settings()
        if getattr(self._request, "param", None) is None:
            labels = [release.label for release in settings.releases]
            markers.warn_of_others(self._request.node, settings, labels)
        return self._binary(settings)

    def gvisor_platform(self) -> Platform:
        """See the fixture."""
        settings, item = self._settings(), self._request.node
        asked = getattr(self._request, "param", None)
        if asked is None:
            markers.warn_of_others(item, settings, settings.platforms)
        platform = markers.choose_platform(item, settings, asked)
        markers.check_platform(item, settings, platform)
        markers.add_xfail(item, platform)  # a project's own fixture may have asked for it
        return platform

    @contextlib.contextmanager
    def gvisor(self, gvisor_platform: Platform) -> Iterator[Gvisor]:
        """See the fixture. Closed at the end, with a warning of all that was not removed."""
        settings, item, engine = self._settings(), self._request.node, engine_of(self._config)
        # Tests and workloads make links there, by which no later test is to be led astray.
        if self._config.pluginmanager.hasplugin("tmpdir"):
            factory: pytest.TempPathFactory = self._request.getfixturevalue("tmp_path_factory")
            # If another user has taken the folder's name, no test has one.
            with contextlib.suppress(OSError):
                host_paths.note_writable(os.path.realpath(factory.getbasetemp()))
        # A test that parametrizes gvisor_platform directly passes the fixture, and its check, by.
        with fail_misuse(), prefix_location(item):
            platform = setting_values.platform(gvisor_platform, "gvisor_platform")
        with fail_misuse():
            kept = None if settings.keep is Keep.NONE else _Kept(self._request, settings)
        with as_outcome(item, settings):
            engine.availability(platform, settings).check()
            if settings.image is not None:
                engine.images().rootfs(settings.image)
            harness = engine.gvisor(platform, settings, _hooks(item, kept), project=self._project())
        record_harness(item, harness)
        if kept is not None:
            item.stash[_kept_key] = kept
        yield harness
        harness.close()
        for problem in kept.problems if kept else ():
            warnings.warn(PytestGvisorWarning(f"not kept: {problem}"), stacklevel=1)
        warn_of_leaks(harness)

    def gvisor_sandboxes(self) -> SharedSandboxes:
        """See the fixture."""
        return SharedSandboxes(*self._of_session(), markers.running(self._config))

    def gvisor_snapshot(self) -> SharedSnapshots:
        """See the fixture."""
        return SharedSnapshots(*self._of_session())

    def gvisor_image(self) -> ImageFactory:
        """See the fixture."""
        return ImageFactory(engine_of(self._config), run_settings(self._config))

    def oci_bundle(self, tmp_path_factory: pytest.TempPathFactory) -> BundleFactory:
        """See the fixture."""
        settings, images = self._settings(), engine_of(self._config).images
        with fail_misuse():
            shown = self._project()
        base = tmp_path_factory.mktemp("bundles")
        numbers = itertools.count()

        def make(args: Args, **options: Any) -> Bundle:
            folder = base / f"bundle-{next(numbers)}"
            return write_bundle(folder, args, settings, shown, images=images, **options)

        return make

    def _settings(self) -> Settings:
        with fail_misuse():
            return settings_of(self._request.node)

    def _binary(self, settings: Settings) -> Runsc:
        with fail_misuse(), skip_missing(settings):
            return engine_of(self._config).binary(settings)

    def _of_session(self) -> tuple[Engine, Settings, Project]:
        settings = resolve_image_path(run_settings(self._config), self._config)
        with fail_misuse():
            return engine_of(self._config), settings, self._project()

    def _project(self) -> Project:
        """Return the root folder, and the names that workloads are not shown.

        Raises `UsageError`.
        """
        hidden = project.patterns(self._config.getini(project.KEY))
        return Project(root=str(self._config.rootpath), hidden=hidden)


class ImageFactory:
    """The type of ``gvisor_image``.

    If docker is needed and missing, the test is skipped, or fails with ``--gvisor-strict``.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    def __call__(self, image: str | os.PathLike[str], **options: Any) -> Rootfs:
        """Return the root file system of an image, for ``gvisor.run(rootfs=…)``.

        ``image`` is an archive or folder, or the name of an image of a docker daemon. Of
        ``options``, ``limits`` is a `Limits`. For a daemon's image ``pull`` is ``"missing"``,
        ``"always"`` or ``"never"``. Raises `ImageError` or `UsageError`.
        """
        if "remote" in options:
            raise UsageError("remote= is removed", next_step=removed.IMAGES["remote"])
        with skip_missing(self._settings):
            return self._engine.images().rootfs(image, **options)

    def __getattr__(self, name: str) -> Any:
        """Raise `UsageError` for ``build``, which is removed."""
        if name == "build":
            raise UsageError("gvisor_image.build is removed", next_step=removed.IMAGES["build"])
        raise AttributeError(name)


class _Kept:
    """The folder for a test's kept runs, made with the first of them.

    ``problems`` says what could not be kept.
    """

    def __init__(self, request: pytest.FixtureRequest, settings: Settings) -> None:
        if not request.config.pluginmanager.has_plugin("tmpdir"):
            raise UsageError("--gvisor-keep needs pytest's tmpdir plugin; drop -p no:tmpdir")
        self._base: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
        self.wanted = settings.keep
        self.folder = ""
        self._numbers = itertools.count()
        self.problems: list[str] = []

    def __call__(self, workspace: Workspace, record: Record) -> None:
        try:
            self.folder = self.folder or str(self._base.mktemp("gvisor"))
            keep(os.path.join(self.folder, f"run-{next(self._numbers)}"), workspace, record)
        except OSError as error:
            self.problems.append(str(error))


_kept_key = pytest.StashKey[_Kept]()


def settle_kept_runs(item: pytest.Item) -> None:
    """Remove the kept runs of a test that has passed in every phase, if only failed ones are
    wanted.
    """
    kept = item.stash.get(_kept_key, None)
    if kept and kept.folder and kept.wanted is Keep.FAILED and not has_failed(item):
        shutil.rmtree(kept.folder, ignore_errors=True)


def _hooks(item: pytest.Item, kept: _Kept | None) -> Hooks:
    hook = item.ihook

    def modify(config_json: dict[str, Any]) -> None:
        hook.pytest_gvisor_modify_spec(item=item, config_json=config_json)

    def flags() -> list[str]:
        answers = hook.pytest_gvisor_runsc_args(item=item)
        return [flag for answer in answers for flag in answer]

    def finished(record: Record) -> None:
        record_run(item, record)
        hook.pytest_gvisor_run_finished(item=item, completed=record.completed, error=record.error)

    return Hooks(
        # Without one, the sandbox need not have a root folder of its own.
        modify_spec=modify if hook.pytest_gvisor_modify_spec.get_hookimpls() else None,
        runsc_args=flags,
        run_finished=finished,
        keep=kept,
    )
