"""Checks of ``doctor`` besides runsc: the machine, and remains of earlier sessions.

What can be tried is tried: a cgroup with each limit, a ping of docker's daemon.
A finding has the commands that mend it. A runsc that was refused is installed anew. Its mode and
its owner are never changed: others may have replaced the file already.
"""

from __future__ import annotations

import contextlib
import enum
import grp
import os
import platform
import pwd
import shlex
import shutil
import sys
from dataclasses import dataclass

from pytest_gvisor.base import errors
from pytest_gvisor.base.escape import escape
from pytest_gvisor.images.docker import Daemon
from pytest_gvisor.programs.paths import SYSTEM_PATH, within
from pytest_gvisor.programs.proc import text_in
from pytest_gvisor.run import cgroup
from pytest_gvisor.runsc import causes
from pytest_gvisor.sessions import session_folder
from pytest_gvisor.sessions.places import RUNSC_PATHS
from pytest_gvisor.sessions.session_folder import SessionDir
from pytest_gvisor.vm import parts
from pytest_gvisor.vm.parts import Command

_DEVICE = "/dev/kvm"
_OF_DEBIAN = "/usr/bin/runsc"

_SWITCHES = {
    "user.max_user_namespaces": ("0", "10000", "no user can make one"),
    "kernel.unprivileged_userns_clone": ("0", "1", "users other than root cannot make one"),
    "kernel.apparmor_restrict_unprivileged_userns": (
        "1", "0",
        "AppArmor keeps them from users other than root, unless a program's profile has them",
    ),
}  # fmt: skip
"""The kernel's switches for user namespaces: what forbids them, what allows them, and to whom."""

_LIMITS: tuple[cgroup.Limits, ...] = ({"memory": 1 << 30}, {"pids": 1000}, {"cpu": 1.0})


class State(enum.StrEnum):
    """The meaning of a finding for tests."""

    GOOD = "good"
    NOTE = "note"
    """Something is not there that only some tests need."""

    BAD = "bad"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    name: str
    state: State
    detail: str
    next_step: str = ""
    fix: tuple[Command, ...] = ()
    """The commands that mend it, one after the other."""


def good(name: str, detail: str) -> Finding:
    """Return the finding that all is well."""
    return Finding(name=name, state=State.GOOD, detail=detail)


def note(name: str, detail: str, next_step: str = "", fix: tuple[Command, ...] = ()) -> Finding:
    """Return the finding that something is not there."""
    return Finding(name=name, state=State.NOTE, detail=detail, next_step=next_step, fix=fix)


def bad(name: str, error: errors.GvisorError) -> Finding:
    """Return the finding for an error."""
    detail = brief(error)
    if isinstance(error, errors.MixedReleases):
        # The records and the command are a boot's that ended before it began.
        detail = escape(error.message.splitlines()[0])
    return Finding(
        name=name, state=State.BAD, detail=detail, next_step=error.next_step, fix=of_error(error)
    )


def brief(error: errors.GvisorError) -> str:
    """Return an error's message in one line."""
    return escape(" ".join(error.message.split()))


def findings(proc: str = "/proc", *, works: bool = False) -> list[Finding]:
    """Return all findings but `sessions`. ``works``: a sandbox of this user's has just run."""
    return [
        _user_namespaces(proc, works=works),
        _cgroups(),
        _docker(),
        _vm(),
        good("Python", f"{platform.python_version()}, as uid {os.geteuid()}"),
    ]


def _user_namespaces(proc: str, *, works: bool) -> Finding:
    """Report the kernel's switches that `runsc --rootless` needs for other users than root."""
    name, root = "user namespaces", os.geteuid() == 0
    state = State.NOTE if root or works else State.BAD
    if found := causes.chroot(proc):
        return Finding(name=name, state=state, detail=found[0][0], next_step=found[0][1])
    for switch, (off, on, told) in _SWITCHES.items():
        if text_in(f"{proc}/sys/{switch.replace('.', '/')}").strip() == off:
            detail = f"{switch} is {off}: {told}"
            if works and not root:
                detail += "; this user's sandboxes run all the same"
            fix = Command(("sysctl", f"{switch}={on}"), as_root=True)
            step = f"As root: {' '.join(fix.argv)}"
            return Finding(name=name, state=state, detail=detail, next_step=step, fix=(fix,))
    return good(name, "no switch of this kernel forbids them")


def _cgroups() -> Finding:
    name = "cgroups"
    try:
        refusals = _try_limits()
    except errors.GvisorError as error:
        refusals = [brief(error)]
    if not refusals:
        return good(name, "memory, processes and processors can be limited")
    return note(
        name,
        "; ".join(dict.fromkeys(refusals)),
        "Only tests with such limits need it: run them as root, or in a cgroup of this "
        "user's. In a container, /sys/fs/cgroup must be writable (docker: `--privileged`).",
    )


