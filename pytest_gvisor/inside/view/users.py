"""The user of tests inside: read from what was written, and resolved to ids, groups and a home."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pytest

from pytest_gvisor.base.errors import GvisorError, InsideError, ProtocolError, UsageError
from pytest_gvisor.base.escape import safe
from pytest_gvisor.guest.tests.identity import Identity
from pytest_gvisor.oci.rootfs import Prepared
from pytest_gvisor.oci.skeleton import NAME, Account
from pytest_gvisor.programs.paths import within
from pytest_gvisor.runsc.rootless import Way

KEY: Final = "gvisor_user"
"""The ini key, and where argparse puts the option."""

CALLER: Final = "caller"
ROOT: Final = "root"
_NUMBERS: Final = re.compile(r"(\d{1,10})(?::(\d{1,10}))?", re.ASCII)
_LARGEST: Final = 2**32 - 2
_SYSTEM: Final = frozenset({"/dev", "/proc", "/sys"})
"""Mount points of every sandbox."""

_LONGEST: Final = 1000
_NO_HOME: Final = frozenset(":\n\0")


def read(value: object, name: str) -> str:
    """Read ``caller``, ``root`` or ``UID[:GID]``, in its full form. Raises `UsageError`.

    A uid alone has the group of the same number.
    """
    if value in (CALLER, ROOT):
        return str(value)
    found = _NUMBERS.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise UsageError(
            f"{name}={value!r} is no user of tests inside",
            next_step="Write caller, root, UID or UID:GID in numbers.",
        )
    uid, gid = int(found[1]), int(found[2] or found[1])
    if max(uid, gid) > _LARGEST:
        raise UsageError(f"{name}={value!r} has an id that is not in 0..{_LARGEST}")
    if uid == 0 and gid != 0:
        raise UsageError(f"{name}={value!r}: uid 0 is root, whose group is 0")
    return f"{uid}:{gid}" if uid else ROOT


def of_run(config: pytest.Config) -> str:
    """Return the user of this run's tests inside. Raises `UsageError`."""
    option, ini = config.getoption(KEY, None), config.getini(KEY)
    if option is not None:
        return read(option, "--gvisor-user")
    return read(ini, f"{KEY} in {config.inipath}") if ini else CALLER


def refused(message: Mapping[str, Any]) -> GvisorError:
    """Return the error for a message from inside that says why there is no such user."""
    number, text = message.get("errno"), message.get("text")
    if type(number) is not int or not 0 <= number < 4096 or not isinstance(text, str):
        return ProtocolError("a 'no user' from inside without an error number and a text")
    return InsideError(
        f"its kernel cannot make the user of the tests: {safe(text[:_LONGEST])}. To run the tests "
        "as root: --gvisor-user root (or ini gvisor_user, or @pytest.mark.in_gvisor(user='root'))",
        errno=number,
    )


class Inhabitant(NamedTuple):
    """A user who is not root, as one sandbox has them."""

    account: Account
    groups: tuple[int, ...]
    nested: bool
    """Whether the sandbox's 0 is this user, so that a user namespace inside gives the number."""

    others: int = 0
    """The group that files of groups but the user's are shown with. It is root's, or one that the
    user needs to reach what is shown."""

    def argument(self, prepared: Prepared) -> str:
        """Return the argument for guest/tests/pytest_process.py."""
        roots = _of_root(prepared, self.account.home) if self.nested else ()
        who = Identity(
            uid=self.account.uid,
            gid=self.account.gid,
            groups=list(self.groups),
            home=self.account.home,
            nested=self.nested,
            others=self.others,
            roots=[*roots],
        )
        return json.dumps(who._asdict())


def inhabitant(user: str, way: Way, shown: Sequence[str]) -> Inhabitant | None:
    """Return the user that ``user`` means, from `read`; None for root.

    An ordinary user has one mapped id, and needs a user namespace inside. Root needs none, also
    where only root is mapped: the given user then owns nothing of the host's.
    """
    nested = way is Way.FLAG
    if user == ROOT or (user == CALLER and os.geteuid() == 0):
        return None
    if user == CALLER:
        return _caller(nested=nested, shown=shown)
    uid, gid = map(int, user.split(":"))
    account = Account(uid=uid, gid=gid, home=f"/home/{NAME}", groups=((gid, NAME),))
    return Inhabitant(account=account, groups=(gid,), nested=nested)


def _caller(*, nested: bool, shown: Sequence[str]) -> Inhabitant:
    uid, gid, groups = os.geteuid(), os.getegid(), os.getgroups()
    name, home = NAME, ""
    with contextlib.suppress(KeyError):
        entry = pwd.getpwuid(uid)
        name, home = entry.pw_name, entry.pw_dir
    named = tuple((one, _group_name(one)) for one in dict.fromkeys([gid, *groups]))
    account = Account(uid=uid, gid=gid, name=name, home=_home(name, home, uid), groups=named)
    return Inhabitant(
        account=account,
        groups=tuple(groups),
        nested=nested,
        others=_group_of(shown, uid, {*groups} - {gid}),
    )


def _group_name(gid: int) -> str:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return NAME


def _home(name: str, home: str, uid: int) -> str:
    """Return the home inside: the host's path if it is a folder of the user's own.

    A folder that is the user's is none of the system's, of which a sandbox has its own.
    """
    for path in (os.environ.get("HOME", ""), home):
        with contextlib.suppress(OSError):
            if _is_home(path) and os.stat(path).st_uid == uid:
                return path
    return f"/home/{name}" if _is_home(f"/home/{name}") else f"/home/{NAME}"


def _is_home(path: str) -> bool:
    usual = os.path.isabs(path) and os.path.normpath(path) == path != "/"
    return usual and _NO_HOME.isdisjoint(path)


def _group_of(shown: Sequence[str], uid: int, groups: set[int]) -> int:
    """Return the group by which the user reaches a shown folder of another user's; else root's."""
    for path in shown:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if status.st_uid != uid and status.st_gid in groups:
                return status.st_gid
    return 0


def _of_root(prepared: Prepared, home: str) -> Iterator[str]:
    """Yield the paths of a skeleton, as the sandbox has them, that are root's on a host.

    Neither links nor mount points are among them, nor folders of this user's own.
    """
    points = {mount.destination for mount in prepared.mounts} | _SYSTEM
    yield "/dev"
    for folder, names, files in os.walk(prepared.root_path):
        inside = folder[len(prepared.root_path) :] or "/"
        if not _is_own(inside, home):
            yield inside
        names[:] = [name for name in names if os.path.join(inside, name) not in points]
        for path in (os.path.join(inside, name) for name in files):
            if path not in points and not os.path.islink(prepared.root_path + path):
                yield path


def _is_own(path: str, home: str) -> bool:
    """Whether a folder of the skeleton is this user's on the host, or in the home inside."""
    with contextlib.suppress(OSError):
        return within(path, home) or os.stat(path).st_uid == os.geteuid()
    return False
