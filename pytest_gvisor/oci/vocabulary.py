"""The enumerations of a specification."""

from __future__ import annotations

import enum


class Capability(enum.StrEnum):
    """A Linux capability, in the order of the kernel's numbers (capabilities(7))."""

    CHOWN = "CAP_CHOWN"
    DAC_OVERRIDE = "CAP_DAC_OVERRIDE"
    DAC_READ_SEARCH = "CAP_DAC_READ_SEARCH"
    FOWNER = "CAP_FOWNER"
    FSETID = "CAP_FSETID"
    KILL = "CAP_KILL"
    SETGID = "CAP_SETGID"
    SETUID = "CAP_SETUID"
    SETPCAP = "CAP_SETPCAP"
    LINUX_IMMUTABLE = "CAP_LINUX_IMMUTABLE"
    NET_BIND_SERVICE = "CAP_NET_BIND_SERVICE"
    NET_BROADCAST = "CAP_NET_BROADCAST"
    NET_ADMIN = "CAP_NET_ADMIN"
    NET_RAW = "CAP_NET_RAW"
    IPC_LOCK = "CAP_IPC_LOCK"
    IPC_OWNER = "CAP_IPC_OWNER"
    SYS_MODULE = "CAP_SYS_MODULE"
    SYS_RAWIO = "CAP_SYS_RAWIO"
    SYS_CHROOT = "CAP_SYS_CHROOT"
    SYS_PTRACE = "CAP_SYS_PTRACE"
    SYS_PACCT = "CAP_SYS_PACCT"
    SYS_ADMIN = "CAP_SYS_ADMIN"
    SYS_BOOT = "CAP_SYS_BOOT"
    SYS_NICE = "CAP_SYS_NICE"
    SYS_RESOURCE = "CAP_SYS_RESOURCE"
    SYS_TIME = "CAP_SYS_TIME"
    SYS_TTY_CONFIG = "CAP_SYS_TTY_CONFIG"
    MKNOD = "CAP_MKNOD"
    LEASE = "CAP_LEASE"
    AUDIT_WRITE = "CAP_AUDIT_WRITE"
    AUDIT_CONTROL = "CAP_AUDIT_CONTROL"
    SETFCAP = "CAP_SETFCAP"
    MAC_OVERRIDE = "CAP_MAC_OVERRIDE"
    MAC_ADMIN = "CAP_MAC_ADMIN"
    SYSLOG = "CAP_SYSLOG"
    WAKE_ALARM = "CAP_WAKE_ALARM"
    BLOCK_SUSPEND = "CAP_BLOCK_SUSPEND"
    AUDIT_READ = "CAP_AUDIT_READ"
    PERFMON = "CAP_PERFMON"
    BPF = "CAP_BPF"
    CHECKPOINT_RESTORE = "CAP_CHECKPOINT_RESTORE"


class NamespaceType(enum.StrEnum):
    """A kind of Linux namespace."""

    PID = "pid"
    NETWORK = "network"
    MOUNT = "mount"
    IPC = "ipc"
    UTS = "uts"
    USER = "user"
    CGROUP = "cgroup"
    TIME = "time"


class RlimitType(enum.StrEnum):
    """A resource limit (getrlimit(2))."""

    AS = "RLIMIT_AS"
    CORE = "RLIMIT_CORE"
    CPU = "RLIMIT_CPU"
    DATA = "RLIMIT_DATA"
    FSIZE = "RLIMIT_FSIZE"
    LOCKS = "RLIMIT_LOCKS"
    MEMLOCK = "RLIMIT_MEMLOCK"
    MSGQUEUE = "RLIMIT_MSGQUEUE"
    NICE = "RLIMIT_NICE"
    NOFILE = "RLIMIT_NOFILE"
    NPROC = "RLIMIT_NPROC"
    RSS = "RLIMIT_RSS"
    RTPRIO = "RLIMIT_RTPRIO"
    RTTIME = "RLIMIT_RTTIME"
    SIGPENDING = "RLIMIT_SIGPENDING"
    STACK = "RLIMIT_STACK"


class MountType(enum.StrEnum):
    """A file system that the sandbox can mount. runsc ignores others silently."""

    BIND = "bind"
    NONE = "none"
    PROC = "proc"
    SYSFS = "sysfs"
    TMPFS = "tmpfs"
    DEVPTS = "devpts"
    DEVTMPFS = "devtmpfs"
    CGROUP = "cgroup"
    CGROUP2 = "cgroup2"
    MQUEUE = "mqueue"


class Propagation(enum.StrEnum):
    """The propagation of mounts of the root."""

    SHARED = "shared"
    SLAVE = "slave"
    PRIVATE = "private"
    UNBINDABLE = "unbindable"
    RSHARED = "rshared"
    RSLAVE = "rslave"
    RPRIVATE = "rprivate"


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
