"""The default specification of a run. Does no input or output."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.escape import shown
from pytest_gvisor.base.settings import Network
from pytest_gvisor.oci import spec
from pytest_gvisor.oci.mounts import parse_size
from pytest_gvisor.oci.reader import whole
from pytest_gvisor.oci.spec import IdMapping, Mount, Spec, User
from pytest_gvisor.oci.vocabulary import MountType, NamespaceType
from pytest_gvisor.programs.paths import SYSTEM_PATH

OCI_VERSION: Final = "1.0.2"
HOSTNAME: Final = "gvisor"

# Source: https://github.com/moby/moby, oci/caps/defaults.go
CAPABILITIES: Final = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
)  # fmt: skip

NOFILE: Final = (1024, 524288)
"""The soft and the hard limit on open files, as under docker."""

SHM: Final = 64 << 20
"""The size of /dev/shm in bytes, as under docker."""

_LOCKED: Final = ("nosuid", "noexec", "nodev")


def _own(destination: str, kind: MountType, *options: str, source: str = "") -> Mount:
    """Return a file system of the sandbox's own, whose source is a mere name."""
    return Mount(destination=destination, type=kind, source=source or kind, options=options)


MOUNTS: Final = (
    _own("/proc", MountType.PROC, *_LOCKED),
    _own("/dev", MountType.TMPFS, "nosuid", "strictatime", "mode=0755", "size=65536k"),
    _own("/sys", MountType.SYSFS, *_LOCKED, "ro"),
    _own("/tmp", MountType.TMPFS, "nosuid", "nodev", "mode=1777"),
    _own("/dev/pts", MountType.DEVPTS, "nosuid", "noexec", "newinstance", "ptmxmode=0666"),
    _own("/dev/shm", MountType.TMPFS, *_LOCKED, "mode=1777", source="shm"),
)

_NAMESPACES = (NamespaceType.PID, NamespaceType.IPC, NamespaceType.UTS, NamespaceType.MOUNT)
_CPU_PERIOD = 100_000


def parse_user(user: int | str | tuple[int, int] | User) -> User:
    """Read the workload's user: a uid, ``"uid"``, ``"uid:gid"``, ``(uid, gid)`` or ``"root"``.

    A uid alone has gid 0, as under docker. Names are in the sandbox's passwd, which is not read.
    """
    if isinstance(user, User):
        return user
    if isinstance(user, str):
        text = "0" if user == "root" else user
        found = re.fullmatch(r"(\d{1,10})(?::(\d{1,10}))?", text, re.ASCII)
        if not found:
            raise UsageError(f"user {shown(user)} is not 'uid' or 'uid:gid' in numbers, or 'root'")
        uid, gid = int(found[1]), int(found[2] or 0)
    else:
        pair: tuple[int, ...] = user if isinstance(user, tuple) else (user, 0)
        if len(pair) != 2 or not all(whole(part) for part in pair):
            raise UsageError("a user is a uid, 'uid:gid' or (uid, gid)")
        uid, gid = pair
    for number in (uid, gid):
        if not 0 <= number <= 2**32 - 2:
            raise UsageError(f"id {shown(number)} is not in 0..{2**32 - 2}")
    return User(uid=uid, gid=gid)


def environment(
    env: Mapping[str, str], *, uid: int, path: Sequence[str] = (), home: str | None = None
) -> tuple[str, ...]:
    """The fixed environment with the caller's on top; ``path`` goes in front of PATH.

    With ``home``, which an image's passwd says, no language is fixed: that is the image's matter.
    """
    for name, value in env.items():
        if not all(isinstance(part, str) for part in (name, value)):
            raise UsageError(
                f"environment variable {shown(name)}: name and value must be text",
                next_step=f"Write env={{{str(name)!r}: {str(value)!r}}}.",
            )
        if not name or "=" in name:
            raise UsageError(f"{shown(name)} cannot be the name of an environment variable")
    fixed = {
        "PATH": ":".join([*path, SYSTEM_PATH]),
        "HOME": "/root" if uid == 0 else "/tmp",
        "LANG": "C.UTF-8",
    }
    if home is not None:
        fixed = {"PATH": fixed["PATH"], "HOME": home}
    return tuple(f"{name}={value}" for name, value in {**fixed, **env}.items())


