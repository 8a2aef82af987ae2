"""Causes of unavailable platforms, and the facts of this machine that explain them, with remedies.

runsc's own texts differ by release; the switches of the kernel and the errno in a text do not. So
an error is matched by its errno and by the call that it names. Its cause is read from /proc.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import re

from pytest_gvisor.base.errors import limit_reached
from pytest_gvisor.base.settings import Platform
from pytest_gvisor.programs.proc import mounts, status_of, text_in

Obstacle = tuple[str, str]
"""The fact, and what to do."""

VM = "`pytest-gvisor vm -- pytest …` needs none of these rights"

CONTAINER = (
    "`docker run --security-opt seccomp=unconfined` (and `--security-opt apparmor=unconfined` "
    "where the host has AppArmor; with `--cap-add SYS_ADMIN` too, root needs no user namespace). "
    f"Or {VM}"
)
"""How a container is started in which sandboxes can be started; a sentence goes on in front."""

_CHROOT: Obstacle = (
    "this process is in a chroot, where the kernel lets nobody make a user namespace",
    f"Run the tests outside of the chroot, or in a container: {CONTAINER}.",
)


class Cause(enum.StrEnum):
    """The cause that makes a platform unavailable."""

    NONE = "available"
    NOT_COMPILED_IN = "not compiled in"
    NO_DEVICE = "no device"
    NOT_GIVEN = "not given to this container"
    NO_PERMISSION = "no permission"
    BROKEN_BUILD = "this build of runsc is broken"
    PROBE_FAILED = "the probe failed"
    PROBE_HUNG = "the probe hung"


_NO_KVM = (
    "Load kvm_intel or kvm_amd (`modprobe kvm_intel`). Another hypervisor may hold the processor, "
    "virtualisation may be off in the firmware, or a container's profile may forbid it. A virtual "
    "machine needs nested virtualisation from its provider, and not every kind of it is enough for "
    "gVisor. `pytest-gvisor vm` has a KVM that works on any x86-64 machine."
)
_REMEDIES = {
    Cause.NOT_COMPILED_IN: "Use another release of runsc, or another platform.",
    Cause.BROKEN_BUILD: "Another build works: `pytest-gvisor install` installs gVisor's own "
    "release.",
    Cause.NO_DEVICE: f"In a container, pass the device on (`--device /dev/kvm`). {_NO_KVM}",
    Cause.NOT_GIVEN: "Start the container with `--device /dev/kvm` (docker, podman); a systemd "
    "unit needs `DeviceAllow=/dev/kvm rw`.",
    Cause.NO_PERMISSION: "Add this user to the device's group (`usermod -aG kvm USER`, and log in "
    "again), or in CI write /etc/udev/rules.d/99-kvm.rules with "
    '`KERNEL=="kvm", GROUP="kvm", MODE="0666", OPTIONS+="static_node=kvm"`, then '
    "`udevadm control --reload-rules && udevadm trigger --name-match=kvm`.",
}

# assertTaskGoroutine and the ptrace platform's tracer of 20240729, when Go lays out its goroutines
# in another way than that release knows: the ids of both are misread.
BROKEN = re.compile(r"running on goroutine|ptrace set (fp)?regs( \(.*\))? failed: no such process")
"""The last line of a sentry that fails because of its build, and not because of its host."""


def explain(platform: Platform, cause: Cause, message: str) -> tuple[str, str]:
    """Return facts of this machine to follow the message of a failure, and one line of remedy."""
    if cause in _REMEDIES:
        return "", _REMEDIES[cause]
    if limit := limit_of(message):
        return "", limit
    if platform is Platform.KVM:
        is_virtual = "hypervisor" in processor_flags()
        return " | this is a virtual machine" if is_virtual else "", _NO_KVM
    if not platform.is_known:
        return "", f"{platform} needs what runsc names, or use another platform."
    if found := of_message(message):
        facts, fixes = zip(*found, strict=True)
        return "".join(f" | {fact}" for fact in facts), " ".join(fixes)
    return "", (
        f"{platform} traces its own children: kernel.yama.ptrace_scope must be below 3, and a "
        "container around it needs a profile that allows ptrace, namespaces and mounts: "
        f"{CONTAINER}."
    )


# fork(2) and unshare(2) fail with EPERM if namespaces are forbidden, and with ENOSPC if one more is
# too many. Go has these texts for both, in every release.
_NAMESPACES = re.compile(
    r"(?:fork/exec|clone|unshare|user namespace).*(?:operation not permitted|no space left)",
    re.IGNORECASE,
)


def limit_of(message: str) -> str:
    """Return a sentence on the limit that a sandbox's failure names, unless it is on namespaces."""
    return "" if _NAMESPACES.search(message) else limit_reached(message)


