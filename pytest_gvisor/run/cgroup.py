"""A cgroup for one sandbox, made here and joined by the child before it becomes runsc.

runsc runs with ``--ignore-cgroups``, and so it neither makes nor removes a cgroup. The child joins
ours before execve, so that the limits hold for runsc, gofer and sentry together. The counters
outlive runsc, and tell a kill by the memory controller from any other SIGKILL. Version 1,
version 2 and the hybrid of both are supported: cgroups(7).
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from pytest_gvisor.base.completed import Usage
from pytest_gvisor.base.errors import LaunchError, on_error, stage
from pytest_gvisor.base.trust import SHORTAGES
from pytest_gvisor.oci.spec import Resources
from pytest_gvisor.programs import proc
from pytest_gvisor.programs.leftovers import CGROUP_PREFIX as PREFIX
from pytest_gvisor.programs.linux import closing
from pytest_gvisor.programs.paths import within

_PERIOD = 100_000  # microseconds; the kernel's default (admin-guide/cgroup-v2, cpu.max)
_SWAP = ("memory.swap.max", "memory.memsw.limit_in_bytes")
_COUNTING = ("cpuacct", "memory", "pids")
"""The controllers of version 1 that count what a sandbox uses."""

Limits = Mapping[str, float]
"""Limits of one sandbox by their controllers. A controller that is missing here limits nothing.

``memory`` is in bytes, with swap where the kernel accounts for it. ``cpu`` is in processors.
"""


def limits_of(resources: Resources) -> Limits:
    """Return the limits of a specification in the form of a cgroup's."""
    asked = {
        "memory": resources.memory.limit or 0,
        "pids": resources.pids.limit or 0,
        "cpu": (resources.cpu.quota or 0) / (resources.cpu.period or _PERIOD),
    }
    return {controller: limit for controller, limit in asked.items() if limit > 0}


class Hierarchy(NamedTuple):
    """The mount point of a controller's hierarchy, and this process's cgroup in it."""

    version: int
    mount: str
    own: str
    """Path of this process's cgroup below ``mount``, starting with a slash."""


