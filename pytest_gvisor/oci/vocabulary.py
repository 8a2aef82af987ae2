"""The vocabulary of a specification: enums that code names, lists of strings, and path forms."""

from __future__ import annotations

import enum
import posixpath
from typing import Annotated

from pytest_gvisor.base.escape import shown
from pytest_gvisor.oci.reader import Words

# In the order of the kernel's numbers (capabilities(7)).
Capability = Annotated[str, Words("capability", """
    CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID
    CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN
    CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT
    CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE
    CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL
    CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND
    CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE
""")]  # fmt: skip

# The resources of getrlimit(2).
RlimitType = Annotated[str, Words("rlimit type", """
    RLIMIT_AS RLIMIT_CORE RLIMIT_CPU RLIMIT_DATA RLIMIT_FSIZE RLIMIT_LOCKS RLIMIT_MEMLOCK
    RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_NOFILE RLIMIT_NPROC RLIMIT_RSS RLIMIT_RTPRIO RLIMIT_RTTIME
    RLIMIT_SIGPENDING RLIMIT_STACK
""")]  # fmt: skip


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


def absolute(path: str) -> str:
    """Return the problem of a path inside the sandbox, or nothing."""
    if not path.startswith("/"):
        return f"{shown(path)} is not absolute"
    if ".." in path.split("/"):
        return f"{shown(path)} has a '..' in it"
    return ""


def normal(path: str) -> str:
    """Normalize an absolute path: no doubled slashes, dots or slash at its end."""
    return "/" + posixpath.normpath(path).lstrip("/")
