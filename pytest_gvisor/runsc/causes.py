"""Causes of unavailable platforms, each with a remedy."""

from __future__ import annotations

import enum
import re

from pytest_gvisor.runsc import obstacles
from pytest_gvisor.settings import Platform


class Cause(enum.StrEnum):
    """The cause that makes a platform unavailable."""

    NONE = "available"
    NOT_COMPILED_IN = "not compiled in"
    NO_DEVICE = "no device"
    NOT_GIVEN = "not given to this container"
    NO_PERMISSION = "no permission"
    NOT_KVM = "the device is not KVM"
    REFUSED = "KVM refuses"
    BROKEN_BUILD = "this build of runsc is broken"
    PROBE_FAILED = "the probe failed"
    PROBE_HUNG = "the probe hung"


LASTING = frozenset({Cause.PROBE_HUNG, Cause.BROKEN_BUILD})
"""Kept until the next boot are verdicts that cost a deadline to find out. So are those that are the
binary's own fault. A session's header can name the latter from then on. The others are cheap to
look at again, a run that fails included. If they were kept, one bad moment would cost all sessions
the platform.
"""

_NESTED = (
    "A virtual machine needs nested virtualisation from its provider, and not every kind of it "
    "is enough for gVisor. `pytest-gvisor vm` has a KVM that works on any x86-64 machine."
)
_DEVICE = (
    "Load kvm_intel or kvm_amd (`modprobe kvm_intel`). In a container, pass the device on "
    "(`--device /dev/kvm`). " + _NESTED
)
_PERMISSION = (
    "Add this user to the device's group (`usermod -aG kvm USER`, and log in again), or in CI "
    "write /etc/udev/rules.d/99-kvm.rules with "
    '`KERNEL=="kvm", GROUP="kvm", MODE="0666", OPTIONS+="static_node=kvm"`, then '
    "`udevadm control --reload-rules && udevadm trigger --name-match=kvm`."
)
_KVM = {
    Cause.NO_DEVICE: _DEVICE,
    Cause.NOT_GIVEN: "Start the container with `--device /dev/kvm` (docker, podman); a systemd "
    "unit needs `DeviceAllow=/dev/kvm rw`.",
    Cause.NO_PERMISSION: _PERMISSION,
    Cause.NOT_KVM: "Name the real device, or load kvm_intel or kvm_amd, which make it.",
    Cause.REFUSED: "Another hypervisor may hold the processor, virtualisation may be off in the "
    "firmware, or a container's profile may forbid it. Load kvm_intel or kvm_amd. " + _NESTED,
    Cause.PROBE_FAILED: _NESTED,
    Cause.PROBE_HUNG: _NESTED,
}
_TRACES = (
    "kernel.yama.ptrace_scope must be below 3, and a container around it needs a profile that "
    f"allows ptrace, namespaces and mounts: {obstacles.CONTAINER}."
)

# assertTaskGoroutine and the ptrace platform's tracer of 20240729, when Go lays out its goroutines
# in another way than that release knows: the ids of both are misread.
BROKEN = re.compile(r"running on goroutine|ptrace set (fp)?regs( \(.*\))? failed: no such process")
"""Last words of a sentry whose build, and not whose host, is at fault."""

_BROKEN_BUILD = "Another build works: `pytest-gvisor install` installs gVisor's own release."


def remedy(platform: Platform, cause: Cause, message: str = "") -> str:
    """Return one line with the remedy. ``message`` is the error of a failed run."""
    if cause is Cause.NOT_COMPILED_IN:
        return "Use another release of runsc, or another platform."
    if cause is Cause.BROKEN_BUILD:
        return _BROKEN_BUILD
    if platform is Platform.KVM:
        return _KVM[cause]
    if not platform.is_known:
        return f"{platform} needs things of its own, which runsc names; or use another platform."
    found = obstacles.of_message(message)
    if found:
        return " ".join(fix for _fact, fix in found)
    return f"{platform} traces its own children: {_TRACES}"


def facts(platform: Platform, message: str = "") -> str:
    """Return facts of this machine that may explain a failed run, to follow its message."""
    if platform is Platform.KVM:
        return " | this is a virtual machine" if obstacles.is_virtual() else ""
    if not platform.is_known:
        return ""
    return "".join(f" | {fact}" for fact, _fix in obstacles.of_message(message))
