"""The owners of an unpacked image's files, by this process's user and user namespace."""

from __future__ import annotations

import hashlib
import os

from pytest_gvisor.errors import ImageError


def keeps_owners() -> bool:
    """Whether files can be given away: by root, unless root is alone in its namespace.

    Raises `ImageError`.
    """
    return os.geteuid() == 0 and all(
        sum(int(line.split()[2]) for line in _map(kind).splitlines()) > 1 for kind in ("uid", "gid")
    )


def part_of(cache: str) -> str:
    """Return the part of a cache folder for trees of this process's user namespace.

    Outside of any it is the folder itself, whose own owner says the rest. Raises `ImageError`.
    """
    maps = [" ".join(_map(kind).split()) for kind in ("uid", "gid")]
    if all(found.split()[2:] == [str(2**32 - 1)] for found in maps):
        return cache
    said = "\n".join([str(os.geteuid()), *maps])
    return os.path.join(cache, f"owners-{hashlib.sha256(said.encode()).hexdigest()[:16]}")


def _map(kind: str) -> str:
    path = f"/proc/self/{kind}_map"
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from error
