"""Whether a platform works here: what can be seen and asked, and then a bounded real run.

Nothing short of a run tells. On some nested hosts /dev/kvm opens and answers KVM_CREATE_VM and
KVM_CREATE_VCPU, and the sandbox then spins for ever; systrap and ptrace depend on the yama scope
and on the seccomp profile of the container around them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection

from pytest_gvisor.errors import (
    GvisorError,
    PlatformUnavailable,
    RunscFailed,
    SandboxCrashed,
    WorkloadTimeout,
)
from pytest_gvisor.runsc import kvm
from pytest_gvisor.runsc.words import Cause, facts, remedy
from pytest_gvisor.settings import Platform

PROBE_DEADLINE = 10.0
LONGEST_DEADLINE = 60.0
KVM_DEVICE = "/dev/kvm"


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


def deadline_for(timeout: float) -> float:
    """The deadline of a probe where a workload has ``timeout`` seconds.

    10 seconds by default; who gives workloads longer than the default has a slow machine.
    """
    return min(max(PROBE_DEADLINE, timeout / 6), LONGEST_DEADLINE)


def probe(
    platform: Platform,
    compiled_in: Collection[Platform],
    run: Callable[[float], tuple[str, str]],
    *,
    kvm_device: str = KVM_DEVICE,
    deadline: float = PROBE_DEADLINE,
    known: Availability | None = None,
    said: Callable[[], str] = str,
) -> Availability:
    """Find out whether ``platform`` works.

    ``run`` runs ``uname -r`` on the platform under a deadline in seconds and returns what it
    printed, and the boot log; everything that it started is dead when it returns or raises.
    ``said`` gives the line of runsc's own logs that says why the last run failed, or ``""``:
    where a platform is what fails, runsc's message is not more than that the sandbox is gone.
    ``known`` is what an earlier run has come to; it stands in for a run, and not for a look.
    Takes at most ``deadline``, `kvm.DEADLINE` where the platform is kvm, and the time to kill.
    """
    seen = _before(platform, compiled_in, kvm_device)
    if seen is not None:
        return seen
    if known is not None:
        return known
    try:
        release, boot_log = run(deadline)
    except WorkloadTimeout:
        detail = f"a sandbox that only runs `uname -r` did not end within {deadline:g} s"
        return _unavailable(platform, Cause.PROBE_HUNG, _told(detail, said()) + facts(platform))
    except (RunscFailed, SandboxCrashed) as error:
        detail = _told(_first_lines(error, 1 if said() else 4), said())
        return _unavailable(platform, Cause.PROBE_FAILED, detail + facts(platform))
    if release == os.uname().release:
        detail = f"the workload saw the host's own kernel {release}; {boot_log[-500:]}"
        return Availability(platform=platform, cause=Cause.PROBE_FAILED, detail=detail)
    return Availability(platform=platform, cause=Cause.NONE)


def _before(
    platform: Platform, compiled_in: Collection[Platform], kvm_device: str
) -> Availability | None:
    """What is plain without a run, or None."""
    if platform not in compiled_in:
        names = ", ".join(sorted(compiled_in)) or "none that is known"
        return _unavailable(platform, Cause.NOT_COMPILED_IN, f"this runsc has {names}")
    if platform is not Platform.KVM:
        return None
    refusal = kvm.look(kvm_device)
    return None if refusal is None else _unavailable(platform, refusal.cause, refusal.detail)


def _unavailable(platform: Platform, cause: Cause, detail: str) -> Availability:
    return Availability(
        platform=platform, cause=cause, detail=detail, next_step=remedy(platform, cause)
    )


def _first_lines(error: GvisorError, count: int) -> str:
    return " | ".join(line.strip() for line in error.message.splitlines()[:count])


def _told(detail: str, said: str) -> str:
    return f"{detail} | runsc's log: {said}" if said else detail
