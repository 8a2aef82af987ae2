"""The answers of a KVM device, read in a child process that is dead at its deadline.

An ioctl of a broken nested hypervisor may never return, so none is made in this process.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_gvisor.errors import LaunchError
from pytest_gvisor.escape import escape
from pytest_gvisor.guest.checked_json import loads
from pytest_gvisor.programs import ask_kvm
from pytest_gvisor.programs.paths import ENVIRONMENT
from pytest_gvisor.runsc.causes import Cause

_DEATH = 2.0

_held: list[subprocess.Popen[bytes]] = []
"""Children that the kernel holds: their value is kept, as letting it go is a ResourceWarning."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The cause and the facts of an unusable device."""

    cause: Cause
    detail: str


def program(device: str) -> list[str]:
    """Return the command line of the child process."""
    return [sys.executable, "-I", "-S", ask_kvm.__file__, device]


def look(device: str, *, command: Sequence[str] = (), deadline: float) -> Refusal | None:
    """Return the problem of the device; None if it can make a VM with a processor.

    Takes at most ``deadline`` seconds and the time to kill the child. Raises `LaunchError` where
    the child cannot be started or ends without an answer. That says nothing about the device, and
    may pass.
    """
    answer = _ask(list(command) or program(device), device, deadline)
    if isinstance(answer, Refusal):
        return answer
    step, number = answer["step"], answer.get("errno")
    if not step:
        return None
    if "value" in answer:
        version = answer["value"]
        return Refusal(cause=Cause.NOT_KVM, detail=f"{device} has KVM API {version} and not 12")
    assert isinstance(number, int)
    said = f"{errno.errorcode.get(number, number)}: {os.strerror(number)}"
    if step == "open":
        return _unopened(device, number, said)
    if number in {errno.ENOTTY, errno.EINVAL} and step == "KVM_GET_API_VERSION":
        return Refusal(cause=Cause.NOT_KVM, detail=f"{device} is not KVM's device ({said})")
    return Refusal(cause=Cause.REFUSED, detail=f"{device} refuses {step} ({said})")


def _unopened(device: str, number: int, said: str) -> Refusal:
    uid = os.geteuid()
    if number == errno.EPERM:
        # A file's mode and a security module say EACCES; EPERM is the device controller's word
        # (admin-guide/cgroup-v1/devices), to root too.
        detail = f"{device} is there, and the device cgroup forbids uid {uid} to open it ({said})"
        return Refusal(cause=Cause.NOT_GIVEN, detail=detail)
    if number == errno.EACCES:
        detail = f"{device} may not be opened by uid {uid}{_owner(device)}"
        if os.access(device, os.R_OK | os.W_OK, effective_ids=True):
            detail += ", though its mode lets it: nodev, or a security module (AppArmor, SELinux)"
        return Refusal(cause=Cause.NO_PERMISSION, detail=detail)
    if number == errno.ENOENT:
        return Refusal(cause=Cause.NO_DEVICE, detail=f"there is no {device}")
    return Refusal(cause=Cause.NO_DEVICE, detail=f"{device} cannot be opened ({said})")


def _owner(device: str) -> str:
    try:
        info = os.stat(device)
    except OSError:
        return ""
    group = str(info.st_gid)
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(info.st_gid).gr_name
    return f" (mode {stat.S_IMODE(info.st_mode):04o}, group {group})"


def _ask(command: list[str], device: str, deadline: float) -> dict[str, object] | Refusal:
    """Return the child's answer: a ``step`` and, unless that is ``""``, ``errno`` or ``value``."""
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            start_new_session=True,
        )
    except OSError as error:
        detail = f"the process that asks {device} cannot be started"
        raise LaunchError("kvm", detail, errno=error.errno or 0) from error
    text = errors = b""
    late = False
    # Not in a `with`: its end waits for the child without a deadline.
    try:
        text, errors = child.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        late = True
    finally:
        dead = _ended(child)
    if late:
        detail = f"{device} did not answer KVM's ioctls within {deadline:g} s"
        if not dead:
            _held.append(child)
            detail += f", and the kernel holds process {child.pid}, which cannot be killed"
        return Refusal(cause=Cause.PROBE_HUNG, detail=detail)
    last = "".join(
        f": {escape(line)}" for line in errors.decode(errors="replace").splitlines()[-1:]
    )
    how = f"ended with {_status(child.returncode)} and no answer{last}"
    answer = _understood(text)
    if answer is None:
        raise LaunchError(
            "kvm",
            f"the process that asks {device} {how}",
            next_step="Something may have killed it, for instance the kernel when memory ran out; "
            f"`{shlex.join(command)}` repeats the request.",
        )
    return answer


def _ended(child: subprocess.Popen[bytes]) -> bool:
    """Kill the child and close its pipes; return whether it is dead."""
    for pipe in (child.stdout, child.stderr):
        assert pipe is not None
        pipe.close()
    child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_DEATH)
    return child.returncode is not None


def _status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return f"signal {-status} ({signal.Signals(-status).name})"
    return f"signal {-status}"


def _understood(text: bytes) -> dict[str, object] | None:
    try:
        answer = loads(text)
    except ValueError:
        return None
    step = answer.get("step") if isinstance(answer, dict) else None
    whole = step == "" or (isinstance(step, str) and answer.keys() & {"errno", "value"})
    return answer if whole and isinstance(answer.get("errno", 0), int) else None
