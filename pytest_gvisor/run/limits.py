"""Limits of a sandbox: /dev/shm and open files follow the host's, and memory is shown.

Programs size themselves by the total memory that they see. runsc shows them the limit of a cgroup
that it has made itself, and with ``--ignore-cgroups`` the total of the host's /proc/meminfo. So the
child binds a file with our limit over /proc/meminfo, in the mount namespace of the run.
"""

from __future__ import annotations

import os
import re
import resource
from typing import Final

from pytest_gvisor.base.errors import UsageError, stage
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.oci.defaults import SHM
from pytest_gvisor.oci.mounts import parse_size
from pytest_gvisor.oci.skeleton import write
from pytest_gvisor.programs.sources import Source

_SHM: Final = "/dev/shm"
_LEAST_FILES, _MOST_FILES = 64, 2**30
"""The open files of a process: those of a Python with pytest, and what docker calls infinity."""

_ENDLESS: Final = 2**20
"""The limit where the host has none: the kernel's own bound, fs.nr_open, is usually this one."""

_MEMINFO = "/proc/meminfo"
_TOTAL = re.compile(r"^MemTotal:\s+(\d+) kB$", re.MULTILINE)

# The most tasks that were there at once while `true` ran, on releases of 2024 and 2026 with
# two processors: 30 on systrap, 42 on ptrace, 27 on kvm. With 32 processors it was 36 on systrap.
LEAST_TASKS = {Platform.SYSTRAP: 40, Platform.PTRACE: 50, Platform.KVM: 40}
# With 10 to 40 processes inside. On ptrace each has a thread for every thread that has traced it.
_TASKS_EACH = {Platform.SYSTRAP: "2 or 3", Platform.PTRACE: "about 15", Platform.KVM: "about 1"}

_TASKS_COUNT = "the threads and processes of runsc itself count too"


def shm(settings: Settings) -> int:
    """Return the size of a sandbox's /dev/shm in bytes. Raises `UsageError`.

    Files in it count against the sandbox's limit on memory, so it is never larger than that.
    """
    memory = None if settings.memory is None else parse_size(settings.memory)
    if settings.shm is None:
        size = _hosts_shm()
        return size if memory is None else min(size, memory)
    size = parse_size(settings.shm)
    if memory is not None and size > memory:
        raise UsageError(
            f"shm={settings.shm!r} is more than memory={settings.memory!r}, which it is a part of"
        )
    return size


def nofile() -> tuple[int, int]:
    """Return the soft and the hard limit on the open files of each process of a sandbox."""
    soft, hard = (_bounded(limit) for limit in resource.getrlimit(resource.RLIMIT_NOFILE))
    return soft, max(soft, hard)


def _bounded(limit: int) -> int:
    if limit == resource.RLIM_INFINITY:
        return _ENDLESS
    return max(_LEAST_FILES, min(limit, _MOST_FILES))


def _hosts_shm() -> int:
    """Return the size of the host's /dev/shm; docker's if there is none of its own."""
    try:
        found = os.statvfs(_SHM)
        if os.path.ismount(_SHM) and found.f_blocks:
            return found.f_blocks * found.f_frsize
    except OSError:
        pass
    return SHM


def total_memory(limit: int, folder: str) -> list[Source]:
    """Return the source and target of the mount that shows a limit in bytes; none if it is higher.

    The source is made in ``folder``. Raises `LaunchError`.
    """
    with stage("memory", f"cannot show runsc a {_MEMINFO} of the limit"):
        with open(_MEMINFO, encoding="ascii") as file:
            text = file.read()
        total = _TOTAL.search(text)
        if total is None or int(total[1]) * 1024 <= limit:
            return []
        source = os.path.join(folder, "meminfo")
        line = f"MemTotal: {limit // 1024:>14} kB"
        write(source, _TOTAL.sub(line, text).encode(), 0o444)
    return [Source(source, _MEMINFO)]


def _tasks_needed(platform: Platform) -> int:
    return LEAST_TASKS.get(platform, max(LEAST_TASKS.values()))


def tasks_reached(limit: float | None, platform: Platform) -> str:
    """Describe the limit that ended a sandbox under its workload."""
    each = _TASKS_EACH.get(platform, "some")
    return (
        f"pids={limit} was reached, and {_TASKS_COUNT}: on {platform} a workload of one process "
        f"needs pids={_tasks_needed(platform)}, and each further process takes {each}"
    )


def too_few_tasks(limit: float | None, platform: Platform) -> UsageError:
    """Return the error of a sandbox that its limit keeps from starting."""
    needed: float = _tasks_needed(platform)
    if limit is not None and limit >= needed:
        # Go starts a thread for each system call that is slow, and on a slow machine many are.
        needed = 2 * limit
    return UsageError(
        f"pids={limit} is too few to start a sandbox on {platform}, where `true` needs "
        f"pids={needed} here: {_TASKS_COUNT}",
        next_step="Ask for more, or for no limit.",
    )
