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

from pytest_gvisor import setting_values
from pytest_gvisor.errors import PytestGvisorWarning, UsageError
from pytest_gvisor.plugin import markers
from pytest_gvisor.plugin.precedence import (
    prefix_location,
    resolve_image_path,
    run_settings,
    settings_of,
)
from pytest_gvisor.plugin.skips import fail_misuse, skip_missing
from pytest_gvisor.plugin.stash import engine_of, has_failed, record_harness, record_run
from pytest_gvisor.settings import Keep, Platform, Settings

if TYPE_CHECKING:
    from pytest_gvisor.harness.engine import Engine
    from pytest_gvisor.harness.gvisor import Gvisor
    from pytest_gvisor.oci.bundle import Bundle
    from pytest_gvisor.oci.rootfs import Rootfs
    from pytest_gvisor.plugin.shared_sandboxes import Shared, SharedSnapshots
    from pytest_gvisor.run.project import Project
    from pytest_gvisor.run.request import Hooks, Record, Workspace
    from pytest_gvisor.runsc.binary import Runsc


class BundleFactory(Protocol):
    """The type of ``oci_bundle``. Takes the arguments of `Gvisor.run` but input and deadline."""

    def __call__(self, args: list[str], **options: Any) -> Bundle:
        """Write a bundle for ``args``."""


def runsc(request: pytest.FixtureRequest) -> Runsc:
    """See the fixture."""
    settings = run_settings(request.config)
    with fail_misuse(), skip_missing(settings):
        return engine_of(request.config).binary(settings)


def gvisor_runsc(request: pytest.FixtureRequest) -> Runsc:
    """See the fixture."""
    settings = _settings(request)
    if getattr(request, "param", None) is None:
        labels = [release.label for release in settings.releases]
        markers.warn_of_others(request.node, settings, labels)
    with fail_misuse(), skip_missing(settings):
        return engine_of(request.config).binary(settings)


def gvisor_platform(request: pytest.FixtureRequest) -> Platform:
    """See the fixture."""
    settings = _settings(request)
    asked = getattr(request, "param", None)
    if asked is None:
        markers.warn_of_others(request.node, settings, settings.platforms)
    platform = markers.choose_platform(request.node, settings, asked)
    markers.check_platform(request.node, settings, platform)
    markers.add_xfail(request.node, platform)  # a project's own fixture may have asked for it
    return platform


@contextlib.contextmanager
def gvisor(request: pytest.FixtureRequest, gvisor_platform: Platform) -> Iterator[Gvisor]:
    """See the fixture. Closed at the end, with a warning of all that was not removed."""
    settings = _settings(request)
    engine = engine_of(request.config)
    # A test that parametrizes gvisor_platform directly passes the fixture, and its check, by.
    with fail_misuse(), prefix_location(request.node):
        platform = setting_values.platform(gvisor_platform, "gvisor_platform")
    with fail_misuse():
        kept = _Kept(request, settings)
    with fail_misuse(), skip_missing(settings), prefix_location(request.node):
        engine.availability(platform, settings).check()
        if settings.image is not None:
            engine.images().rootfs(settings.image)
        harness = engine.gvisor(
            platform, settings, _hooks(request.node, kept), _project(request.config)
        )
    # A fixture of the project's in the place of gvisor_platform may have another than was foreseen.
    markers.add_xfail(request.node, platform)
    record_harness(request.node, harness)
    request.node.stash[_kept_key] = kept
    yield harness
    harness.close()
    for problem in kept.problems:
        warnings.warn(PytestGvisorWarning(f"not kept: {problem}"), stacklevel=1)
    for record in harness.records:
        for leak in record.completed.leaks if record.completed else ():
            warnings.warn(PytestGvisorWarning(f"not removed: {leak}"), stacklevel=1)


def gvisor_sandboxes(request: pytest.FixtureRequest) -> Shared:
    """See the fixture."""
    from pytest_gvisor.plugin.shared_sandboxes import Shared  # noqa: PLC0415 -- heavy, see above

    return Shared(*_of_session(request))


def gvisor_snapshot(request: pytest.FixtureRequest) -> SharedSnapshots:
    """See the fixture."""
    from pytest_gvisor.plugin.shared_sandboxes import SharedSnapshots  # noqa: PLC0415 -- heavy

    return SharedSnapshots(*_of_session(request))


