"""The table of settings: the name, kind, sources and help of each. Light: always imported.

`settings`, beside it, holds the type of each setting for type checkers, and reads values by kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pytest_gvisor.base import removed

Kind = Literal[
    "platforms", "network", "rootless", "keep", "binary", "path", "release", "flag", "seconds",
    "size", "count", "number", "bytes", "reports", "acts", "trace", "entries",
]  # fmt: skip
"""The kind of a setting's values: `settings` has one reader for each."""

Source = Literal["call", "marker", "command line", "environment", "ini", "run", "doctor"]
"""A place where a setting can be written.

``call`` is an argument of `Gvisor.run` and its like. ``run`` and ``doctor`` are the commands.
"""

DEFAULT_TIMEOUT = 60.0
DEFAULT_MAX_OUTPUT = 16 * 1024 * 1024


class Setting(NamedTuple):
    """One setting."""

    name: str
    """Its field of `Settings`."""

    kind: Kind
    sources: tuple[Source, ...]
    help: str
    """The help of its option and its ini key."""

    metavar: str | None = None
    command_help: str = ""
    """Its help for the commands of ``pytest-gvisor``, if that is another."""

    command_metavar: str | None = None
    alias: str = ""

    @property
    def written(self) -> str:
        """The name that users write."""
        return self.alias or self.name

    @property
    def option(self) -> str:
        """Its option for pytest: ``--gvisor-timeout``."""
        return f"--gvisor-{self.written}"

    @property
    def key(self) -> str:
        """Its ini key, and where argparse puts the option: ``gvisor_timeout``."""
        return f"gvisor_{self.written}"

    @property
    def variable(self) -> str:
        """Its environment variable: ``PYTEST_GVISOR_TIMEOUT``."""
        return f"PYTEST_{self.key.upper()}"

    @property
    def command_option(self) -> str:
        """Its option for a command of ``pytest-gvisor``: ``--max-output``."""
        return f"--{self.written.replace('_', '-')}"


_SESSION: tuple[Source, ...] = ("command line", "environment", "ini")
_TEST: tuple[Source, ...] = ("call", "marker", "run")
_ALL: tuple[Source, ...] = (*_TEST, *_SESSION)

TRACES = ("paths", "values", "paths,values")
"""The words for a trace that has more than usual: unverified paths, and values of variables."""