def resources(memory: int | None, pids: int | None, cpus: float | None) -> spec.Resources:
    """Return the limits of a sandbox: bytes, tasks, processors. Raises `UsageError`."""
    if pids is not None and (not whole(pids) or pids < 1):
        raise UsageError(f"pids={pids!r} is not a number of tasks")
    if cpus is not None and not (math.isfinite(cpus) and 0.01 <= cpus <= 1024):
        raise UsageError(f"cpus={cpus!r} is not a number of CPUs from 0.01 to 1024")
    quota, period = (None, None) if cpus is None else (round(cpus * _CPU_PERIOD), _CPU_PERIOD)
    # Without a limit of its own, swap would double the memory.
    both = spec.Memory(limit=memory, swap=memory)
    cpu = spec.Cpu(quota=quota, period=period)
    return spec.Resources(memory=both, pids=spec.Pids(limit=pids), cpu=cpu)


def _namespaces(network: Network, netns: str | None, *, user: bool) -> tuple[spec.Namespace, ...]:
    made = [spec.Namespace(type=kind) for kind in _NAMESPACES]
    if netns is not None and network is not Network.SANDBOX:
        raise UsageError(f"netns needs network='sandbox', not {network.value!r}")
    # With the host's network there is none: the sandbox stays in its caller's.
    if network is not Network.HOST:
        made.append(spec.Namespace(type=NamespaceType.NETWORK, path=netns or ""))
    if user:
        made.append(spec.Namespace(type=NamespaceType.USER))
    return tuple(made)


def merged(mounts: Sequence[Mount], *, shm: int, memory: int | None = None) -> tuple[Mount, ...]:
    """Merge the default mounts with these. A mount replaces a default of the same destination.

    ``shm`` is the size of /dev/shm in bytes, ``memory`` the limit on memory.

    Parents come before what is mounted in them, for runsc's gofer makes them in this order.
    """
    asked = {mount.destination for mount in mounts}
    kept = [
        dataclasses.replace(mount, options=(*mount.options, f"size={shm}"))
        if mount.destination == "/dev/shm"
        else mount
        for mount in MOUNTS
        if mount.destination not in asked
    ]
    sized = [_sized(mount, memory) for mount in (*kept, *mounts)]
    return tuple(sorted(sized, key=lambda mount: mount.destination.count("/")))


def _sized(mount: Mount, memory: int | None) -> Mount:
    """Return a file system in memory with room for all that the limit allows.

    Without a size it has half of the total memory, which is the limit where the sandbox has one.
    """
    named = any(option.startswith(("size=", "nr_blocks=")) for option in mount.options)
    if memory is None or mount.type is not MountType.TMPFS or named or "ro" in mount.options:
        return mount
    return dataclasses.replace(mount, options=(*mount.options, f"size={memory}"))


def default_spec(
    args: Sequence[str],
    *,
    root_path: str,
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
    user: int | str | tuple[int, int] | User = 0,
    home: str | None = None,
    mounts: Sequence[Mount] = (),
    path: Sequence[str] = (),
    network: Network = Network.NONE,
    netns: str | None = None,
    hostname: str = HOSTNAME,
    readonly_root: bool = False,
    memory: int | str | None = None,
    pids: int | None = None,
    cpus: float | None = None,
    shm: int = SHM,
    nofile: tuple[int, int] = NOFILE,
    id_mappings: tuple[Sequence[IdMapping], Sequence[IdMapping]] | None = None,
) -> Spec:
    """Build the specification of one workload.

    ``id_mappings`` are users' and groups' of a user namespace, for rootless OCI mode. ``path`` are
    folders in front of the fixed PATH.
    """
    who = parse_user(user)
    uids, gids = id_mappings or ((), ())
    limit = None if memory is None else parse_size(memory)
    return Spec(
        oci_version=OCI_VERSION,
        process=spec.Process(
            args=tuple(args),
            cwd=cwd,
            user=who,
            env=environment(env or {}, uid=who.uid, path=path, home=home),
            capabilities=spec.Capabilities(
                bounding=CAPABILITIES, effective=CAPABILITIES, permitted=CAPABILITIES
            ),
            rlimits=(
                spec.Rlimit(type="RLIMIT_NOFILE", soft=nofile[0], hard=nofile[1]),
                spec.Rlimit(type="RLIMIT_CORE", soft=0, hard=0),
            ),
            no_new_privileges=True,
        ),
        root=spec.Root(path=root_path, readonly=readonly_root),
        hostname=hostname,
        mounts=merged(mounts, shm=shm, memory=limit),
        linux=spec.Linux(
            namespaces=_namespaces(network, netns, user=id_mappings is not None),
            uid_mappings=tuple(uids),
            gid_mappings=tuple(gids),
            resources=resources(limit, pids, cpus),
        ),
    )
