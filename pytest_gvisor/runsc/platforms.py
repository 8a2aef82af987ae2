"""Whether a platform works here: what can be seen, and then a bounded real run.

Nothing short of a run tells. On some nested hosts /dev/kvm opens and answers KVM_CREATE_VM and
KVM_CREATE_VCPU, and the sandbox then spins for ever; systrap and ptrace depend on the yama scope
and on the seccomp profile of the container around them.
"""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Callable, Collection

from pytest_gvisor.errors import (
    GvisorError,
    PlatformUnavailable,
    RunscFailed,
    SandboxCrashed,
    WorkloadTimeout,
)
from pytest_gvisor.settings import Platform

PROBE_DEADLINE = 10.0
KVM_DEVICE = "/dev/kvm"


class Cause(enum.StrEnum):
    """Why a platform is not available."""

    NONE = "available"
    NOT_COMPILED_IN = "not compiled in"
    NO_DEVICE = "no device"
    NO_PERMISSION = "no permission"
    PROBE_FAILED = "the probe failed"
    PROBE_HUNG = "the probe hung"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Availability:
    """The verdict on one platform."""

    platform: Platform
    cause: Cause
    detail: str = ""
    next_step: str = ""

    @property
    def available(self) -> bool:
        """Whether sandboxes run on it."""
        return self.cause is Cause.NONE

    def check(self) -> None:
        """Raise `PlatformUnavailable` unless it is available."""
        if not self.available:
            cause = f"{self.cause}: {self.detail}" if self.detail else self.cause.value
            raise PlatformUnavailable(self.platform.value, cause, next_step=self.next_step)


def automatic(compiled_in: Collection[Platform]) -> Platform:
    """The platform that ``auto`` means: systrap where the binary has it, else ptrace."""
    return Platform.SYSTRAP if Platform.SYSTRAP in compiled_in else Platform.PTRACE


def probe(
    platform: Platform,
    compiled_in: Collection[Platform],
    run: Callable[[float], tuple[str, str]],
    *,
    kvm_device: str = KVM_DEVICE,
) -> Availability:
    """Find out whether ``platform`` works.

    ``run`` runs ``uname -r`` on the platform under a deadline in seconds and returns what it
    printed, and the boot log; everything that it started is dead when it returns or raises.
    Takes at most `PROBE_DEADLINE` and the time to kill.
    """
    seen = _before(platform, compiled_in, kvm_device)
    if seen is not None:
        return seen
    try:
        release, boot_log = run(PROBE_DEADLINE)
    except WorkloadTimeout:
        return Availability(
            platform=platform,
            cause=Cause.PROBE_HUNG,
            detail=f"a sandbox that only runs `uname -r` did not end within {PROBE_DEADLINE:g} s",
            next_step=_REMEDIES[platform],
        )
    except (RunscFailed, SandboxCrashed) as error:
        return Availability(
            platform=platform,
            cause=Cause.PROBE_FAILED,
            detail=_first_lines(error),
            next_step=_REMEDIES[platform],
        )
    if release == os.uname().release:
        return Availability(
            platform=platform,
            cause=Cause.PROBE_FAILED,
            detail=f"the workload saw the host's own kernel {release}; {boot_log[-500:]}",
        )
    return Availability(platform=platform, cause=Cause.NONE)


def _before(
    platform: Platform, compiled_in: Collection[Platform], kvm_device: str
) -> Availability | None:
    """What is plain without a run, or None."""
    if platform not in compiled_in:
        names = ", ".join(sorted(compiled_in)) or "none that is known"
        return Availability(
            platform=platform,
            cause=Cause.NOT_COMPILED_IN,
            detail=f"this runsc has {names}",
            next_step="Use another release of runsc, or another platform.",
        )
    if platform is not Platform.KVM:
        return None
    try:
        os.close(os.open(kvm_device, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except FileNotFoundError:
        cause, detail = Cause.NO_DEVICE, f"there is no {kvm_device}"
    except PermissionError:
        cause, detail = Cause.NO_PERMISSION, f"{kvm_device} may not be opened by uid {os.geteuid()}"
    except OSError as error:
        cause, detail = Cause.NO_DEVICE, f"{kvm_device}: {error.strerror}"
    else:
        return None
    return Availability(
        platform=platform, cause=cause, detail=detail, next_step=_REMEDIES[platform]
    )


_REMEDIES = {
    Platform.KVM: "Load kvm_intel or kvm_amd, let this user open /dev/kvm (group kvm), and on a "
    "virtual machine ask its provider for nested virtualisation.",
    Platform.SYSTRAP: "systrap traces its own children: kernel.yama.ptrace_scope must be below 3, "
    "and a container around it needs a seccomp profile that allows ptrace.",
    Platform.PTRACE: "ptrace traces its own children: kernel.yama.ptrace_scope must be below 3, "
    "and a container around it needs a seccomp profile that allows ptrace.",
}


def _first_lines(error: GvisorError) -> str:
    return " | ".join(line.strip() for line in error.message.splitlines()[:4])
