"""The way to start runsc that fits this process: as root, or rootless."""

from __future__ import annotations

import enum
from typing import NamedTuple

from pytest_gvisor.base.errors import UsageError, stage
from pytest_gvisor.base.settings import Network, Rootless
from pytest_gvisor.oci.spec import IdMapping
from pytest_gvisor.programs.proc import ALL_IDS, IdRange, id_map, status_of

_CAP_SYS_ADMIN = 1 << 21  # include/uapi/linux/capability.h


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


class Caller(NamedTuple):
    """This process's ids, id maps and capabilities."""

    euid: int
    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]
    sys_admin: bool = True
    """Whether it has CAP_SYS_ADMIN, in its own user namespace: without, it cannot mount."""

    @classmethod
    def read(cls, euid: int) -> Caller:
        """Read them from /proc/self (user_namespaces(7)). Raises `LaunchError`."""
        uids, gids = _ids("uid"), _ids("gid")
        with stage("capabilities", "cannot read /proc/self/status"):
            effective = int(status_of()["CapEff"], 16)  # as bits (proc_pid_status(5))
        return cls(euid=euid, uids=uids, gids=gids, sys_admin=bool(effective & _CAP_SYS_ADMIN))


def _ids(kind: str) -> tuple[IdRange, ...]:
    with stage("user_namespace", f"cannot read /proc/self/{kind}_map"):
        return id_map(kind)


def decide(wish: Rootless, caller: Caller, network: Network) -> Way:
    """Choose the way for this caller. Raises `UsageError` if the request is impossible."""
    if caller.euid != 0:
        if wish is Rootless.OFF:
            raise UsageError(
                f"rootless=off needs root, and the effective uid is {caller.euid}",
                next_step="Use rootless=auto, or run as root.",
            )
        if network is Network.SANDBOX:
            raise UsageError(
                "network=sandbox is impossible without root: runsc refuses it with --rootless",
                next_step="Use network=none or network=host, or run as root.",
            )
        return Way.FLAG
    if not caller.sys_admin:
        if wish is Rootless.OFF:
            raise UsageError(
                "rootless=off needs CAP_SYS_ADMIN, which this process has not, though it is root",
                next_step="Use rootless=auto, or give a container `--cap-add SYS_ADMIN`.",
            )
        return Way.OWN
    in_user_namespace = caller.uids != ALL_IDS
    if wish is Rootless.ON or (wish is Rootless.AUTO and in_user_namespace):
        return Way.MAPPED
    return Way.PRIVILEGED


def mappings(caller: Caller) -> tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]]:
    """Return the uids and gids that a bundle maps in rootless OCI mode: all of the caller's.

    Container ids are the caller's own, so that files have the owners that the caller sees.
    """
    return tuple(map(_mapping, caller.uids)), tuple(map(_mapping, caller.gids))


def _mapping(ids: IdRange) -> IdMapping:
    # An id of 2³²-1 is no id (setuid(2)); the whole range of the initial namespace ends below it.
    size = min(ids.size, 2**32 - 1 - ids.inside)
    return IdMapping(container_id=ids.inside, host_id=ids.inside, size=size)
