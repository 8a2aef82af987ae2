"""The command that repeats one test on one platform, for pasting where pytest was started."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_gvisor.base.setting_table import SETTINGS
from pytest_gvisor.plugin.placement import already_inside, native_key, variant_of

if TYPE_CHECKING:
    from pytest_gvisor.base.settings import Settings

_PYTEST = ("python", "-m", "pytest")
# What is taken over from this run's command line: of every test the settings of its sandboxes,
# which a marker may decide too, and more of tests inside.
_REPEATED = [one for one in SETTINGS if {"marker", "command line"} <= {*one.sources}]
_REPEATED_INSIDE = ("isolation", "env", "user", "readable", "writable")


def command(item: pytest.Item, settings: Settings, platform: str, *more: str) -> str:
    """Return the command for a shell, with ``more`` arguments at its end.

    ``platform`` is the one that the test runs on; ``auto`` where nobody has chosen one.
    """
    config, variant = item.config, variant_of(item)
    if native_key in item.stash:
        where = "--in-gvisor" if already_inside() else "--no-gvisor"
        words = [_from_here(config, item.stash[native_key]), where]
        return shlex.join([*_PYTEST, *words, *more])
    own = _from_here(config, item.nodeid if variant is None else variant.inner)
    marked = item.get_closest_marker("in_gvisor") is not None
    words = _words(config, settings, platform, inside=variant is not None, marked=marked)
    return shlex.join([*_PYTEST, own, *words, *more])


def section(*commands: str) -> tuple[str, str]:
    """Return the section of a failed report that has these commands, a line each."""
    return "gvisor: to repeat this test", "\n".join(f"again: {one}" for one in commands)


def _words(
    config: pytest.Config, settings: Settings, platform: str, *, inside: bool, marked: bool
) -> list[str]:
    """Return the arguments after the test's id."""
    # All platforms of a test on the host: its id names one only where there are several. A test
    # inside is collected under its own id, whichever platforms there are.
    platforms: Sequence[str] = settings.platforms or ([] if platform == "auto" else [platform])
    words: list[str] = []
    if platforms:
        words += ["--gvisor-platform", platform if inside else ",".join(platforms)]
    if inside and not marked:
        words.append("--in-gvisor")
    for setting in _REPEATED:
        if setting.kind == "binary" and settings.label and inside:
            words.append(f"--gvisor-runsc={settings.runsc}")  # under its own id it has no label
        elif setting.kind != "platforms":
            words += _written(config, setting.written)
    for name in _REPEATED_INSIDE if inside else ():
        words += _written(config, name)
    return words


def _written(config: pytest.Config, name: str) -> list[str]:
    """Return an option in the form of the command line, as often as it was given."""
    value = config.getoption(f"gvisor_{name}", None)
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [f"--gvisor-{name}" + ("" if one is True else f"={one}") for one in values]


def _from_here(config: pytest.Config, nodeid: str) -> str:
    """Convert a node id, relative to the root folder, to an argument where pytest was started."""
    path, colons, name = nodeid.partition("::")
    here = config.invocation_params.dir
    if here != config.rootpath:
        path = os.path.relpath(config.rootpath / path, here)
    return f"{path}{colons}{name}"
