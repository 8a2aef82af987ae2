"""The passwd and group files for a root file system that is made. Does no input or output."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

_ROOT: Final = "root:x:0:0:root:/root:/bin/sh\n"
_NOBODY: Final = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
_GROUPS: Final = {0: "root", 5: "tty", 65534: "nogroup"}
_NO_TEXT: Final = frozenset(":\n\0")
NAME: Final = "user"
"""The name of a user, and of a group, that has no other."""


class Account(NamedTuple):
    """A user other than root, with an entry of its own."""

    uid: int
    gid: int
    name: str = NAME
    home: str = "/tmp"

    groups: tuple[tuple[int, str], ...] = ()
    """The names of groups: of its own, and of those that it is in besides."""


def account_of(uid: int, gid: int) -> Account | None:
    """Return the account of a workload's user; None for those that each root file system has."""
    if uid in {0, 65534} and gid in _GROUPS:
        return None
    return Account(uid=uid, gid=gid, groups=((gid, NAME),))


def files(account: Account | None) -> dict[str, str]:
    """Return the texts of ``etc/passwd`` and ``etc/group``."""
    groups = dict(_GROUPS)
    passwd = [_ROOT, _NOBODY]
    if account is not None:
        if account.uid:
            if account.uid == 65534:
                del passwd[1]
            taken = [line.partition(":")[0] for line in passwd]
            name = account.name if _is_free(account.name, taken) else NAME
            passwd.append(f"{name}:x:{account.uid}:{account.gid}::{account.home}:/bin/sh\n")
        for gid, name in account.groups:
            groups.setdefault(gid, name if _is_free(name, groups.values()) else f"group{gid}")
    group = [f"{name}:x:{gid}:\n" for gid, name in groups.items()]
    return {"etc/passwd": "".join(passwd), "etc/group": "".join(group)}


def _is_free(name: str, taken: Collection[str]) -> bool:
    return bool(name) and name not in taken and _NO_TEXT.isdisjoint(name)
