"""The run's own settings of tests inside, read from its options and ini keys."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from pytest_gvisor.base import setting_values
from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.settings import Isolation
from pytest_gvisor.inside.view import environment, users, visible, writable
from pytest_gvisor.plugin.placement import FIELDS
from pytest_gvisor.plugin.skips import misuse_ends_session


@dataclass(frozen=True, kw_only=True)
class Inside:
    """The settings of a pytest inside, apart from those of any sandbox."""

    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The environment variables."""

    held_back: tuple[str, ...] = ()
    """Names of the host's variables that tests inside may miss."""

    readable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Files and folders of the host that are shown beside the project, with their real paths."""

    writable: tuple[str, ...] = ()
    """Folders of the host that writes go through to."""


def inside(config: pytest.Config) -> Inside:
    """Read the settings of a pytest inside. Raises `pytest.UsageError`."""
    # The last entry that matches a name counts.
    entries = [*config.getini(environment.KEY), *config.getoption(environment.KEY)]
    with misuse_ends_session():
        writable.check(config)
        users.of_run(config)
        env = environment.environment(entries, os.environ)
        return Inside(
            env=env,
            held_back=tuple(environment.held_back(env, os.environ)),
            readable=visible.readable(config),
            writable=tuple(config.getoption("gvisor_writable")),
        )


def isolation(config: pytest.Config) -> Isolation:
    """Read ``--gvisor-isolation``. Raises `pytest.UsageError`."""
    written = config.getoption("gvisor_isolation") or "session"
    with misuse_ends_session():
        return setting_values.word(Isolation, written, "isolation")


def check(config: pytest.Config) -> None:
    """Raise `pytest.UsageError` for an option or ini key that makes no sense."""
    isolation(config)
    if names := config.getini(FIELDS):
        from pytest_gvisor.inside.wire.fields import is_free  # noqa: PLC0415 -- a start would wait

        if wrong := [name for name in names if not is_free(name)]:
            raise pytest.UsageError(
                f"pytest-gvisor: {FIELDS}: {wrong[0]!r} is no attribute that a project may add to "
                "reports. Name one that hooks of this project set and read."
            )
    if not config.getoption("no_gvisor"):
        inside(config)


def header(config: pytest.Config) -> Iterator[str]:
    """Yield a line on variables that tests inside do not get, and one on packages that they see.

    No folder of ``sys.path`` has these packages.
    """
    if names := inside(config).held_back:
        told = "-v names them" if config.get_verbosity() <= 0 else escape(", ".join(names))
        yield f"gvisor: {len(names)} environment variables are held back (--gvisor-env): {told}"
    if found := ", ".join(visible.named_packages(config)):
        yield f"gvisor: packages shown beside sys.path: {escape(found)}"
