"""What a sandbox can leave behind, how it is recognised, and how it is removed.

Used by the keeper after each run and by the sweep of dead sessions. A process is ours only if its
command line names the run's own state folder: a pid that was used again for something else is
never touched. Standard library and `_linux` only.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from pytest_gvisor.launch import _linux
else:
    import _linux


def _names(pid: int, root: bytes) -> bool:
    """Whether the command line of ``pid`` holds the path ``root``; a zombie's is empty."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            return root in cmdline.read(64 * 1024)
    except OSError:
        return False


def processes(root: str, *, everywhere: bool = False) -> list[int]:
    """The live processes of the sandbox whose state folder is ``root``.

    Looks among this process's children, where a subreaper finds every orphan of its own, or, with
    ``everywhere``, among all processes.
    """
    if everywhere:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    else:
        pids = _linux.children_of_self()
    needle = os.fsencode(root)
    return [pid for pid in pids if pid != os.getpid() and _names(pid, needle)]


def kill(pids: list[int], root: str) -> None:
    """SIGKILL each of ``pids`` that still is a process of the sandbox at ``root``."""
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            # The descriptor pins the process; only then is the question whose it is worth asking.
            if _names(pid, os.fsencode(root)):
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def has_state(root: str) -> bool:
    """Whether runsc left a state file, which ``runsc delete --force`` would remove."""
    try:
        return any(name.endswith(".state") for name in os.listdir(root))
    except OSError:
        return False


def remove(folder: str, cgroups: list[str]) -> list[str]:
    """Remove a run's folder and cgroups; returns what could not be removed, in words."""
    leaks = []
    unmount(folder)
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        leaks.append(f"{folder}: {error}")
    for cgroup in cgroups:
        try:
            os.rmdir(cgroup)
        except FileNotFoundError:
            pass
        except OSError as error:
            leaks.append(f"{cgroup}: {error}")
    return leaks


def unmount(folder: str) -> None:
    """Undo every mount at or under ``folder``: rmtree must not walk into one.

    Newer runsc releases bind a network namespace to ``null-netns`` in their state folder.
    """
    prefix = os.fsencode(folder) + b"/"
    with open("/proc/self/mountinfo", "rb") as mounts:
        points = [line.split(b" ", 5)[4] for line in mounts if prefix in line]
    for point in reversed(points):
        # The kernel writes blank, tab, newline and backslash as octal (proc_pid_mountinfo(5)).
        path = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), point)
        if path.startswith(prefix):
            with contextlib.suppress(OSError):
                _linux.umount_lazily(os.fsdecode(path))


def kill_cgroups(cgroups: list[str]) -> None:
    """SIGKILL everything in the cgroups: cgroup.kill where version 2 has it, else one by one."""
    for cgroup in cgroups:
        try:
            with open(os.path.join(cgroup, "cgroup.kill"), "w", encoding="ascii") as switch:
                switch.write("1")
        except OSError:
            for pid in _members(cgroup):
                _kill_member(pid, cgroup)


def _members(cgroup: str) -> list[int]:
    try:
        with open(os.path.join(cgroup, "cgroup.procs"), encoding="ascii") as members:
            return [int(line) for line in members]
    except OSError:
        return []


def _kill_member(pid: int, cgroup: str) -> None:
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if pid in _members(cgroup):  # asked again now that the descriptor pins the process
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