def of_message(message: str, proc: str = "/proc") -> list[Obstacle]:
    """Return facts that may explain a sandbox's failure with this message."""
    # The obstacles to unshare(2) and clone(2) with CLONE_NEWUSER.
    if _NAMESPACES.search(message) and (found := chroot(proc) or _limits(proc) or seccomp(proc)):
        return found
    return tracing(proc)


def of_errno(number: int, proc: str = "/proc") -> list[Obstacle]:
    """Return facts that may explain this errno of unshare(2) or mount(2)."""
    # A chroot's root is no mount point, so its propagation cannot be changed: EINVAL (mount(2)).
    if number in (errno.EPERM, errno.EINVAL) and (found := chroot(proc)):
        return found
    return _limits(proc) if number in (errno.EPERM, errno.ENOSPC, errno.EUSERS) else []


def _limits(proc: str) -> list[Obstacle]:
    if text_in(f"{proc}/sys/user/max_user_namespaces").strip() == "0":
        return [(
            "/proc/sys/user/max_user_namespaces is 0: no user can make a user namespace",
            "As root: sysctl user.max_user_namespaces=10000",
        )]  # fmt: skip
    return []


def chroot(proc: str = "/proc") -> list[Obstacle]:
    """Return an obstacle if this process is in a chroot: see user_namespaces(7), EPERM."""
    # Mounts outside of the root are not listed (proc_pid_mountinfo(5)). So if no line is of the
    # root itself, the root is a folder of a file system that is mounted elsewhere.
    with contextlib.suppress(OSError):
        points = [mount.point for mount in mounts(f"{proc}/self/mountinfo")]
        if points and "/" not in points:
            return [_CHROOT]
    # The root of a chroot may be a mount point. Then it differs from the root of a process that is
    # in the same mount namespace, and not in the chroot.
    for pid in (1, os.getppid()):
        try:
            same = os.readlink(f"{proc}/{pid}/ns/mnt") == os.readlink(f"{proc}/self/ns/mnt")
            if same and not os.path.samefile(f"{proc}/{pid}/root", f"{proc}/self/root"):
                return [_CHROOT]
        except OSError:  # another user's process may not be looked at
            continue
    return []


def tracing(proc: str = "/proc") -> list[Obstacle]:
    """Return the obstacles to ptrace(2)."""
    found = []
    if text_in(f"{proc}/sys/kernel/yama/ptrace_scope").strip() == "3":
        found.append((
            "kernel.yama.ptrace_scope is 3, which forbids every ptrace until the next boot",
            "Boot with kernel.yama.ptrace_scope below 3 (/etc/sysctl.d): 3 cannot be lowered.",
        ))  # fmt: skip
    return found + seccomp(proc)


def seccomp(proc: str = "/proc") -> list[Obstacle]:
    """Return an obstacle if this process is under a seccomp filter."""
    # 2 is a filter (proc_pid_status(5)); what it forbids cannot be asked.
    with contextlib.suppress(OSError):
        if status_of(where=proc).get("Seccomp") == "2":
            return [(
                "this process is under a seccomp filter, as in a container",
                f"Let the container's profile allow ptrace, namespaces and mounts: {CONTAINER}.",
            )]  # fmt: skip
    return []


def processor_flags(proc: str = "/proc") -> list[str]:
    """Return the flags of the first processor; none on machines that name them otherwise."""
    return text_in(f"{proc}/cpuinfo").partition("\nflags")[2].partition("\n")[0].split()
