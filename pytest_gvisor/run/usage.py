"""The resources that a sandbox has used, by the counters of its cgroups."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_gvisor.completed import Usage
from pytest_gvisor.run.cgroup import counters, words


def measured(places: Mapping[str, str]) -> Usage:
    """Return the figures of a sandbox that has ended.

    ``places`` are the folders of its cgroups by controller. They must still be there.
    """
    cpu_time, cpu_time_source = _cpu_time(places)
    peak_memory, peak_memory_source = _first(
        places.get("memory", ""), ("memory.peak", "memory.max_usage_in_bytes")
    )
    peak_tasks, peak_tasks_source = _first(places.get("pids", ""), ("pids.peak",))
    return Usage(
        cpu_time=cpu_time,
        cpu_time_source=cpu_time_source,
        peak_memory=peak_memory,
        peak_memory_source=peak_memory_source,
        peak_tasks=peak_tasks,
        peak_tasks_source=peak_tasks_source,
    )


def _cpu_time(places: Mapping[str, str]) -> tuple[float | None, str]:
    """Return seconds, and the file that they are from."""
    for folder in places.values():
        # Version 2 counts in each cgroup; the file of this name in version 1 has other counters.
        used = (counters(folder, "cpu.stat") or {}).get("usage_usec", "")
        if used.isdecimal():
            return int(used) / 1e6, "cpu.stat"
        nanoseconds, source = _first(folder, ("cpuacct.usage",))
        if nanoseconds is not None:
            return nanoseconds / 1e9, source
    return None, ""


def _first(folder: str, names: tuple[str, ...]) -> tuple[int | None, str]:
    """Return the number in the first of these files that is there, and its name."""
    for name in names:
        match words(folder, name):
            case [number] if number.isdecimal():
                return int(number), name
    return None, ""