def _of_session(request: pytest.FixtureRequest) -> tuple[Engine, Settings, Project]:
    settings = resolve_image_path(run_settings(request.config), request.config)
    with fail_misuse():
        project = _project(request.config)
    return engine_of(request.config), settings, project


def oci_bundle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> BundleFactory:
    """See the fixture."""
    settings = _settings(request)
    with fail_misuse():
        project = _project(request.config)
    images = engine_of(request.config).images
    base = tmp_path_factory.mktemp("bundles")
    numbers = itertools.count()

    def make(args: list[str], **options: Any) -> Bundle:
        from pytest_gvisor.run.specification import write_bundle  # noqa: PLC0415 -- heavy, see above

        folder = base / f"bundle-{next(numbers)}"
        return write_bundle(folder, args, settings, project, images=images, **options)

    return make


class ImageFactory:
    """The type of ``gvisor_image``; ``limits`` are `Limits` of an unpacked image.

    No daemon skips the test, or fails it when strict.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    def __call__(self, image: str | os.PathLike[str], **options: Any) -> Rootfs:
        """Return the root file system of an image; ``pull`` and ``remote`` are for a daemon's."""
        with skip_missing(self._settings):
            return self._engine.images().rootfs(image, **options)

    def build(self, path: str | os.PathLike[str], **options: Any) -> Rootfs:
        """Have a daemon build a folder, and return the image's root file system."""
        with skip_missing(self._settings):
            return self._engine.images().build(path, **options)


def gvisor_image(request: pytest.FixtureRequest) -> ImageFactory:
    """See the fixture."""
    return ImageFactory(engine_of(request.config), run_settings(request.config))


def _settings(request: pytest.FixtureRequest) -> Settings:
    with fail_misuse():
        return settings_of(request.node)


class _Kept:
    """The folder for a test's kept runs, made with the first of them.

    ``problems`` says what could not be kept.
    """

    def __init__(self, request: pytest.FixtureRequest, settings: Settings) -> None:
        self._wanted = settings.keep
        self._folder: str | None = None
        self._numbers = itertools.count()
        self._base: pytest.TempPathFactory | None = None
        self.problems: list[str] = []
        if self._wanted is not Keep.NONE:
            if not request.config.pluginmanager.has_plugin("tmpdir"):
                raise UsageError("--gvisor-keep needs pytest's tmpdir plugin; drop -p no:tmpdir")
            self._base = request.getfixturevalue("tmp_path_factory")

    def __call__(self, workspace: Workspace, record: Record) -> None:
        if self._base is None:
            return
        from pytest_gvisor.run.kept import keep  # noqa: PLC0415 -- only where something is kept

        try:
            if self._folder is None:
                self._folder = str(self._base.mktemp("gvisor"))
            keep(os.path.join(self._folder, f"run-{next(self._numbers)}"), workspace, record)
        except OSError as error:
            self.problems.append(str(error))

    def remove_if_passed(self, item: pytest.Item) -> None:
        """Remove the kept runs of a test that has passed, if only failed ones are wanted."""
        if self._folder is not None and self._wanted is Keep.FAILED and not has_failed(item):
            shutil.rmtree(self._folder, ignore_errors=True)


_kept_key = pytest.StashKey[_Kept]()


def settle_kept_runs(item: pytest.Item) -> None:
    """Settle a test's kept runs when every phase is over and has its report."""
    if _kept_key in item.stash:
        item.stash[_kept_key].remove_if_passed(item)


def _hooks(item: pytest.Item, kept: _Kept) -> Hooks:
    from pytest_gvisor.run.request import Hooks  # noqa: PLC0415 -- heavy, see above

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
        modify_spec=modify,
        has_modifiers=lambda: bool(hook.pytest_gvisor_modify_spec.get_hookimpls()),
        runsc_args=flags,
        run_finished=finished,
        keep=kept,
    )


def _project(config: pytest.Config) -> Project:
    """Return the root folder, and the names that workloads are not shown. Raises `UsageError`."""
    from pytest_gvisor.run import project  # noqa: PLC0415 -- only for who runs workloads

    hidden = project.patterns(config.getini(project.KEY))
    return project.Project(root=str(config.rootpath), hidden=hidden)
