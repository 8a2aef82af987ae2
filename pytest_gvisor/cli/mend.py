"""The commands that mend what ``doctor`` finds.

A runsc that was refused is installed anew. Its mode and its owner are never changed: others may
have replaced the file already.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shlex
import shutil
import sys
from collections.abc import Iterator

from pytest_gvisor.errors import (
    GvisorError,
    InsecureRunsc,
    MixedReleases,
    RunscNotFound,
    UnwantedRelease,
)
from pytest_gvisor.escape import escape
from pytest_gvisor.hints import Command
from pytest_gvisor.programs.paths import SYSTEM_PATH, within
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.sessions.places import RUNSC_PATHS

_DEVICE = "/dev/kvm"
_OF_DEBIAN = "/usr/bin/runsc"


def tool(*words: str, as_root: bool = False) -> tuple[Command, ...]:
    """Return the call of a command of ``pytest-gvisor``, by its path in this environment."""
    path = os.path.join(os.path.dirname(os.path.abspath(sys.executable)), "pytest-gvisor")
    # Without -P, a folder pytest_gvisor in the current one would be run in place of this one.
    start = (path,) if os.access(path, os.X_OK) else (sys.executable, "-P", "-m", "pytest_gvisor")
    return (Command((*start, *words), as_root),)


def of_error(error: GvisorError) -> tuple[Command, ...]:
    """Return the commands for an error about runsc. The user's own binary is left to its owner."""
    if isinstance(error, MixedReleases | UnwantedRelease):
        return tool("install")
    if isinstance(error, RunscNotFound):
        return () if error.explicit else tool("install")
    return _reinstalled(error.path) if isinstance(error, InsecureRunsc) else ()


def _reinstalled(refused: str) -> tuple[Command, ...]:
    for place in _places():
        folder, whole = os.path.dirname(place), os.path.realpath(place)
        if refused not in {place, whole} and not within(refused, os.path.dirname(whole)):
            continue
        if place == _OF_DEBIAN and shutil.which("apt-get", path=SYSTEM_PATH):
            return (Command(("apt-get", "install", "--reinstall", "--yes", "runsc"), as_root=True),)
        return tool("install", "--to", folder, as_root=not os.access(folder, os.W_OK))
    return ()


def _places() -> Iterator[str]:
    """Yield the places of the search where something is."""
    folders = os.environ.get("PATH", "").split(":") if os.geteuid() else []
    mine = [os.path.join(folder, "runsc") for folder in folders if os.path.isabs(folder)]
    yield from filter(os.path.lexists, [*RUNSC_PATHS, *mine])


def of_kvm(cause: Cause) -> tuple[Command, ...]:
    """Return the command that lets this user open /dev/kvm, or that makes the device."""
    if cause is Cause.NO_PERMISSION:
        with contextlib.suppress(OSError, KeyError):
            user = pwd.getpwuid(os.geteuid()).pw_name
            if os.geteuid() and grp.getgrgid(os.stat(_DEVICE).st_gid).gr_name == "kvm":
                return (Command(("usermod", "--append", "--groups", "kvm", user), as_root=True),)
    if cause is Cause.NO_DEVICE and not os.path.lexists(_DEVICE):
        return _module()
    return ()


def _module(proc: str = "/proc", modules: str = "/lib/modules") -> tuple[Command, ...]:
    """Return the command that loads the processor's module of KVM, if this kernel has it."""
    flags = ""
    with contextlib.suppress(OSError), open(f"{proc}/cpuinfo", encoding="utf-8") as file:
        flags = file.read(1024 * 1024).partition("\nflags")[2].partition("\n")[0]
    for flag, name in (("vmx", "kvm_intel"), ("svm", "kvm_amd")):
        folder = os.path.join(modules, os.uname().release, "kernel/arch/x86/kvm")
        if flag in flags.split() and os.path.isdir(folder):
            return (Command(("modprobe", name), as_root=True),)
    return ()


def line(command: Command) -> str:
    """Return a command as a line for a shell, with sudo for another user than root."""
    sudo = ("sudo",) if command.as_root and os.geteuid() else ()
    return escape(shlex.join((*sudo, *command.argv))).replace("\n", "\\n")
