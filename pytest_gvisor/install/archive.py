"""Unpacking gVisor's release archive: `runsc`, and what lies in ``gvisor-bin``; nothing else."""

from __future__ import annotations

import os
import re
import tarfile
from typing import IO

from pytest_gvisor.errors import InstallFailed
from pytest_gvisor.escape import escape

MAX_UNPACKED = 4 * 1024 * 1024 * 1024
_WANTED = re.compile(r"runsc|gvisor-bin/[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_PIECE = 1024 * 1024


def unpack(path: str, folder: str) -> None:
    """Write what runsc needs of the archive at ``path`` into the new ``folder``, executable.

    Members of any other name are left out, so nothing is written elsewhere. Raises `InstallFailed`
    for an archive that cannot be read or has no runsc.
    """
    os.mkdir(folder, 0o755)
    os.chmod(folder, 0o755)
    left = MAX_UNPACKED
    try:
        with tarfile.open(path, "r|bz2") as members:
            for member in members:
                name = re.sub(r"^(\./)+", "", member.name)
                if not _WANTED.fullmatch(name) or member.isdir():
                    continue
                source = members.extractfile(member) if member.isreg() else None
                if source is None:
                    raise InstallFailed(f"the archive's {escape(name)} is not a regular file")
                left -= member.size
                if left < 0:
                    raise InstallFailed(f"the archive holds more than {MAX_UNPACKED} bytes")
                _write(source, folder, name)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise InstallFailed(f"the archive cannot be read: {escape(str(error))}") from error
    if not os.path.isfile(os.path.join(folder, "runsc")):
        raise InstallFailed("the archive has no runsc in it")


def _write(source: IO[bytes], folder: str, name: str) -> None:
    path = os.path.join(folder, name)
    if "/" in name and not os.path.isdir(os.path.dirname(path)):
        os.mkdir(os.path.dirname(path))
        os.chmod(os.path.dirname(path), 0o755)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise InstallFailed(f"the archive has {name} twice") from None
    with open(fd, "wb") as to:
        while piece := source.read(_PIECE):
            to.write(piece)
        os.fchmod(fd, 0o755)
