"""The command line, the environment and the ini file: how each becomes a `Settings`.

Precedence: the ``gvisor`` marker, the command line, the environment (``PYTEST_GVISOR_…``), the ini
file, the default.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from pytest_gvisor import settings as words
from pytest_gvisor.errors import UsageError
from pytest_gvisor.settings import Settings

_Ini = Literal["string", "bool"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One setting as users can write it; ``field`` is its name in `Settings`."""

    name: str
    field: str
    help: str
    ini: _Ini | None = "string"
    action: str = "store"
    metavar: str | None = None

    @property
    def dest(self) -> str:
        """Where argparse puts it; also the name of the ini key."""
        return "gvisor_" + self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "PYTEST_" + self.dest.upper()


OPTIONS = (
    Option(
        name="platform",
        field="platforms",
        action="append",
        metavar="NAMES",
        help="auto (default: systrap where the binary has it, else ptrace), all, or a comma list "
        "of systrap, kvm, ptrace; may be repeated. With two or more, every test that uses a "
        "sandbox runs once per platform.",
    ),
    Option(
        name="network",
        field="network",
        metavar="MODE",
        help="none (default: loopback only), sandbox (gVisor's own stack), or host.",
    ),
    Option(
        name="runsc",
        field="runsc",
        metavar="PATH",
        help="use this binary and search no other; it is validated all the same.",
    ),
    Option(
        name="strict",
        field="strict",
        ini="bool",
        action="store_true",
        help="fail what would be skipped for want of runsc or a platform.",
    ),
    Option(
        name="timeout",
        field="timeout",
        metavar="SECONDS",
        help="deadline of one workload (default: 60).",
    ),
    Option(
        name="rootless",
        field="rootless",
        metavar="WHEN",
        help="auto (default: on where the effective uid is not 0), on, or off.",
    ),
    Option(
        name="debug",
        field="debug",
        ini=None,
        action="store_true",
        help="show runsc's own logs and an strace of the workload in reports of failed tests.",
    ),
    Option(
        name="keep",
        field="keep",
        metavar="WHOSE",
        help="keep bundle, logs and a replay.sh under pytest's base temp: none (default), failed, "
        "or all.",
    ),
)


def add_options(parser: pytest.Parser) -> None:
    """Declare the options and ini keys."""
    group = parser.getgroup("gvisor", "workloads under gVisor (pytest-gvisor)")
    for option in OPTIONS:
        sources = f" Environment: {option.variable}."
        if option.ini is not None:
            sources += f" Ini: {option.dest}."
            parser.addini(option.dest, option.help, type=option.ini, default=None)
        keywords: dict[str, Any] = {} if option.metavar is None else {"metavar": option.metavar}
        group.addoption(
            f"--gvisor-{option.name}",
            action=option.action,
            dest=option.dest,
            default=None,
            help=option.help + sources,
            **keywords,
        )


def written(config: pytest.Config, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The settings that anyone has written, by field, each from its strongest source."""
    found: dict[str, Any] = {}
    for option in OPTIONS:
        value = config.getoption(option.dest, None)
        if value is None:
            value = environ.get(option.variable)
        if value is None and option.ini is not None:
            # An ini key of type bool that is not written reads as its default, here None.
            value = config.getini(option.dest)
        if value not in (None, ""):
            found[option.field] = value
    return found


def read_settings(config: pytest.Config) -> Settings:
    """The run's settings. Raises `pytest.UsageError` for one that cannot be meant."""
    try:
        return words.replaced(Settings(), written(config))
    except UsageError as error:
        raise pytest.UsageError(f"pytest-gvisor: {error}") from error


_MARKER_ONLY_FROM_OUTSIDE = ("strict", "keep", "debug")


def settings_of(item: pytest.Item, settings: Settings) -> Settings:
    """``settings`` with what the test's ``gvisor`` markers say; the closest marker is strongest.

    Raises `UsageError` that names the test.
    """
    where = f"{item.nodeid} ({item.location[0]}:{(item.location[1] or 0) + 1})"
    for mark in reversed(list(item.iter_markers("gvisor"))):
        if mark.args:
            raise UsageError(f"{where}: @pytest.mark.gvisor takes keywords only, not {mark.args!r}")
        for name in _MARKER_ONLY_FROM_OUTSIDE:
            if name in mark.kwargs:
                raise UsageError(f"{where}: {name} is decided on the command line, not by a marker")
        try:
            settings = words.replaced(settings, mark.kwargs)
        except UsageError as error:
            raise UsageError(f"{where}: @pytest.mark.gvisor: {error.message}") from error
    return settings
