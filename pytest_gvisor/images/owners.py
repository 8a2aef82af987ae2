"""The owners of an unpacked image's files, by this process's user and user namespace."""

from __future__ import annotations

import hashlib
import os

from pytest_gvisor.errors import ImageError
from pytest_gvisor.programs.proc import IdRange, id_map


def keeps_owners() -> bool:
    """Whether files can be given away: by root, unless root is alone in its namespace.

    Raises `ImageError`.
    """
    return os.geteuid() == 0 and all(
        sum(ids.size for ids in _map(kind)) > 1 for kind in ("uid", "gid")
    )


def part_of(cache: str) -> str:
    """Return the part of a cache folder for trees of this process's user namespace.

    Outside of any it is the folder itself, whose own owner says the rest. Raises `ImageError`.
    """
    maps = [_map(kind) for kind in ("uid", "gid")]
    if all([ids.size for ids in found] == [2**32 - 1] for found in maps):
        return cache
    ranges = (" ".join(f"{ids.inside} {ids.outside} {ids.size}" for ids in found) for found in maps)
    said = "\n".join([str(os.geteuid()), *ranges])
    return os.path.join(cache, f"owners-{hashlib.sha256(said.encode()).hexdigest()[:16]}")


def _map(kind: str) -> tuple[IdRange, ...]:
    try:
        return id_map(kind)
    except OSError as error:
        raise ImageError(f"cannot read /proc/self/{kind}_map: {error.strerror}") from error
