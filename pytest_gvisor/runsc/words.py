"""Why a platform is not available, and what to do about it: the words of `platforms`."""

from __future__ import annotations

import enum
import os

from pytest_gvisor.settings import Platform


class Cause(enum.StrEnum):
    """Why a platform is not available."""

    NONE = "available"
    NOT_COMPILED_IN = "not compiled in"
    NO_DEVICE = "no device"
    NOT_GIVEN = "not given to this container"
    NO_PERMISSION = "no permission"
    NOT_KVM = "the device is not KVM"
    REFUSED = "KVM refuses"
    PROBE_FAILED = "the probe failed"
    PROBE_HUNG = "the probe hung"


LASTING = frozenset({Cause.PROBE_HUNG})
"""What costs a deadline to find out: kept until the next boot. The others are cheap to look at
again, a run that fails included; kept, one bad moment would cost all sessions the platform."""

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
CONTAINER = (
    "`docker run --cap-add SYS_ADMIN --security-opt seccomp=unconfined` (and "
    "`--security-opt apparmor=unconfined` where the host has AppArmor)"
)
"""How a container is started in which root can start sandboxes."""

_TRACES = (
    "kernel.yama.ptrace_scope must be below 3, and a container around it needs a profile that "
    "allows ptrace, namespaces and mounts: " + CONTAINER + "."
)


def remedy(platform: Platform, cause: Cause) -> str:
    """One line of what to do."""
    if cause is Cause.NOT_COMPILED_IN:
        return "Use another release of runsc, or another platform."
    if platform is Platform.KVM:
        return _KVM[cause]
    if not platform.is_known:
        return f"{platform} needs things of its own, which runsc names; or use another platform."
    found = tracing_obstacles()
    if found:
        return " ".join(fix for _fact, fix in found)
    return f"{platform} traces its own children: {_TRACES}"


def tracing_obstacles(proc: str = "/proc") -> list[tuple[str, str]]:
    """What of this machine stands against ptrace(2): each as the fact and what to do."""
    found = []
    scope = _read(f"{proc}/sys/kernel/yama/ptrace_scope")
    if scope.strip() == "3":
        found.append((
            "kernel.yama.ptrace_scope is 3, which forbids every ptrace until the next boot",
            "Boot with kernel.yama.ptrace_scope below 3 (/etc/sysctl.d): 3 cannot be lowered.",
        ))  # fmt: skip
    # 2 is a filter (proc_pid_status(5)); what it forbids cannot be asked.
    if "\nSeccomp:\t2" in _read(f"{proc}/self/status"):
        fact = "this process is under a seccomp filter, as in a container"
        fix = "Let the container's profile allow ptrace, namespaces and mounts: " + CONTAINER + "."
        found.append((fact, fix))
    return found


def facts(platform: Platform) -> str:
    """What of this machine may explain a run that failed, to be put behind its message."""
    if platform is Platform.KVM:
        flags = _read("/proc/cpuinfo").partition("\nflags")[2].partition("\n")[0].split()
        return " | this is a virtual machine" if "hypervisor" in flags else ""
    if not platform.is_known:
        return ""
    return "".join(f" | {fact}" for fact, _fix in tracing_obstacles())


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(fd, encoding="utf-8", errors="replace") as file:
        try:
            return file.read(64 * 1024)
        except OSError:
            return ""
