"""The fixtures. Everything heavy is imported when a test asks for it."""

from __future__ import annotations

import itertools
import os
import shutil
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_gvisor import settings as words
from pytest_gvisor.errors import PytestGvisorWarning, UsageError
from pytest_gvisor.options import location, settings_of
from pytest_gvisor.settings import Keep, Platform, Settings
from pytest_gvisor.state import engine_of, remember, required, settings_key, usage

if TYPE_CHECKING:
    from pytest_gvisor.harness import Gvisor, Hooks
    from pytest_gvisor.launch.runner import Record, Workspace
    from pytest_gvisor.oci.bundle import Bundle
    from pytest_gvisor.runsc.binary import Runsc
    from pytest_gvisor.sandbox.shared import Shared
    from pytest_gvisor.sandbox.warm import Sandbox


class BundleFactory(Protocol):
    """What ``oci_bundle`` is: arguments as for `Gvisor.run`, apart from input and deadline."""

    def __call__(self, args: list[str], **options: Any) -> Bundle:
        """Write a bundle for ``args``."""


@pytest.fixture(scope="session")
def runsc(request: pytest.FixtureRequest) -> Runsc:
    """The validated runsc. Skips (or fails, when strict) if there is none; a refused one fails."""
    settings = request.config.stash[settings_key]
    with required(settings):
        return engine_of(request.config).runsc(settings.runsc)


@pytest.fixture
def gvisor_platform(request: pytest.FixtureRequest) -> Platform:
    """The platform that this test runs on; one that does not work skips or, if strict, fails."""
    settings = _settings(request)
    engine = engine_of(request.config)
    with required(settings):
        asked = getattr(request, "param", None)
        platform = engine.platforms_of(settings)[0] if asked is None else _platform(request, asked)
        engine.availability(platform, settings).check()
    return platform


@pytest.fixture
def gvisor(request: pytest.FixtureRequest, gvisor_platform: Platform) -> Iterator[Gvisor]:
    """Runs workloads under gVisor: ``gvisor.run(["python3", "-c", "…"])``."""
    settings = _settings(request)
    engine = engine_of(request.config)
    # A test that parametrizes gvisor_platform directly passes the fixture, and its check, by.
    platform = _platform(request, gvisor_platform)
    with usage():
        kept = _Kept(request, settings)
    with required(settings):
        engine.availability(platform, settings).check()
        harness = engine.gvisor(platform, settings, _hooks(request.node, kept))
    remember(request.node, harness)
    request.node.stash[_kept_key] = kept
    yield harness
    harness.close()
    for problem in kept.problems:
        warnings.warn(PytestGvisorWarning(f"not kept: {problem}"), stacklevel=1)
    for record in harness.records:
        for leak in record.completed.leaks if record.completed else ():
            warnings.warn(PytestGvisorWarning(f"not removed: {leak}"), stacklevel=1)


@pytest.fixture
def gvisor_sandbox(gvisor: Gvisor) -> Iterator[Sandbox]:
    """A warm sandbox: many ``gvisor_sandbox.exec(["true"])`` at the price of one start."""
    with gvisor.sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def gvisor_sandboxes(request: pytest.FixtureRequest) -> Iterator[Shared]:
    """Factory of warm sandboxes that the session shares: ``gvisor_sandboxes(platform, …)``."""
    from pytest_gvisor.sandbox.shared import Shared  # noqa: PLC0415 -- heavy, see above

    shared = Shared(engine_of(request.config), request.config.stash[settings_key])
    yield shared
    shared.close()


@pytest.fixture
def oci_bundle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> BundleFactory:
    """Factory: writes an OCI bundle with this test's settings and returns the `Bundle`.

    Run it with ``gvisor.run_bundle(bundle)``, or with anything else that runs OCI bundles.
    """
    settings = _settings(request)
    base = tmp_path_factory.mktemp("bundles")
    numbers = itertools.count()

    def make(args: list[str], **options: Any) -> Bundle:
        from pytest_gvisor.harness import write_bundle  # noqa: PLC0415 -- heavy, see above

        return write_bundle(base / f"bundle-{next(numbers)}", args, settings, **options)

    return make


def _settings(request: pytest.FixtureRequest) -> Settings:
    with usage():
        return settings_of(request.node, request.config.stash[settings_key])


def _platform(request: pytest.FixtureRequest, asked: object) -> Platform:
    """A platform from what a test has parametrized itself with."""
    with usage():
        try:
            return words.word(Platform, asked, "gvisor_platform")
        except UsageError as error:
            raise UsageError(f"{location(request.node)}: {error.message}") from error


class _Kept:
    """The folder where a test's runs are kept, made with the first of them.

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
        from pytest_gvisor.keep import keep  # noqa: PLC0415 -- only where something is kept

        try:
            if self._folder is None:
                self._folder = str(self._base.mktemp("gvisor"))
            keep(os.path.join(self._folder, f"run-{next(self._numbers)}"), workspace, record)
        except OSError as error:
            self.problems.append(str(error))

    def settle(self, item: pytest.Item) -> None:
        """Forget what was kept of a test that has passed, if only failed ones are wanted."""
        if self._folder is not None and self._wanted is Keep.FAILED and not failed(item):
            shutil.rmtree(self._folder, ignore_errors=True)


_kept_key = pytest.StashKey[_Kept]()


def settle(item: pytest.Item) -> None:
    """What is left to do when every phase of a test is over, and has its report."""
    if _kept_key in item.stash:
        item.stash[_kept_key].settle(item)


failed_key = pytest.StashKey[bool]()


def failed(item: pytest.Item) -> bool:
    """Whether a phase of the test has failed so far."""
    return item.stash.get(failed_key, False)


def _hooks(item: pytest.Item, kept: _Kept) -> Hooks:
    from pytest_gvisor.harness import Hooks  # noqa: PLC0415 -- heavy, see above

    hook = item.ihook

    def modify(config_json: dict[str, Any]) -> None:
        hook.pytest_gvisor_modify_spec(item=item, config_json=config_json)

    def flags() -> list[str]:
        answers = hook.pytest_gvisor_runsc_args(item=item)
        return [flag for answer in answers for flag in answer]

    def finished(record: Record) -> None:
        hook.pytest_gvisor_run_finished(item=item, completed=record.completed, error=record.error)

    return Hooks(modify_spec=modify, runsc_args=flags, run_finished=finished, keep=kept)