SETTINGS = (
    Setting("platforms", "platforms", ("marker", "run", *_SESSION), alias="platform",
        metavar="NAMES",
        help="auto (default), all, or a comma list; may be repeated. auto is systrap. A list may "
        "name systrap, kvm, ptrace and others that the binary lists. With two or more, every test "
        "that uses a sandbox runs once per platform. With native among them, tests inside also "
        "run on the host.",
        command_help="systrap, kvm, ptrace or another that the binary lists (default: auto)",
        command_metavar="NAME"),
    Setting("network", "network", _ALL, metavar="MODE",
        help="none (default: loopback only), sandbox (gVisor's own stack), or host."),
    Setting("netns", "path", _TEST, metavar="PATH",
        help="a network namespace to join, for network=sandbox."),
    Setting("runsc", "binary", ("marker", "run", "doctor", *_SESSION), metavar="[LABEL=]PATH",
        help="use this binary, validated but without a search; the last one counts. With "
        "LABEL=PATH twice or more on the command line, every test that uses a sandbox runs once "
        "per release.",
        command_help="use this binary, without a search", command_metavar="PATH"),
    Setting("release", "release", ("ini",),
        help="the allowed releases of runsc: comparisons such as >=20240729, with commas between "
        "them. If another is found, each test with a sandbox is an error."),
    Setting("strict", "flag", _SESSION,
        help="fail tests that would be skipped because runsc, a platform or docker is missing."),
    Setting("timeout", "seconds", _ALL, metavar="SECONDS",
        help=f"deadline of one workload (default: {DEFAULT_TIMEOUT:g})."),
    Setting("rootless", "rootless", _ALL, metavar="WHEN",
        help="auto (default: on where CAP_SYS_ADMIN is missing), on, or off."),
    Setting("image", "path", _ALL, metavar="IMAGE",
        help="the root file system of workloads, instead of the host's system folders. IMAGE is a "
        "docker save archive, an OCI archive or layout, a rootfs tarball, or a docker daemon's "
        "image."),
    Setting("project", "flag", ("call", "marker", "ini"),
        help="show workloads the root folder and the sources of editable packages, read-only and "
        "without secrets, and start them there."),
    Setting("memory", "size", _TEST, metavar="SIZE",
        help="limit on the sandbox's memory, for instance 256M; needs root."),
    Setting("pids", "count", _TEST, metavar="N",
        help="limit on the sandbox's processes and threads; needs root."),
    Setting("cpus", "number", _TEST, metavar="N",
        help="limit in processors, for instance 0.5; needs root."),
    Setting("shm", "size", _ALL, metavar="SIZE",
        help="the size of /dev/shm, for instance 256M (default: as on the host); a limit on "
        "memory holds for it too."),
    Setting("max_output", "bytes", _TEST, metavar="SIZE",
        help="the most to keep of each output stream, half head and half tail (default: "
        f"{DEFAULT_MAX_OUTPUT // 1024**2}M)."),
    Setting("debug", "flag", ("call", "run", "command line", "environment"),
        help="show runsc's own logs and an strace of the workload in reports of failed tests.",
        command_help="the sentry's boot log and the last system calls, on standard error after "
        "the output"),
    Setting("trace", "trace", ("call", "marker", *_SESSION),
        help="record the files, commands and connections of each gvisor.run and each exec in "
        "Completed.trace, and of each test inside for the fixture gvisor_trace. With =paths also "
        "unverified paths of renames and the like, with =values values of variables, or "
        "=paths,values."),
    Setting("forbid", "acts", ("call", "marker", "ini"),
        help="fail each gvisor.run, exec and test inside that does such an act: read, write, exec "
        "and connect, each also with a pattern, such as write:/app/**."),
    Setting("explain", "flag", _SESSION,
        help="with native among the platforms: run tests that differ again, and say why they do."),
    Setting("allow", "entries", ("call", "marker", *_SESSION), metavar="HOST:PORT",
        help="let sandboxes reach these hosts and ports, and nothing else: HOST:PORT, with commas "
        "between them. The network stays none."),
    Setting("keep", "keep", _SESSION, metavar="WHOSE",
        help="none (default), failed, or all: keep bundle, logs and a replay.sh of each run under "
        "pytest's base temp. Covers gvisor and gvisor_sandbox, not gvisor_sandboxes or tests "
        "inside."),
    Setting("report", "reports", _SESSION, metavar="FILE",
        help="write the result of each test on each platform to FILE (.html, .json or .md); may "
        "be repeated."),
)  # fmt: skip

BY_NAME = {name: one for one in SETTINGS for name in (one.name, one.written)}
"""Each setting, by the names that markers and calls know it by."""


def names_from(source: Source) -> list[str]:
    """Return the settings that this source can hold, by the names that users write."""
    return [one.written for one in SETTINGS if source in one.sources]


def spellings(name: str) -> str:
    """Return a setting as a call, pytest and a command write it, for a message."""
    setting = BY_NAME[name]
    value = "True" if setting.kind == "flag" else setting.metavar
    call = f"{name}={value}, " if "call" in setting.sources else ""
    tools = " and ".join(one for one in setting.sources if one in {"run", "doctor"})
    return f"{call}{setting.option} or (pytest-gvisor {tools}) {setting.command_option}"


def nearest(word: str, words: Sequence[str]) -> str:
    """Return ``; did you mean X``, or nothing."""
    import difflib  # noqa: PLC0415 -- a session without a mistake needs none

    if len(word) > 64:
        return ""
    lowered = {known.lower(): known for known in words}
    found = difflib.get_close_matches(word.replace("_", "").lower(), lowered, n=1, cutoff=0.7)
    return f"; did you mean {lowered[found[0]]}" if found else ""


_PREFIX = "PYTEST_GVISOR_"


def unknown_variable(environ: Mapping[str, str]) -> str:
    """Return a sentence on a variable that looks like a setting's and is none; or nothing."""
    names = [one.written.upper() for one in SETTINGS if "environment" in one.sources]
    known = {*names, *map(str.upper, removed.SETTINGS), "INSIDE", "EXEC"}
    for name in environ:
        if name.startswith(_PREFIX) and name.removeprefix(_PREFIX) not in known:
            meant = nearest(name.removeprefix(_PREFIX), names)
            return f"{name} is no variable of a setting{meant.replace('mean ', f'mean {_PREFIX}')}"
    return ""
