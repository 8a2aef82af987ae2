"""Unpack gVisor's release archive: `runsc` and the files of ``gvisor-bin``, nothing else.

In constant memory: a small archive may hold a very large one. The time is the caller's to bound.
"""

from __future__ import annotations

import math
import os
import re

from pytest_gvisor.base.errors import ImageError, InstallFailed
from pytest_gvisor.base.escape import escape, shown
from pytest_gvisor.images.streams import CHUNK, Budget, Inflated, Limits, Section, open_file
from pytest_gvisor.images.tar import Kind, Tar
from pytest_gvisor.programs.linux import closing

MAX_UNPACKED = 4 * 1024 * 1024 * 1024
_WANTED = re.compile(r"runsc|gvisor-bin/[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)


def unpack(path: str, folder: str) -> None:
    """Write the files for runsc from the archive ``path`` into the new ``folder``, executable.

    Members of any other name are left out, so nothing is written elsewhere. Raises `InstallFailed`
    for an archive that cannot be read, holds more than 4 GiB or has no runsc.
    """
    os.mkdir(folder, 0o755)
    os.chmod(folder, 0o755)
    try:
        fd, status = open_file(path, shown(path))
        with closing(fd):
            limits = Limits(max_bytes=MAX_UNPACKED, max_seconds=math.inf)
            section = Section(fd, 0, status.st_size)
            _unpack(Tar(Inflated(section, Budget(limits=limits))), folder)
    except ImageError as error:
        raise InstallFailed(f"the archive cannot be read: {error.message}") from error
    if not os.path.isfile(os.path.join(folder, "runsc")):
        raise InstallFailed("the archive has no runsc in it")


def _unpack(members: Tar, folder: str) -> None:
    for member in members:
        name = re.sub(r"^(\./)+", "", os.fsdecode(member.name))
        if not _WANTED.fullmatch(name) or member.kind is Kind.FOLDER:
            continue
        if member.kind is not Kind.FILE:
            raise InstallFailed(f"the archive's {escape(name)} is not a regular file")
        _write(members, folder, name)


def _write(members: Tar, folder: str, name: str) -> None:
    """Write the content of the current member."""
    path = os.path.join(folder, name)
    if "/" in name and not os.path.isdir(os.path.dirname(path)):
        os.mkdir(os.path.dirname(path))
        os.chmod(os.path.dirname(path), 0o755)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise InstallFailed(f"the archive has {name} twice") from None
    with open(fd, "wb") as to:
        while piece := members.read(CHUNK):
            to.write(piece)
        os.fchmod(fd, 0o755)
