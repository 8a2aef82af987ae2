"""The way to start runsc that fits this process: as root, or rootless."""

from __future__ import annotations

import dataclasses
import enum

from pytest_gvisor.errors import LaunchError, UsageError
from pytest_gvisor.settings import Network, Rootless

_CAP_SYS_ADMIN = 1 << 21  # include/uapi/linux/capability.h
_WHOLE = 4294967295  # the length of the one line of the initial namespace's map


class Way(enum.StrEnum):
    """A way for runsc to get its rights."""

    PRIVILEGED = "privileged"
    """As root, without a user namespace in the bundle."""

    MAPPED = "mapped"
    """Rootless OCI: user-namespace mappings in the bundle, and no ``--rootless``."""

    OWN = "own"
    """As root in a user namespace of one id, which programs/child.py makes: neither ``--rootless``
    nor mappings in the bundle."""

    FLAG = "flag"
    """``--rootless``: an unprivileged caller. runsc makes the user namespace, with one id."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdRange:
    """A line of /proc/self/uid_map: ``size`` ids, from ``inside`` on, that this process may map."""

    inside: int
    outside: int
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caller:
    """This process's ids, id maps and capabilities."""

    euid: int
    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]
    sys_admin: bool = True
    """Whether it has CAP_SYS_ADMIN, in its own user namespace: without, it cannot mount."""

    @property
    def in_user_namespace(self) -> bool:
        """Whether the process is in another user namespace than the initial one."""
        return self.uids != (IdRange(inside=0, outside=0, size=_WHOLE),)

    @classmethod
    def read(cls, euid: int) -> Caller:
        """Read them from /proc/self (user_namespaces(7)). Raises `LaunchError`."""
        return cls(
            euid=euid,
            uids=_ranges("uid_map"),
            gids=_ranges("gid_map"),
            sys_admin=bool(_capabilities() & _CAP_SYS_ADMIN),
        )


def _ranges(name: str) -> tuple[IdRange, ...]:
    try:
        with open(f"/proc/self/{name}", encoding="ascii") as lines:
            numbers = [[int(word) for word in line.split()] for line in lines]
    except FileNotFoundError:  # a kernel without user namespaces
        numbers = [[0, 0, _WHOLE]]
    except OSError as error:  # no descriptor to be had
        what = f"cannot read /proc/self/{name}"
        raise LaunchError("user_namespace", what, errno=error.errno or 0) from error
    return tuple(IdRange(inside=a, outside=b, size=c) for a, b, c in numbers)


def _capabilities() -> int:
    """Return the effective capabilities as bits (proc_pid_status(5))."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
            return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    except OSError as error:
        what = "cannot read /proc/self/status"
        raise LaunchError("capabilities", what, errno=error.errno or 0) from error


def decide(wish: Rootless, caller: Caller, network: Network) -> Way:
    """Choose the way for this caller. Raises `UsageError` if the request is impossible."""
    if caller.euid != 0:
        if wish is Rootless.OFF:
            raise UsageError(
                f"rootless=off needs root, and the effective uid is {caller.euid}",
                next_step="Use rootless=auto, or run pytest as root.",
            )
        if network is Network.SANDBOX:
            raise UsageError(
                "network=sandbox is impossible without root: runsc refuses it with --rootless",
                next_step="Use network=none or network=host, or run pytest as root.",
            )
        return Way.FLAG
    if not caller.sys_admin:
        if wish is Rootless.OFF:
            raise UsageError(
                "rootless=off needs CAP_SYS_ADMIN, which this process has not, though it is root",
                next_step="Use rootless=auto, or give a container `--cap-add SYS_ADMIN`.",
            )
        return Way.OWN
    if wish is Rootless.ON or (wish is Rootless.AUTO and caller.in_user_namespace):
        return Way.MAPPED
    return Way.PRIVILEGED


def mappings(caller: Caller) -> tuple[tuple[IdRange, ...], tuple[IdRange, ...]]:
    """Return the uids and gids that a bundle maps in rootless OCI mode: all of the caller's.

    Container ids are the caller's own, so that files have the owners that the caller sees.
    """
    return tuple(map(_identity, caller.uids)), tuple(map(_identity, caller.gids))


def _identity(ids: IdRange) -> IdRange:
    # An id of 2³²-1 is no id (setuid(2)); the whole range of the initial namespace ends below it.
    size = min(ids.size, _WHOLE - ids.inside)
    return IdRange(inside=ids.inside, outside=ids.inside, size=size)