def _try_limits() -> list[str]:
    """Try to set each limit; return the errors, and the leaks of the trials.

    Raises `LaunchError` where none can be tried.
    """
    session = SessionDir.create(SessionDir.new_path(session_folder.base_folder()))
    found = []
    try:
        for limits in _LIMITS:
            try:
                cgroup.create(
                    limits, lambda path: session.journal(id="doctor", cgroups=[path])
                ).remove()
            except errors.GvisorError as error:
                found.append(brief(error))
    finally:
        leaks = session.remove()
    return found + [escape(f"not removed: {leak}") for leak in leaks]


def _docker() -> Finding:
    where = os.environ.get("DOCKER_HOST") or "/var/run/docker.sock"
    try:
        with Daemon():
            return good("docker", escape(f"answers at {where}"))
    except errors.GvisorError as error:
        detail = brief(error)
        if isinstance(error, errors.DaemonUnavailable):
            detail += "; only images from one need it"
        return note("docker", detail, error.next_step)


def _vm() -> Finding:
    if lacking := parts.missing():
        return note("vm", escape("; ".join(lacking)), parts.remedy(), parts.commands())
    return good("vm", "`pytest-gvisor vm` can make one")


def sessions() -> Finding:
    """Report the remains of dead sessions. Check them first: a new session sweeps."""
    name = "sessions"
    try:
        base, passed = session_folder.choose_base()
        dead = {path: session_folder.dead(path) for path in session_folder.base_folders()}
    except errors.GvisorError as error:
        return bad(name, error)
    told = [f"{len(paths)} dead in {folder}" for folder, paths in dead.items() if paths]
    steps = ["pytest-gvisor sweep removes them; so does each new session."] if told else []
    told = told or [f"none left in {base}"]
    told += [f"passed over: {reason}" for reason in passed]
    if passed:
        steps.append("Set XDG_RUNTIME_DIR or TMPDIR to a folder that no other user can write to.")
    detail = escape("; ".join(told))
    if not steps:
        return good(name, detail)
    return note(name, detail, " ".join(steps), tool("sweep") if any(dead.values()) else ())


def tool(*words: str, as_root: bool = False) -> tuple[Command, ...]:
    """Return the call of a command of ``pytest-gvisor``, by its path in this environment."""
    path = os.path.join(os.path.dirname(os.path.abspath(sys.executable)), "pytest-gvisor")
    # Without -P, a folder pytest_gvisor in the current one would be run in place of this one.
    start = (path,) if os.access(path, os.X_OK) else (sys.executable, "-P", "-m", "pytest_gvisor")
    return (Command((*start, *words), as_root),)


def of_error(error: errors.GvisorError) -> tuple[Command, ...]:
    """Return the commands for an error about runsc. The user's own binary is left to its owner."""
    if isinstance(error, errors.MixedReleases | errors.UnwantedRelease):
        return tool("install")
    if isinstance(error, errors.RunscNotFound):
        return () if error.explicit else tool("install")
    return _reinstalled(error.path) if isinstance(error, errors.InsecureRunsc) else ()


def _reinstalled(refused: str) -> tuple[Command, ...]:
    folders = os.environ.get("PATH", "").split(":") if os.geteuid() else []
    mine = [os.path.join(folder, "runsc") for folder in folders if os.path.isabs(folder)]
    # The places of the search where something is.
    for place in filter(os.path.lexists, [*RUNSC_PATHS, *mine]):
        folder, whole = os.path.dirname(place), os.path.realpath(place)
        if refused not in {place, whole} and not within(refused, os.path.dirname(whole)):
            continue
        if place == _OF_DEBIAN and shutil.which("apt-get", path=SYSTEM_PATH):
            return (Command(("apt-get", "install", "--reinstall", "--yes", "runsc"), as_root=True),)
        return tool("install", "--to", folder, as_root=not os.access(folder, os.W_OK))
    return ()


def of_kvm(cause: causes.Cause) -> tuple[Command, ...]:
    """Return the command that lets this user open /dev/kvm, or that makes the device."""
    if cause is causes.Cause.NO_PERMISSION:
        with contextlib.suppress(OSError, KeyError):
            user = pwd.getpwuid(os.geteuid()).pw_name
            if os.geteuid() and grp.getgrgid(os.stat(_DEVICE).st_gid).gr_name == "kvm":
                return (Command(("usermod", "--append", "--groups", "kvm", user), as_root=True),)
    if cause is causes.Cause.NO_DEVICE and not os.path.lexists(_DEVICE):
        return _module()
    return ()


def _module(proc: str = "/proc", modules: str = "/lib/modules") -> tuple[Command, ...]:
    """Return the command that loads the processor's module of KVM, if this kernel has it."""
    flags = causes.processor_flags(proc)
    for flag, name in (("vmx", "kvm_intel"), ("svm", "kvm_amd")):
        folder = os.path.join(modules, os.uname().release, "kernel/arch/x86/kvm")
        if flag in flags and os.path.isdir(folder):
            return (Command(("modprobe", name), as_root=True),)
    return ()


def line(command: Command) -> str:
    """Return a command as a line for a shell, with sudo for another user than root."""
    sudo = ("sudo",) if command.as_root and os.geteuid() else ()
    return escape(shlex.join((*sudo, *command.argv))).replace("\n", "\\n")
