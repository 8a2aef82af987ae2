"""Resolve a user name to uid and gids with the image's own passwd and group files. Tell which
owners the files of an unpacked image have in this process's user namespace.

Source: github.com/moby/sys, user; docker and runc do the same with ``USER`` and ``--user``.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from typing import Final

from pytest_gvisor.base.errors import ImageError
from pytest_gvisor.base.escape import shown
from pytest_gvisor.images.streams import explained
from pytest_gvisor.oci.spec import User
from pytest_gvisor.programs import linux
from pytest_gvisor.programs.proc import IdRange, id_map

_MAX_FILE: Final = 4 * 1024 * 1024
_MAX_ID: Final = 2**32 - 2
_MAX_GROUPS: Final = 1024
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
"""The errors of a path at which there is no file to read; ENXIO is that of a socket."""


def find(root: str, asked: str) -> tuple[User, str]:
    """Find the user for ``name``, ``uid``, ``name:group``, ``uid:gid``…, and their home folder.

    Supplementary groups are those that the image's group file has for the user, unless a group is
    named. A number is an id and never a name, and need not be in either file. Raises `ImageError`
    for a name that is in none.
    """
    name, _, group = asked.partition(":")
    number = _number(name or "0")
    passwd = [f for f in _lines(root, "etc/passwd", 6) if _known(f[2], f[3])]
    same = (f for f in passwd if (f[0] == name if number is None else _id(f[2]) == number))
    found = next(same, None)
    if found is None and number is None:
        raise ImageError(f"there is no user {shown(name)} in its /etc/passwd")
    uid, gid = (_id(found[2]), _id(found[3])) if found else (number or 0, 0)
    home = found[5] if found and found[5].startswith("/") else "/"
    extra: tuple[int, ...] = ()
    groups = [f for f in _lines(root, "etc/group", 4) if _known(f[2])]
    if group:
        gid = _group(groups, group)
    elif found:
        members = dict.fromkeys(_id(f[2]) for f in groups if found[0] in f[3].split(","))
        extra = tuple(members)[:_MAX_GROUPS]
    # With the user's own group: without it, a file of mode 0604, which denies that group, would
    # open.
    return User(uid=uid, gid=gid, additional_gids=tuple(dict.fromkeys((gid, *extra)))), home


def _group(groups: list[list[str]], name: str) -> int:
    if (number := _number(name)) is not None:
        return number
    for fields in groups:
        if fields[0] == name:
            return _id(fields[2])
    raise ImageError(f"there is no group {shown(name)} in its /etc/group")


def _number(text: str) -> int | None:
    if not re.fullmatch("[0-9]{1,10}", text):
        return None
    if not _known(text):
        raise ImageError(f"the id {text} is not in 0..{_MAX_ID}")
    return int(text)


def _known(*ids: str) -> bool:
    return all(re.fullmatch("[0-9]{0,10}", text) and _id(text) <= _MAX_ID for text in ids)


def _id(text: str) -> int:
    return int(text or "0")


def _lines(root: str, path: str, fields: int) -> Iterator[list[str]]:
    """Yield the entries of a file in the image; fields missing at a line's end are empty."""
    text = _read(root, path).decode("utf-8", "surrogateescape")
    for line in text.split("\n"):
        entry = line.strip().split(":")
        if len(entry) >= 3 and entry[0] and not entry[0].startswith("#"):
            yield entry + [""] * (fields - len(entry))


def _read(root: str, path: str) -> bytes:
    """Read a file of the image without following links out of it. Empty if there is no such
    file.
    """
    with explained(f"read its /{path}"):
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
        with linux.closing(os.open(root, os.O_DIRECTORY | os.O_CLOEXEC)) as folder:
            try:
                fd = linux.openat2(folder, path.encode(), flags, linux.RESOLVE_IN_ROOT)
            except OSError as error:
                if error.errno in _ABSENT:
                    return b""
                raise
        with linux.closing(fd):
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return b""
            with open(fd, "rb", closefd=False) as file:
                data = file.read(_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        # The last line would be cut, and a uid of 1000 may become 100.
        raise ImageError(f"its /{path} is larger than {_MAX_FILE} bytes")
    return data


def keeps_owners() -> bool:
    """Whether files can be given away: by root, unless root is alone in its namespace.

    Raises `ImageError`.
    """
    return os.geteuid() == 0 and all(
        sum(ids.size for ids in _map(kind)) > 1 for kind in ("uid", "gid")
    )


def part_of(cache: str) -> str:
    """Return the part of a cache folder for trees of this process's user namespace.

    In the initial namespace it is the folder itself, which belongs to one user. Raises
    `ImageError`.
    """
    maps = [_map(kind) for kind in ("uid", "gid")]
    if all([ids.size for ids in found] == [2**32 - 1] for found in maps):
        return cache
    ranges = (" ".join(f"{ids.inside} {ids.outside} {ids.size}" for ids in found) for found in maps)
    said = "\n".join([str(os.geteuid()), *ranges])
    return os.path.join(cache, f"owners-{hashlib.sha256(said.encode()).hexdigest()[:16]}")


def _map(kind: str) -> tuple[IdRange, ...]:
    with explained(f"read /proc/self/{kind}_map"):
        return id_map(kind)
