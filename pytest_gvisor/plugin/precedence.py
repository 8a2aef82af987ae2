"""Settings from the values that users have written: for the run, and for one test.

Precedence: the ``gvisor`` marker, the command line, the environment (``PYTEST_GVISOR_…``), the ini
file, the default.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping

import pytest

from pytest_gvisor.base import setting_values
from pytest_gvisor.base import settings as words
from pytest_gvisor.base.errors import LaunchError, RunscError, UsageError
from pytest_gvisor.base.setting_table import BY_NAME
from pytest_gvisor.base.settings import Settings
from pytest_gvisor.plugin.options import written
from pytest_gvisor.plugin.placement import already_inside, params_of, variant_of
from pytest_gvisor.plugin.skips import location, misuse_ends_session, prefix_location
from pytest_gvisor.plugin.stash import engine_of

_key = pytest.StashKey[Settings]()
RELEASE_FIXTURE = "gvisor_runsc"
"""The fixture by which a matrix over releases is parametrized."""


def run_settings(config: pytest.Config) -> Settings:
    """Return the run's settings, read once. Raises `pytest.UsageError` for an invalid one."""
    if _key not in config.stash:
        settings = Settings()
        for field, (value, source) in written(config).items():
            with misuse_ends_session(f"{source}: "):
                if field == "runsc" and isinstance(value, list):
                    settings = words.with_binaries(settings, value, field)
                else:
                    settings = words.replaced(settings, {field: value})
        config.stash[_key] = settings
    return config.stash[_key]


def check_platforms(config: pytest.Config) -> None:
    """Raise `pytest.UsageError` for a platform of the run that no binary lists.

    Only a name that this version does not know costs a look at the binary. Where there is none to
    look at, no test runs on any platform, and each says so itself.
    """
    settings = run_settings(config)
    if settings.native and (where := already_inside()):
        raise pytest.UsageError(
            f"pytest-gvisor: the platform native is the host, and this pytest is inside {where}: "
            "leave native out, or run it on the host"
        )
    for platform in settings.platforms:
        if platform.is_known:
            continue
        _value, source = written(config)["platforms"]
        with misuse_ends_session(f"{source}: "), contextlib.suppress(RunscError, LaunchError):
            engine_of(config).check_listed(platform, settings)


def expected_failures(item: pytest.Item) -> dict[str, str]:
    """Return the platforms, and ``native``, on which a test's markers expect it to fail, and why.

    The closest marker wins.
    """
    found: dict[str, str] = {}
    for mark in item.iter_markers("gvisor"):
        reasons = mark.kwargs.get("xfail")
        if isinstance(reasons, Mapping):
            found = {**reasons, **found}
    return found


def settings_of(item: pytest.Item) -> Settings:
    """Return the run's settings with those of the test's ``gvisor`` markers; the closest wins.

    Raises `UsageError` that names the test.
    """
    settings = run_settings(item.config)
    for mark in reversed(list(item.iter_markers("gvisor"))):
        where = location(item)
        if mark.args:
            raise UsageError(f"{where}: @pytest.mark.gvisor takes keywords only, not {mark.args!r}")
        for name in mark.kwargs:
            if name == "release":
                raise UsageError(f"{where}: write @pytest.mark.requires_runsc('>=…') for a release")
            if name in BY_NAME and "marker" not in BY_NAME[name].sources:
                raise UsageError(f"{where}: {name} is decided on the command line, not by a marker")
        changes = {name: value for name, value in mark.kwargs.items() if name != "xfail"}
        try:
            if "xfail" in mark.kwargs:
                setting_values.expected_failures(mark.kwargs["xfail"])
            settings = words.replaced(settings, changes)
        except UsageError as error:
            raise UsageError(f"{where}: @pytest.mark.gvisor: {error.message}") from error
    if settings.releases:
        with prefix_location(item):
            settings = _select_release(settings, item)
    return resolve_image_path(settings, item.config)


def _select_release(settings: Settings, item: pytest.Item) -> Settings:
    """Return the settings with the binary in the test's id, or else the first of several."""
    variant = variant_of(item)
    label = params_of(item).get(RELEASE_FIXTURE) if variant is None else variant.release
    return settings if label is None else words.on_release(settings, label)


def resolve_image_path(settings: Settings, config: pytest.Config) -> Settings:
    """Return the settings with the image's path relative to where pytest was started.

    Tests change the current folder.
    """
    if settings.image is None:
        return settings
    from pytest_gvisor.images import choose  # noqa: PLC0415 -- only for who has an image

    image = choose.placed(settings.image, str(config.invocation_params.dir))
    return dataclasses.replace(settings, image=image)
