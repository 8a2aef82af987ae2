"""Messages about the limit on tasks: what counts against it, and the least of a platform."""

from __future__ import annotations

from pytest_gvisor.errors import UsageError
from pytest_gvisor.settings import Platform

# The most tasks that were there at once while `true` ran, on releases of 2024 and 2026 with
# two processors: 30 on systrap, 42 on ptrace, 27 on kvm. With 32 processors it was 36 on systrap.
LEAST = {Platform.SYSTRAP: 40, Platform.PTRACE: 50, Platform.KVM: 40}
# With 10 to 40 processes inside. On ptrace each has a thread for every thread that has traced it.
_EACH = {Platform.SYSTRAP: "2 or 3", Platform.PTRACE: "about 15", Platform.KVM: "about 1"}

_COUNTS = "the threads and processes of runsc itself count too"


def _needed(platform: Platform) -> int:
    return LEAST.get(platform, max(LEAST.values()))


def reached(limit: int | None, platform: Platform) -> str:
    """Describe the limit that ended a sandbox under its workload."""
    each = _EACH.get(platform, "some")
    return (
        f"pids={limit} was reached, and {_COUNTS}: on {platform} a workload of one process needs "
        f"pids={_needed(platform)}, and each further process takes {each}"
    )


def too_few(limit: int | None, platform: Platform) -> UsageError:
    """Return the error of a sandbox that its limit keeps from starting."""
    needed = _needed(platform)
    if limit is not None and limit >= needed:
        # Go starts a thread for each system call that is slow, and on a slow machine many are.
        needed = 2 * limit
    return UsageError(
        f"pids={limit} is too few to start a sandbox on {platform}, where `true` needs "
        f"pids={needed} here: {_COUNTS}",
        next_step="Ask for more, or for no limit.",
    )
