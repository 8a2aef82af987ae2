"""runsc's command lines and environment as data. Does no input or output.

Bind mounts are in runsc's ``shared`` mode: in ``exclusive`` mode a sandbox would not see a new file
where it has already looked for one, and ``--file-access-mounts`` holds for all mounts alike.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Collection, Mapping, Sequence

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.settings import Network, Platform
from pytest_gvisor.programs.paths import SIDECARS_VARIABLE, SYSTEM_PATH
from pytest_gvisor.runsc.sidecars import ONE_RELEASE

EVENTS = "pod-init.json"
"""The name of the file for ``--pod-init-config`` in the folder of a run."""

_MANY_FILES = 2**14
"""A limit on open files that sixteen mounts do not reach."""

# Flags that decide what a run is, or where its files are: they have settings of their own.
OWN_FLAGS = frozenset({
    "alsologtostderr", "bundle", "debug", "debug-log", "ignore-cgroups", "log", "log-fd", "network",
    "overlay", "overlay2", "panic-log", "platform", "pod-init-config", "root", "rootless",
    ONE_RELEASE,
})  # fmt: skip


def run_argv(
    name: str, folder: str, platform: Platform, network: Network, *flags: str, restores: str = "",
    link: int = 0, bundle: str = "bundle",
) -> tuple[str, ...]:  # fmt: skip
    """Return the argv of ``runsc run`` for the sandbox ``name``, whose files are in ``folder``.

    With ``restores``, the folder of a saved sandbox, it is ``runsc restore``. ``flags`` are those
    that not every run has. The first process gets the descriptor ``link`` as its third after the
    streams, unless that is 0. Raises `UsageError` for a NUL byte anywhere.
    """
    # fmt: off
    argv = [
        "runsc",
        "--root", f"{folder}/root",
        "--ignore-cgroups",
        "--network", network.value,
        "--platform", platform.value,
        "--overlay2", "root:memory",
        "--log", f"{folder}/log",
        "--panic-log", f"{folder}/panic",
        "--pod-init-config", f"{folder}/{EVENTS}",
    ]
    # fmt: on
    begin = ["restore", "--image-path", restores] if restores else ["run"]
    if link:
        begin += ["--pass-fd", f"{link}:3"]
    # runsc takes global flags before the subcommand only.
    return _checked(*argv, *flags, *begin, "--bundle", f"{folder}/{bundle}", name)


def save_argv(name: str, folder: str) -> tuple[str, ...]:
    """Return the argv that saves the sandbox ``name`` to the folder ``image`` of its own; it runs
    on. Raises `UsageError`.
    """
    # To compress takes longer than to write: measured 0.22 against 0.05 s.
    # fmt: off
    return _checked(
        "runsc", "--root", f"{folder}/root", "--ignore-cgroups", "--log", f"{folder}/save.log",
        "checkpoint", "--image-path", f"{folder}/image", "--leave-running",
        "--compression=none", name,
    )
    # fmt: on


def term_argv(name: str, folder: str, number: int = signal.SIGTERM) -> tuple[str, ...]:
    """Return the argv that sends the workload's first process SIGTERM, or signal ``number``.

    A signal to ``runsc run`` itself does not get there: it passes signals on for a terminal only.
    Raises `UsageError`.
    """
    sent = "TERM" if number == signal.SIGTERM else str(number)
    return _checked("runsc", "--root", f"{folder}/root", "--ignore-cgroups", "kill", name, sent)


def _checked(*argv: str) -> tuple[str, ...]:
    check_strings(argv)
    return argv


def runsc_env(runtime: str, sidecars: str = "") -> dict[str, str]:
    """Return the whole environment of runsc. ``runtime`` is its private 0700 folder.

    ``sidecars`` is the checked folder beside a release that looks for one. Without it, a copy of
    runsc in memory would look for the folder beside itself.
    """
    env = {
        "PATH": SYSTEM_PATH,
        "TMPDIR": runtime,
        "XDG_RUNTIME_DIR": runtime,
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        **({SIDECARS_VARIABLE: sidecars} if sidecars else {}),
    }
    check_strings(env.values())
    return env


def shell_line(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """Return a line for a shell that runs ``argv`` in exactly ``env``."""
    pairs = [f"{name}={shlex.quote(value)}" for name, value in env.items()]
    return " ".join(["env -i", *pairs, shlex.join(argv)])


def check_strings(strings: Collection[str]) -> None:
    """Raise `UsageError` for a string that no argv or environment can hold."""
    for string in strings:
        if "\0" in string:
            raise UsageError(f"a NUL byte in {string!r}: the kernel would cut the string there")


def file_flags(known: Collection[str], *, devices: bool, most: int) -> tuple[str, ...]:
    """Return the flags for files of the host, as far as the release has them. ``known`` as in
    `check_extra`.

    By default the gofer joins a network namespace that the first sandbox of a state folder mounts.
    Each of our sandboxes has a state folder of its own, and would make the mount for nobody. The
    kernel takes tens of milliseconds to undo it. ``new`` is as empty, and not mounted.

    ``devices``: the bundle shows devices of the host, which are not opened by default.

    ``most`` is the limit on open files. The sentry holds a descriptor for each name that a workload
    has used, by default for the last 1,000 of each mount.
    """
    cache = [f"--dcache={most // 4}"] if most < _MANY_FILES and "dcache" in known else []
    network = ["--gofer-network-namespace=new"] if "gofer-network-namespace" in known else []
    policy = "character-device-policy"
    emulated = [f"--{policy}=prefer-emulated"] if devices and policy in known else []
    return (*cache, *network, *emulated)


def check_extra(arguments: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """Check extra global flags for runsc, each in the form ``--flag`` or ``--flag=value``.

    Raises `UsageError` for one that the binary does not know, or that a setting of this package
    decides. ``known`` holds the names of its flags without dashes.
    """
    for argument in arguments:
        name, _, _value = argument.lstrip("-").partition("=")
        if not argument.startswith("-"):
            raise UsageError(f"{argument!r} is not a flag: write --flag or --flag=value")
        if name in OWN_FLAGS:
            raise UsageError(f"--{name} is decided by a setting of pytest-gvisor, not by a flag")
        if name not in known:
            raise UsageError(f"this runsc has no flag --{name}; see `runsc flags`")
    return tuple(arguments)
