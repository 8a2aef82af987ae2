"""The host's folders that tests inside may write to, and the checks when pytest runs as root.

A file that a test leaves there has the mode and the owner that the test gave it. With root's rights
that is a program by which every user of the host becomes root. Removing it afterwards would be too
late: it can be started the moment it is there.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable

from pytest_gvisor.errors import UsageError
from pytest_gvisor.escape import escape
from pytest_gvisor.oci.mounts import bind
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.programs import leftovers
from pytest_gvisor.sessions import places

_HARMLESS = os.ST_NOSUID | os.ST_NODEV


def mounts(paths: Iterable[str]) -> list[Mount]:
    """Return the writable mounts of these folders at their own paths. Raises `UsageError`."""
    made = [bind(path, os.path.abspath(path), readonly=False) for path in paths]
    for mount in made:
        _check(mount.source)
    return made


def check(paths: Iterable[str]) -> None:
    """Raise `UsageError` for a folder that root must not share. A folder may be missing so far."""
    for path in paths:
        if os.path.exists(path):
            _check(os.path.realpath(path))


def _check(folder: str) -> None:
    if places.outer_uid() != 0 or not (point := harmful(folder)):
        return
    path = escape(shlex.quote(folder))  # whole, since it is to be pasted
    where = "" if point == folder else f" (its mount {escape(point)})"
    raise UsageError(
        f"--gvisor-writable {path} as root: a test could leave a set-uid program of root "
        f"there, because the file system{where} is not mounted with nosuid and nodev",
        next_step="Run pytest as an ordinary user, or mount such a file system there first: "
        f"`mount -t tmpfs -o nosuid,nodev tmpfs {path}`.",
    )


def harmful(folder: str) -> str:
    """Return the first of a folder and the mounts below it that allows set-uid programs or
    devices.
    """
    for point in (folder, *leftovers.mount_points(folder)):
        try:
            flags = os.statvfs(point).f_flag
        except OSError:
            return point
        if flags & _HARMLESS != _HARMLESS:
            return point
    return ""
