"""The table of settings: the name, kind, default, sources and help of each. Light: always imported.

`pytest_gvisor.settings` holds the type of each setting for type checkers, and reads values by kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal[
    "platforms", "network", "rootless", "keep", "binary", "path", "release", "flag", "seconds",
    "size", "count", "files", "number", "bytes", "reports",
]  # fmt: skip
"""The kind of a setting's values: `pytest_gvisor.settings` has one reader for each."""

Source = Literal["call", "marker", "command line", "environment", "ini"]
"""A place where a setting can be written: ``call`` is an argument of `Gvisor.run` and its like."""

_NONE: Mapping[str, Argument] = {}
DEFAULT_TIMEOUT = 60.0
DEFAULT_MAX_OUTPUT = 16 * 1024 * 1024


class Argument:
    """An option of a ``pytest-gvisor`` command, in the form of its help."""

    __slots__ = ("help", "metavar")

    def __init__(self, help: str, metavar: str | None = None) -> None:  # noqa: A002 -- of argparse
        self.help = help
        self.metavar = metavar


class Setting:
    """One setting. ``help`` and ``metavar`` are of its option and ini key for pytest.

    A plain class: every session makes it, and dataclasses and tuples with names compile theirs.
    """

    __slots__ = (
        "commands", "default", "help", "key", "kind", "metavar", "name", "option",
        "sources", "variable", "written",
    )  # fmt: skip

    def __init__(
        self,
        *,
        name: str,
        kind: Kind,
        default: object,
        sources: tuple[Source, ...],
        help: str = "",  # noqa: A002 -- as argparse names it
        metavar: str | None = None,
        commands: Mapping[str, Argument] = _NONE,
        alias: str = "",
    ) -> None:
        self.name = name
        """Its field of `Settings`."""

        self.kind = kind
        self.default = default
        """Its value if no source has it. If that is None, users can write None too."""

        self.sources = sources
        self.help = help
        self.metavar = metavar
        self.commands = commands
        """The commands of ``pytest-gvisor`` that have it as an option."""

        self.written = alias or name
        """The name that users write."""

        self.option = f"--gvisor-{self.written}"
        """Its option for pytest: ``--gvisor-timeout``."""

        self.key = f"gvisor_{self.written}"
        """Its ini key, and where argparse puts the option: ``gvisor_timeout``."""

        self.variable = f"PYTEST_{self.key.upper()}"
        """Its environment variable: ``PYTEST_GVISOR_TIMEOUT``."""

    @property
    def command_option(self) -> str:
        """Its option for a command of ``pytest-gvisor``: ``--max-output``."""
        return f"--{self.written.replace('_', '-')}"


_SESSION: tuple[Source, ...] = ("command line", "environment", "ini")
_ALL: tuple[Source, ...] = ("call", "marker", *_SESSION)
_TEST: tuple[Source, ...] = ("call", "marker")

