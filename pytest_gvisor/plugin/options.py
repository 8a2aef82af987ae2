"""The options' declarations, and the values that users have written for them.

Light: every session imports this. What is written is read by `precedence`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import pytest

_Ini = Literal["string", "args", "float", "bool"]


class Option(NamedTuple):
    """A setting for users; ``field`` is its name in `Settings`."""

    name: str
    field: str
    help: str
    ini: _Ini | None = "string"
    action: str = "store"
    metavar: str | None = None
    ini_only: bool = False
    """Whether it is a property of the project, for which there is no option and no variable."""

    @property
    def dest(self) -> str:
        """The attribute for argparse; also the name of the ini key."""
        return "gvisor_" + self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "PYTEST_" + self.dest.upper()


OPTIONS = (
    Option(
        name="platform",
        field="platforms",
        ini="args",
        action="append",
        metavar="NAMES",
        help="auto (default, alone: systrap where the binary has it, else what it has), all, or a "
        "comma list of systrap, kvm, ptrace and others that the binary lists; may be repeated. "
        "With two or more, every test that uses a sandbox runs once per platform. With native "
        "among them, tests inside also run on the host.",
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
        action="append",
        metavar="[LABEL=]PATH",
        help="use this binary and search no other; it is validated all the same. Of several the "
        "last counts. LABEL=PATH, given twice or more on the command line: every test that uses a "
        "sandbox runs once per release.",
    ),
    Option(
        name="release",
        field="release",
        ini_only=True,
        help="the releases of runsc that will do: comparisons such as >=20240729, with commas "
        "between them. Where another is found, each test with a sandbox is an error.",
    ),
    Option(
        name="strict",
        field="strict",
        ini="bool",
        action="store_true",
        help="fail what would be skipped for want of runsc, a platform or docker.",
    ),
    Option(
        name="reprobe",
        field="reprobe",
        ini=None,
        action="store_true",
        help="try platforms again on which the probe of an earlier run of this boot hung.",
    ),
    Option(
        name="timeout",
        field="timeout",
        ini="float",
        metavar="SECONDS",
        help="deadline of one workload (default: 60).",
    ),
    Option(
        name="rootless",
        field="rootless",
        metavar="WHEN",
        help="auto (default: on where CAP_SYS_ADMIN is missing), on, or off.",
    ),
    Option(
        name="image",
        field="image",
        metavar="IMAGE",
        help="the root file system of workloads, instead of the host's system folders: an archive "
        "of docker save, an OCI archive or layout folder, a rootfs tarball, or the name of an "
        "image of a docker daemon.",
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
        help="keep bundle, logs and a replay.sh of each run of gvisor and gvisor_sandbox under "
        "pytest's base temp: none (default), failed, or all. Nothing of gvisor_sandboxes, or of "
        "tests inside.",
    ),
    Option(
        name="report",
        field="report",
        ini="args",
        action="append",
        metavar="FILE",
        help="write what came of each test on each platform to FILE, whose name ends with .html, "
        ".json or .md; may be repeated.",
    ),
)


_GROUP = "workloads under gVisor (precedence: marker, command line, environment, ini file, default)"


def add_options(parser: pytest.Parser) -> None:
    """Declare the options and ini keys."""
    group = parser.getgroup("gvisor", _GROUP)
    for option in OPTIONS:
        sources = f" Environment: {option.variable}."
        if option.ini is not None:
            sources += f" Ini: {option.dest}."
            parser.addini(option.dest, option.help, type=option.ini, default=None)
        if option.ini_only:
            continue
        keywords: dict[str, Any] = {} if option.metavar is None else {"metavar": option.metavar}
        group.addoption(
            f"--gvisor-{option.name}",
            action=option.action,
            dest=option.dest,
            default=None,
            help=option.help + sources,
            **keywords,
        )


class Written(NamedTuple):
    """A setting that a user has written, with its source."""

    value: Any
    source: str


def written(config: pytest.Config, environ: Mapping[str, str] = os.environ) -> dict[str, Written]:
    """Return the written settings by field, each from the source with the highest precedence.

    An environment variable or ini key that is empty says nothing. Raises `pytest.UsageError` for
    an ini key of a wrong type.
    """
    found: dict[str, Written] = {}
    for option in OPTIONS:
        value = None if option.ini_only else config.getoption(option.dest, None)
        if value is not None:
            found[option.field] = Written(value=value, source=f"--gvisor-{option.name}")
        elif not option.ini_only and (value := environ.get(option.variable)):
            found[option.field] = Written(value=value, source=option.variable)
        elif (value := _ini(config, option)) not in (None, "", []):
            found[option.field] = Written(value=value, source=f"{option.dest} in {config.inipath}")
    return found


def _ini(config: pytest.Config, option: Option) -> Any:
    """Return the value in the ini file; None if it has none."""
    try:
        return None if option.ini is None else config.getini(option.dest)
    except (TypeError, ValueError, pytest.UsageError) as error:
        text = f"pytest-gvisor: {option.dest} in {config.inipath}: {error}"
        raise pytest.UsageError(text) from error