class Cgroups:
    """The folders of one sandbox: one for each hierarchy that a limit needs.

    ``announce`` is called with the path of each before it is made.
    """

    def __init__(self, announce: Callable[[str], None] = lambda _path: None) -> None:
        self.folders: list[str] = []
        self.places: dict[str, str] = {}
        """The folder of each controller that limits or counts."""

        self._announce = announce

    def limit(self, controller: str, hierarchy: Hierarchy | None, limit: float) -> None:
        """Set the limit of one controller. Raises `LaunchError`."""
        if hierarchy is None:
            raise _refused(controller, "this host has no such cgroup controller mounted", 0)
        try:
            folder = self.add(controller, hierarchy)
            for name, value in _files(controller, hierarchy.version, limit).items():
                # Without swap accounting there is no file for swap.
                if name not in _SWAP or os.path.exists(os.path.join(folder, name)):
                    _write(folder, name, value)
        except OSError as error:
            raise _refused(controller, f"{error.filename}", error.errno or 0) from None

    def add(self, controller: str, hierarchy: Hierarchy) -> str:
        """Return the folder of a controller, made if it is not there. Raises OSError."""
        parent = _parent(hierarchy, controller)
        folder = next((made for made in self.folders if os.path.dirname(made) == parent), "")
        if not folder:
            folder = os.path.join(parent, f"{PREFIX}{secrets.token_hex(8)}")
            self._announce(folder)
            os.mkdir(folder, 0o700)
            self.folders.append(folder)
        self.places[controller] = folder
        return folder

    @contextlib.contextmanager
    def descriptors(self) -> Iterator[list[int]]:
        """Open ``cgroup.procs`` of each folder, for the child to write itself into.

        Raises `LaunchError` if one cannot be opened.
        """
        fds: list[int] = []
        with contextlib.ExitStack() as opened:
            for folder in self.folders:
                with stage("cgroup", "cannot open cgroup.procs"):
                    fd = os.open(f"{folder}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
                fds.append(opened.enter_context(closing(fd)))
            yield fds

    def oom_kills(self) -> int:
        """Return the number of processes that the memory controller has killed in this cgroup."""
        memory = self.places.get("memory", "")
        found = counters(memory, "memory.events") or counters(memory, "memory.oom_control")
        return int(found.get("oom_kill", 0))

    def refused_tasks(self) -> int:
        """Return the number of tasks that the kernel has refused for this cgroup's own limit."""
        pids = self.places.get("pids", "")
        limit, peak = words(pids, "pids.max"), words(pids, "pids.peak")
        # Version 1, and 2 before Linux 6.11, also count tasks that a cgroup above has refused. If
        # the peak is below the limit, none of them was refused here.
        if peak and limit and peak != limit:
            return 0
        return int(counters(pids, "pids.events").get("max", 0))

    def remove(self) -> None:
        """Remove the folders; they must be empty of processes."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def hierarchies() -> dict[str, Hierarchy]:
    """Return the mounted controllers by name.

    Raises OSError where /proc cannot be read.
    """
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
        own = [line.rstrip("\n").split(":", 2) for line in lines]
    paths = {name: path for _id, names, path in own for name in names.split(",")}
    found: dict[str, Hierarchy] = {}
    for mount in proc.mounts():
        if mount.kind == "cgroup2" and "" in paths:
            below = _below(mount.root, paths[""])
            for name in words(mount.point, "cgroup.controllers"):
                found.setdefault(name, Hierarchy(version=2, mount=mount.point, own=below))
        elif mount.kind == "cgroup":
            for name in mount.options.split(","):
                if name in paths:
                    below = _below(mount.root, paths[name])
                    found[name] = Hierarchy(version=1, mount=mount.point, own=below)
    return found


def _below(root: str, own: str) -> str:
    """The cgroup ``own`` as it is seen in a mount that shows the hierarchy from ``root`` on."""
    top = root.rstrip("/")
    return own.removeprefix(top) or "/" if within(own, root) else own


def words(folder: str, name: str) -> list[str]:
    """Return the content of a file of a cgroup, split at blanks; nothing if either is missing.

    Raises `LaunchError` where this process has no descriptor or memory for it: a kill for memory
    would be a workload's own end.
    """
    with stage("cgroup", f"cannot read {name}"):
        return proc.text_in(os.path.join(folder, name), SHORTAGES).split() if folder else []


def counters(folder: str, name: str) -> dict[str, str]:
    """Return the numbers in a file of a cgroup by their names; none where either is missing."""
    found = words(folder, name)
    return dict(zip(found[::2], found[1::2], strict=False))


def _parent(hierarchy: Hierarchy, controller: str) -> str:
    """The folder under which a cgroup with this controller can be made."""
    own = os.path.normpath(hierarchy.mount + hierarchy.own)
    if hierarchy.version == 1:
        return own
    # Version 2 has no processes beside cgroups that have controllers ("no internal processes"), so
    # ours is made beside this process's cgroup: its parent has the controllers switched on.
    parent = own if own == hierarchy.mount else os.path.dirname(own)
    # The controller stays switched on. To switch it off would drop the limits of other cgroups that
    # somebody has made below the same parent meanwhile.
    if controller not in words(parent, "cgroup.subtree_control"):
        _write(parent, "cgroup.subtree_control", f"+{controller}")
    return parent


def _write(folder: str, name: str, value: str) -> None:
    with closing(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CLOEXEC)) as fd:
        os.write(fd, value.encode())


def _files(controller: str, version: int, limit: float) -> dict[str, str]:
    """Return the files of a controller that hold its limit, with their content."""
    size = str(int(limit))
    quota = max(1000, round(limit * _PERIOD))  # the kernel refuses less than a millisecond
    match controller, version:
        case "memory", 2:
            return {"memory.max": size, "memory.swap.max": "0"}
        case "memory", _:
            return {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes": size}
        case "pids", _:
            # The kernel refuses more than a machine can have: PID_MAX_LIMIT.
            return {"pids.max": f"{min(int(limit), 1 << 22)}"}
        case _, 2:
            return {"cpu.max": f"{quota} {_PERIOD}"}
        case _:
            return {"cpu.cfs_period_us": str(_PERIOD), "cpu.cfs_quota_us": str(quota)}


def create(limits: Limits, announce: Callable[[str], None]) -> Cgroups:
    """Make the cgroups that hold ``limits``; call ``announce`` with each path before.

    Raises `LaunchError` with stage ``cgroup`` where a limit cannot be set: a limit is never
    silently left out.
    """
    made = Cgroups(announce)
    if not limits:
        return made
    with stage("cgroup", "cannot find the cgroup controllers"):
        known = hierarchies()
    with on_error(made.remove):
        for controller, limit in limits.items():
            made.limit(controller, known.get(controller), limit)
    # To join the first cgroup takes the kernel some 15 ms, and each further one next to nothing.
    # So where a limit is set anyway, controllers that count are added for `measured`.
    for controller in _COUNTING:
        with contextlib.suppress(OSError):
            if (hierarchy := known.get(controller)) and hierarchy.version == 1:
                made.add(controller, hierarchy)
    return made


def _refused(controller: str, detail: str, number: int) -> LaunchError:
    return LaunchError(
        "cgroup", f"the {controller} limit cannot be set: {detail}", errno=number,
        next_step="Run as root, or in a cgroup of this user's, on a host with "
        f"the {controller} controller. Or ask for no limit.",
    )  # fmt: skip


def measured(places: Mapping[str, str]) -> Usage:
    """Return the figures of a sandbox that has ended.

    ``places`` are the folders of its cgroups by controller, which are not removed yet.
    """
    memory, tasks = places.get("memory", ""), places.get("pids", "")
    return Usage(
        cpu_time=_cpu_time(places),
        peak_memory=_first(memory, "memory.peak", "memory.max_usage_in_bytes"),
        peak_tasks=_first(tasks, "pids.peak"),
    )


def _cpu_time(places: Mapping[str, str]) -> float | None:
    """Return seconds."""
    for folder in places.values():
        # In version 2 each cgroup counts its time in this file, whatever its controllers are. In
        # version 1 a file of this name has other counters.
        used = counters(folder, "cpu.stat").get("usage_usec", "")
        if used.isdecimal():
            return int(used) / 1e6
        if (nanoseconds := _first(folder, "cpuacct.usage")) is not None:
            return nanoseconds / 1e9
    return None


def _first(folder: str, *names: str) -> int | None:
    """Return the number in the first of these files that exists; None if none has a number."""
    for name in names:
        match words(folder, name):
            case [number] if number.isdecimal():
                return int(number)
    return None