SETTINGS = (
    Setting(
        name="platforms",
        alias="platform",
        kind="platforms",
        default=(),
        sources=("marker", *_SESSION),
        metavar="NAMES",
        help="auto (default), all, or a comma list; may be repeated. auto is systrap. A list may "
        "name systrap, kvm, ptrace and others that the binary lists. With two or more, every test "
        "that uses a sandbox runs once per platform. With native among them, tests inside also "
        "run on the host.",
        commands={
            "run": Argument(
                "systrap, kvm, ptrace or another that the binary lists (default: auto)", "NAME"
            )
        },
    ),
    Setting(
        name="network",
        kind="network",
        default="none",
        sources=_ALL,
        metavar="MODE",
        help="none (default: loopback only), sandbox (gVisor's own stack), or host.",
        commands={"run": Argument("none, sandbox or host (default: none)", "MODE")},
    ),
    Setting(
        name="netns",
        kind="path",
        default=None,
        sources=_TEST,
        commands={"run": Argument("a network namespace to join, for sandbox", "PATH")},
    ),
    Setting(
        name="runsc",
        kind="binary",
        default=None,
        sources=("marker", *_SESSION),
        metavar="[LABEL=]PATH",
        help="use this binary, validated but without a search; the last one counts. With "
        "LABEL=PATH twice or more on the command line, every test that uses a sandbox runs once "
        "per release.",
        commands={
            "run": Argument("use this binary, without a search", "PATH"),
            "doctor": Argument("check this binary, without a search", "PATH"),
        },
    ),
    Setting(
        name="release",
        kind="release",
        default="",
        sources=("ini",),
        help="the allowed releases of runsc: comparisons such as >=20240729, with commas "
        "between them. If another is found, each test with a sandbox is an error.",
    ),
    Setting(
        name="strict",
        kind="flag",
        default=False,
        sources=_SESSION,
        help="fail tests that would be skipped because runsc, a platform or docker is missing.",
    ),
    Setting(
        name="timeout",
        kind="seconds",
        default=DEFAULT_TIMEOUT,
        sources=_ALL,
        metavar="SECONDS",
        help=f"deadline of one workload (default: {DEFAULT_TIMEOUT:g}).",
        commands={"run": Argument(f"deadline (default: {DEFAULT_TIMEOUT:g})", "SECONDS")},
    ),
    Setting(
        name="rootless",
        kind="rootless",
        default="auto",
        sources=_ALL,
        metavar="WHEN",
        help="auto (default: on where CAP_SYS_ADMIN is missing), on, or off.",
        commands={"run": Argument("auto, on or off (default: auto)", "WHEN")},
    ),
    Setting(
        name="image",
        kind="path",
        default=None,
        sources=_ALL,
        metavar="IMAGE",
        help="the root file system of workloads, instead of the host's system folders. IMAGE is "
        "a docker save archive, an OCI archive or layout, a rootfs tarball, or a docker daemon's "
        "image.",
        commands={
            "run": Argument("an image as root: an archive, or a docker daemon's", "REF"),
        },
    ),
    Setting(
        name="project",
        kind="flag",
        default=False,
        sources=("call", "marker", "ini"),
        help="show workloads the root folder and the sources of editable packages, read-only and "
        "without secrets, and start them there.",
    ),
    Setting(
        name="memory",
        kind="size",
        default=None,
        sources=_TEST,
        commands={"run": Argument("limit, for instance 256M; needs root", "SIZE")},
    ),
    Setting(
        name="pids",
        kind="count",
        default=None,
        sources=_TEST,
        commands={"run": Argument("limit; needs root", "N")},
    ),
    Setting(
        name="cpus",
        kind="number",
        default=None,
        sources=_TEST,
        commands={"run": Argument("limit in processors, for instance 0.5; needs root", "N")},
    ),
    Setting(
        name="shm",
        kind="size",
        default=None,
        sources=_ALL,
        metavar="SIZE",
        help="the size of /dev/shm, for instance 256M (default: as on the host); a limit on memory "
        "holds for it too.",
        commands={"run": Argument("the size of /dev/shm (default: as here)", "SIZE")},
    ),
    Setting(
        name="nofile",
        kind="files",
        default=None,
        sources=_ALL,
        metavar="N",
        help="the limit on open files of each process (default: as on the host).",
        commands={"run": Argument("limit on open files (default: as here)", "N")},
    ),
    Setting(
        name="max_output",
        kind="bytes",
        default=DEFAULT_MAX_OUTPUT,
        sources=_TEST,
        commands={
            "run": Argument(
                "the most to write of each stream, half head and half tail "
                f"(default: {DEFAULT_MAX_OUTPUT // 1024**2}M)",
                "SIZE",
            )
        },
    ),
    Setting(
        name="debug",
        kind="flag",
        default=False,
        sources=("call", "command line", "environment"),
        help="show runsc's own logs and an strace of the workload in reports of failed tests.",
        commands={
            "run": Argument(
                "the sentry's boot log and the last system calls, on standard error after the "
                "output"
            )
        },
    ),
    Setting(
        name="keep",
        kind="keep",
        default="none",
        sources=_SESSION,
        metavar="WHOSE",
        help="none (default), failed, or all: keep bundle, logs and a replay.sh of each run under "
        "pytest's base temp. Covers gvisor and gvisor_sandbox, not gvisor_sandboxes or tests "
        "inside.",
    ),
    Setting(
        name="report",
        kind="reports",
        default=(),
        sources=_SESSION,
        metavar="FILE",
        help="write the result of each test on each platform to FILE (.html, .json or .md); may "
        "be repeated.",
    ),
)

BY_NAME = {name: one for one in SETTINGS for name in (one.name, one.written)}
"""Each setting, by the names that markers and calls know it by."""


def names_from(source: Source) -> list[str]:
    """Return the settings that this source can hold, by the names that users write."""
    return [one.written for one in SETTINGS if source in one.sources]
