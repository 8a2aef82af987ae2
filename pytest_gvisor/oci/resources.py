"""The parts of `linux` that limit a workload: cgroup resources, and seccomp filters.

Plain data. runsc applies memory, pids and cpu limits where it manages cgroups, and reads seccomp
only with ``--oci-seccomp``; the rest is carried as it was written.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_gvisor.oci.reader import I64, U16, U32, U64, key


@dataclass(frozen=True, kw_only=True)
class DeviceRule:
    """One line of the device cgroup's list."""

    allow: bool
    """Whether it allows or denies."""
    type: str = ""
    """``a``, ``b`` or ``c``."""
    major: I64 | None = None
    """Major number; absent is any."""
    minor: I64 | None = None
    """Minor number; absent is any."""
    access: str = ""
    """Of ``r``, ``w`` and ``m``."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory limits in bytes; -1 is none."""

    limit: I64 | None = None
    """Limit of all memory."""
    reservation: I64 | None = None
    """Soft limit."""
    swap: I64 | None = None
    """Limit of memory and swap together."""
    kernel: I64 | None = None
    """Limit of kernel memory; without effect in today's kernels."""
    kernel_tcp: I64 | None = field(default=None, metadata=key("kernelTCP"))
    """Limit of kernel memory for TCP; without effect in today's kernels."""
    swappiness: U64 | None = None
    """Tendency to swap, 0 to 100."""
    disable_oom_killer: bool | None = field(default=None, metadata=key("disableOOMKiller"))
    """Whether processes wait, rather than die, when memory is out."""
    use_hierarchy: bool | None = None
    """Whether child cgroups count too."""
    check_before_update: bool | None = None
    """Whether a limit below what is in use is refused."""


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """CPU time: ``quota`` microseconds in each ``period``."""

    shares: U64 | None = None
    """Weight against other cgroups."""
    quota: I64 | None = None
    """Microseconds in a period; -1 is no limit."""
    period: U64 | None = None
    """Length of a period in microseconds."""
    burst: U64 | None = None
    """Microseconds that may be saved up."""
    realtime_runtime: I64 | None = None
    """Microseconds of real-time scheduling in a period."""
    realtime_period: U64 | None = None
    """Length of the real-time period in microseconds."""
    cpus: str = ""
    """List of CPUs, such as ``0-2,7``."""
    mems: str = ""
    """List of memory nodes."""
    idle: I64 | None = None
    """1 for SCHED_IDLE."""


@dataclass(frozen=True, kw_only=True)
class Pids:
    """The limit on the number of tasks."""

    limit: I64
    """The number; 0 or less is no limit."""


@dataclass(frozen=True, kw_only=True)
class Throttle:
    """Rate limit of one block device."""

    major: I64
    """Major number."""
    minor: I64
    """Minor number."""
    rate: U64
    """Bytes or operations a second."""


@dataclass(frozen=True, kw_only=True)
class WeightDevice:
    """Weight of one block device."""

    major: I64
    """Major number."""
    minor: I64
    """Minor number."""
    weight: U16 | None = None
    """Weight against other cgroups."""
    leaf_weight: U16 | None = None
    """Weight against child cgroups."""


@dataclass(frozen=True, kw_only=True)
class BlockIo:
    """Block device limits."""

    weight: U16 | None = None
    """Weight against other cgroups."""
    leaf_weight: U16 | None = None
    """Weight against child cgroups."""
    weight_device: tuple[WeightDevice, ...] = ()
    """Weights by device."""
    throttle_read_bps_device: tuple[Throttle, ...] = ()
    """Bytes read a second."""
    throttle_write_bps_device: tuple[Throttle, ...] = ()
    """Bytes written a second."""
    throttle_read_iops_device: tuple[Throttle, ...] = field(
        default=(), metadata=key("throttleReadIOPSDevice")
    )
    """Reads a second."""
    throttle_write_iops_device: tuple[Throttle, ...] = field(
        default=(), metadata=key("throttleWriteIOPSDevice")
    )
    """Writes a second."""


@dataclass(frozen=True, kw_only=True)
class HugepageLimit:
    """Limit of one size of huge pages."""

    page_size: str
    """Such as ``2MB``."""
    limit: U64
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class InterfacePriority:
    """Priority of one network interface."""

    name: str
    """The interface."""
    priority: U32
    """The priority."""


