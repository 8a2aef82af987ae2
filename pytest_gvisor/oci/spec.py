"""An OCI runtime specification (``config.json``) as frozen typed data: a closed world.

Source: https://github.com/opencontainers/runtime-spec, releases 1.0 to 1.3. Hooks and the other
systems' sections have no field here, so no value of `Spec` can hold them. Parts that are checked
and passed on unchanged are JSON: see `carried`.

Constructors trust; `validate.examine` and `validate.read` check, and report every problem at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pytest_gvisor.oci import carried
from pytest_gvisor.oci.reader import I32, U32, U64, Id, key, write
from pytest_gvisor.oci.vocabulary import (
    Capability,
    MountType,
    NamespaceType,
    Propagation,
    RlimitType,
)


@dataclass(frozen=True, kw_only=True)
class User:
    """The workload's user inside."""

    uid: Id
    """User id."""
    gid: Id
    """Group id."""
    umask: U32 | None = None
    """Its umask; absent is the runtime's."""
    additional_gids: tuple[Id, ...] = ()
    """Supplementary groups."""
    username: str = ""
    """A name that other systems use; without effect here."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """The five sets of capabilities(7)."""

    bounding: tuple[Capability, ...] = ()
    """What can be had at all."""
    effective: tuple[Capability, ...] = ()
    """What the kernel checks."""
    inheritable: tuple[Capability, ...] = ()
    """What an execve may keep."""
    permitted: tuple[Capability, ...] = ()
    """What may be made effective."""
    ambient: tuple[Capability, ...] = ()
    """What an execve of an ordinary file keeps."""


@dataclass(frozen=True, kw_only=True)
class Rlimit:
    """One resource limit; 2**64 - 1 is unlimited."""

    type: RlimitType
    """Which."""
    soft: U64
    """What is enforced."""
    hard: U64
    """What the soft limit may be raised to."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """The program to start."""

    REFUSED: ClassVar[Mapping[str, str]] = {"commandLine": "is for Windows"}

    args: tuple[str, ...]
    """The program and its arguments."""
    cwd: str
    """Its working folder, absolute."""
    user: User
    """Who it is."""
    env: tuple[str, ...] = ()
    """Its whole environment, ``KEY=value``."""
    terminal: bool = False
    """Whether it gets a terminal."""
    console_size: carried.ConsoleSize | None = None
    """The terminal's size."""
    capabilities: Capabilities | None = None
    """Its capabilities; absent is none."""
    rlimits: tuple[Rlimit, ...] = ()
    """Its resource limits."""
    no_new_privileges: bool = False
    """Whether set-uid files and file capabilities give it nothing."""
    apparmor_profile: str = ""
    """AppArmor profile; without effect under gVisor."""
    oom_score_adj: I32 | None = None
    """Adjustment of the sandbox's OOM score."""
    scheduler: carried.Scheduler | None = None
    """Scheduling attributes."""
    selinux_label: str = ""
    """SELinux label; without effect under gVisor."""
    io_priority: carried.IoPriority | None = None
    """I/O priority."""
    exec_cpu_affinity: carried.ExecCpuAffinity | None = field(
        default=None, metadata=key("execCPUAffinity")
    )
    """CPUs of later programs."""


@dataclass(frozen=True, kw_only=True)
class Root:
    """The root file system on the host."""

    path: str
    """Its folder; in a bundle that was made elsewhere, relative to the bundle."""
    readonly: bool = False
    """Whether nothing can be written to it."""


@dataclass(frozen=True, kw_only=True)
class IdMapping:
    """A range of ids in a user namespace."""

    container_id: U32 = field(metadata=key("containerID"))
    """First id inside."""
    host_id: U32 = field(metadata=key("hostID"))
    """First id outside."""
    size: U32
    """How many."""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One mount, made in order."""

    destination: str
    """Where, inside."""
    type: MountType = MountType.NONE
    """What; ``none`` with the option ``bind`` or ``rbind`` is a bind mount too."""
    source: str = ""
    """A bind mount's folder or file on the host; a mere name otherwise."""
    options: tuple[str, ...] = ()
    """As for mount(8)."""
    uid_mappings: tuple[IdMapping, ...] = ()
    """Id-mapped mount: users."""
    gid_mappings: tuple[IdMapping, ...] = ()
    """Id-mapped mount: groups."""

    @property
    def is_bind(self) -> bool:
        """Whether the mount shows a folder or file of the host, by type or (as in runsc) by
        option.
        """
        return self.type is MountType.BIND or not {"bind", "rbind"}.isdisjoint(self.options)


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """A namespace that the sandbox gets."""

    type: NamespaceType
    """Which kind."""
    path: str = ""
    """One that exists, to be joined; empty is a new one."""


@dataclass(frozen=True, kw_only=True)
class Linux:
    """The part that is Linux's own."""

    namespaces: tuple[Namespace, ...] = ()
    """What is not shared with the host."""
    uid_mappings: tuple[IdMapping, ...] = ()
    """Users of the user namespace."""
    gid_mappings: tuple[IdMapping, ...] = ()
    """Groups of the user namespace."""
    devices: tuple[carried.Device, ...] = ()
    """Device files."""
    net_devices: Mapping[str, carried.NetDevice] = field(default_factory=dict)
    """Network devices by their name on the host."""
    cgroups_path: str = ""
    """Where the cgroup is made."""
    resources: carried.Resources | None = None
    """The cgroup's limits."""
    seccomp: carried.Seccomp | None = None
    """System call filter; runsc reads it only with ``--oci-seccomp``."""
    sysctl: Mapping[str, str] = field(default_factory=dict)
    """Kernel settings."""
    rootfs_propagation: Propagation | None = None
    """Propagation of the root's mounts."""
    masked_paths: tuple[str, ...] = ()
    """Paths to hide; runsc does not hide them."""
    readonly_paths: tuple[str, ...] = ()
    """Paths to make read-only; runsc does not."""
    mount_label: str = ""
    """SELinux label of mounts; without effect under gVisor."""
    intel_rdt: carried.IntelRdt | None = None
    """Cache and bandwidth allocation."""
    memory_policy: carried.MemoryPolicy | None = None
    """Placement on NUMA nodes."""
    personality: carried.Personality | None = None
    """Execution domain."""
    time_offsets: Mapping[str, carried.TimeOffset] = field(default_factory=dict)
    """Offsets by clock."""


_HOOKS = "refused: runsc runs hooks on the host, outside of the sandbox, with the caller's rights"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A whole ``config.json``."""

    REFUSED: ClassVar[Mapping[str, str]] = {
        "hooks": _HOOKS,
        "windows": "is for Windows",
        "solaris": "is for Solaris",
        "zos": "is for z/OS",
        "freebsd": "is for FreeBSD",
        "vm": "is for virtual machines",
    }

    oci_version: str
    """Version of the specification, 1.x."""
    process: Process
    """What is started."""
    root: Root
    """In which root file system."""
    hostname: str = ""
    """Its host name."""
    domainname: str = ""
    """Its NIS domain name."""
    mounts: tuple[Mount, ...] = ()
    """What is mounted, in order."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Arbitrary names and values."""
    linux: Linux = field(default_factory=Linux)
    """Linux's own part."""

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON values, without fields that have their default."""
        made: dict[str, Any] = write(self)
        return made
