"""Facts of this machine that keep a sandbox from starting, each with a remedy.

runsc's own texts differ by release; the switches of the kernel and the errno in a text do not. So
an error is matched by its errno and by the call that it names. Its cause is read from /proc.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re

from pytest_gvisor.programs.proc import mounts, status_of

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

# fork(2) and unshare(2) say EPERM where namespaces are forbidden, and ENOSPC where one more is too
# many. Go puts both in these words, in every release.
_NAMESPACES = re.compile(
    r"(?:fork/exec|clone|unshare|user namespace).*(?:operation not permitted|no space left)",
    re.IGNORECASE,
)


def of_message(message: str, proc: str = "/proc") -> list[Obstacle]:
    """Return facts that may explain a sandbox's failure with this message."""
    found = namespaces(proc) if _NAMESPACES.search(message) else []
    return found or tracing(proc)


def of_errno(number: int, proc: str = "/proc") -> list[Obstacle]:
    """Return facts that may explain this errno of unshare(2) or mount(2)."""
    # A chroot's root is no mount point, so its propagation cannot be changed: EINVAL (mount(2)).
    if number in (errno.EPERM, errno.EINVAL) and (found := chroot(proc)):
        return found
    return _limits(proc) if number in (errno.EPERM, errno.ENOSPC, errno.EUSERS) else []


def namespaces(proc: str = "/proc") -> list[Obstacle]:
    """Return the obstacles to unshare(2) and clone(2) with CLONE_NEWUSER."""
    return chroot(proc) or _limits(proc) or seccomp(proc)


def _limits(proc: str) -> list[Obstacle]:
    if _read(f"{proc}/sys/user/max_user_namespaces").strip() == "0":
        return [(
            "/proc/sys/user/max_user_namespaces is 0: no user can make a user namespace",
            "As root: sysctl user.max_user_namespaces=10000",
        )]  # fmt: skip
    return []


def chroot(proc: str = "/proc") -> list[Obstacle]:
    """Return an obstacle if this process is in a chroot: see user_namespaces(7), EPERM."""
    # What is mounted outside of the root is not listed (proc_pid_mountinfo(5)): without a line for
    # the root itself, the root is a folder of a file system that is mounted elsewhere.
    with contextlib.suppress(OSError):
        points = [mount.point for mount in mounts(f"{proc}/self/mountinfo")]
        if points and "/" not in points:
            return [_CHROOT]
    # The root of a chroot may be a mount point. Then it is another one than that of a process in
    # the same mount namespace that was there first.
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
    if _read(f"{proc}/sys/kernel/yama/ptrace_scope").strip() == "3":
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


def is_virtual() -> bool:
    """Whether this machine is a virtual one, by its processor's flags."""
    flags = _read("/proc/cpuinfo").partition("\nflags")[2].partition("\n")[0].split()
    return "hypervisor" in flags


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(fd, encoding="utf-8", errors="replace") as file:
        try:
            return file.read(1024 * 1024)
        except OSError:
            return ""