@dataclass(frozen=True, kw_only=True)
class NetworkClass:
    """Network cgroup settings."""

    class_id: U32 | None = field(default=None, metadata=key("classID"))
    """Tag of packets."""
    priorities: tuple[InterfacePriority, ...] = ()
    """Priorities by interface."""


@dataclass(frozen=True, kw_only=True)
class Rdma:
    """Limits of one RDMA device."""

    hca_handles: U32 | None = None
    """Handles."""
    hca_objects: U32 | None = None
    """Objects."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resource limits of the container's cgroup."""

    devices: tuple[DeviceRule, ...] = ()
    """Device access, in order."""
    memory: Memory | None = None
    """Memory."""
    cpu: Cpu | None = None
    """CPU time."""
    pids: Pids | None = None
    """Number of tasks."""
    block_io: BlockIo | None = field(default=None, metadata=key("blockIO"))
    """Block devices."""
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    """Huge pages."""
    network: NetworkClass | None = None
    """Network tags and priorities."""
    rdma: Mapping[str, Rdma] = field(default_factory=dict)
    """RDMA limits by device."""
    unified: Mapping[str, str] = field(default_factory=dict)
    """cgroup v2 files and what is written to them."""


class SeccompAction(enum.StrEnum):
    """The action of a filter."""

    KILL = "SCMP_ACT_KILL"
    KILL_PROCESS = "SCMP_ACT_KILL_PROCESS"
    KILL_THREAD = "SCMP_ACT_KILL_THREAD"
    TRAP = "SCMP_ACT_TRAP"
    ERRNO = "SCMP_ACT_ERRNO"
    TRACE = "SCMP_ACT_TRACE"
    ALLOW = "SCMP_ACT_ALLOW"
    LOG = "SCMP_ACT_LOG"
    NOTIFY = "SCMP_ACT_NOTIFY"


class SeccompOperator(enum.StrEnum):
    """The comparison of an argument."""

    NE = "SCMP_CMP_NE"
    LT = "SCMP_CMP_LT"
    LE = "SCMP_CMP_LE"
    EQ = "SCMP_CMP_EQ"
    GE = "SCMP_CMP_GE"
    GT = "SCMP_CMP_GT"
    MASKED_EQ = "SCMP_CMP_MASKED_EQ"


@dataclass(frozen=True, kw_only=True)
class SeccompArg:
    """A condition on one argument of a system call."""

    index: U32
    """Which argument, from 0."""
    value: U64
    """What it is compared with."""
    value_two: U64 = 0
    """The second value of a masked comparison."""
    op: SeccompOperator
    """How."""


@dataclass(frozen=True, kw_only=True)
class SeccompSyscall:
    """One rule of a filter."""

    names: tuple[str, ...]
    """The system calls."""
    action: SeccompAction
    """What happens to them."""
    errno_ret: U32 | None = None
    """The error number of an ``ERRNO`` or ``TRACE`` action."""
    args: tuple[SeccompArg, ...] = ()
    """Conditions, all of which hold."""


@dataclass(frozen=True, kw_only=True)
class Seccomp:
    """A system call filter."""

    default_action: SeccompAction
    """For calls that no rule names."""
    default_errno_ret: U32 | None = None
    """Its error number."""
    architectures: tuple[str, ...] = ()
    """``SCMP_ARCH_…`` names."""
    flags: tuple[str, ...] = ()
    """``SECCOMP_FILTER_FLAG_…`` names."""
    listener_path: str = ""
    """Socket of a ``NOTIFY`` listener."""
    listener_metadata: str = ""
    """Passed to the listener."""
    syscalls: tuple[SeccompSyscall, ...] = ()
    """The rules, in order."""


@dataclass(frozen=True, kw_only=True)
class MemoryPolicy:
    """The NUMA nodes for memory (set_mempolicy(2)); carried."""

    mode: str
    """Such as ``MPOL_BIND``."""
    nodes: str = ""
    """Such as ``0-3,7``."""
    flags: tuple[str, ...] = ()
    """``MPOL_F_…`` names."""
