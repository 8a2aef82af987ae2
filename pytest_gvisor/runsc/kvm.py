"""What a KVM device says of itself, found out in a child process that is dead at its deadline.

An ioctl of a broken nested hypervisor may never return, so none is made in this process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import grp
import json
import os
import stat
import subprocess
import sys
from collections.abc import Sequence

from pytest_gvisor.runsc import kvm_ioctls
from pytest_gvisor.runsc.words import Cause

DEADLINE = 5.0
_DEATH = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a device is of no use: the cause, and the facts in words."""

    cause: Cause
    detail: str


def program(device: str) -> list[str]:
    """The command line of the child that asks."""
    return [sys.executable, "-I", "-S", kvm_ioctls.__file__, device]


def look(device: str, *, command: Sequence[str] = (), deadline: float = DEADLINE) -> Refusal | None:
    """What is wrong with the device; None where it opens and makes a VM with a processor.

    Takes at most ``deadline`` seconds and the time to kill the child.
    """
    answer = _ask(list(command) or program(device), deadline)
    if answer is None:
        return Refusal(
            cause=Cause.PROBE_HUNG,
            detail=f"{device} did not answer KVM's ioctls within {deadline:g} s",
        )
    step, number = str(answer.get("step", "?")), answer.get("errno")
    if not step:
        return None
    if "value" in answer:
        version = answer["value"]
        return Refusal(cause=Cause.NOT_KVM, detail=f"{device} has KVM API {version} and not 12")
    name = errno.errorcode.get(number, str(number)) if isinstance(number, int) else "no answer"
    said = f"{name}: {os.strerror(number)}" if isinstance(number, int) else name
    if step == "open":
        return _unopened(device, number, said)
    if number in {errno.ENOTTY, errno.EINVAL} and step == "KVM_GET_API_VERSION":
        return Refusal(cause=Cause.NOT_KVM, detail=f"{device} is not KVM's device ({said})")
    return Refusal(cause=Cause.REFUSED, detail=f"{device} refuses {step} ({said})")


def _unopened(device: str, number: object, said: str) -> Refusal:
    if number in {errno.EACCES, errno.EPERM}:
        owner = _owner(device)
        detail = f"{device} may not be opened by uid {os.geteuid()}{owner}"
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


def _ask(command: list[str], deadline: float) -> dict[str, object] | None:
    """The child's answer; None where there was none in time, ``{}`` where it makes no sense."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        start_new_session=True,
    ) as child:
        try:
            text = child.communicate(timeout=deadline)[0]
        except subprocess.TimeoutExpired:
            return None
        finally:
            child.kill()
            child.wait(_DEATH)
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}
