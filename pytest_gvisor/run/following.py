"""Limits of a sandbox that follow the host's unless they are set: /dev/shm and open files."""

from __future__ import annotations

import os
import resource
from typing import Final

from pytest_gvisor.errors import UsageError
from pytest_gvisor.oci.defaults import SHM
from pytest_gvisor.oci.mounts import parse_size
from pytest_gvisor.setting_values import LEAST_FILES, MOST_FILES
from pytest_gvisor.settings import Settings

_SHM: Final = "/dev/shm"
_ENDLESS: Final = 2**20
"""The limit where the host has none: the kernel's own bound, fs.nr_open, is usually this one."""


def shm(settings: Settings) -> int:
    """Return the size of a sandbox's /dev/shm in bytes. Raises `UsageError`.

    What is in it counts against the sandbox's limit on memory, so it is never larger than that.
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


def nofile(settings: Settings) -> tuple[int, int]:
    """Return the soft and the hard limit on the open files of each process of a sandbox."""
    if settings.nofile is not None:
        return settings.nofile, settings.nofile
    soft, hard = (_bounded(limit) for limit in resource.getrlimit(resource.RLIMIT_NOFILE))
    return soft, max(soft, hard)


def _bounded(limit: int) -> int:
    if limit == resource.RLIM_INFINITY:
        return _ENDLESS
    return max(LEAST_FILES, min(limit, MOST_FILES))


def _hosts_shm() -> int:
    """Return the size of the host's /dev/shm; docker's if there is none of its own."""
    try:
        found = os.statvfs(_SHM)
        if os.path.ismount(_SHM) and found.f_blocks:
            return found.f_blocks * found.f_frsize
    except OSError:
        pass
    return SHM
