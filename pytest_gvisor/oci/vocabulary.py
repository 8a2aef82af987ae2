"""The vocabulary of a specification: enums that code names, lists of strings, path forms, and the
options of a mount by their effect in runsc.

runsc ignores a mount option that it does not know, with a line in its boot log alone. So an option
is one that holds under gVisor, one that is written as another, or it is refused.
"""

from __future__ import annotations

import enum
import posixpath
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

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


PATH_MAX: Final = 4096
"""As the kernel has it. To resolve a path takes time and memory with the square of its length."""


def absolute(path: str) -> str:
    """Return the problem of a path inside the sandbox, or nothing."""
    if not path.startswith("/"):
        return f"{shown(path)} is not absolute"
    if ".." in path.split("/"):
        return f"{shown(path)} has a '..' in it"
    return "" if len(path) < PATH_MAX else f"{shown(path)} has {len(path)} characters"


def normal(path: str) -> str:
    """Normalize an absolute path: no doubled slashes, dots or slash at its end."""
    return "/" + posixpath.normpath(path).lstrip("/")


# fmt: off
# The sentry's own file systems have no devices of the host, so nodev holds there of itself. From
# "defaults" on, these are the defaults of mount(8), which are also gVisor's.
_EVERYWHERE: Final = frozenset(("ro", "rw", "noexec", "exec", "nosuid", "nodev", "defaults",
                                "async", "atime", "diratime", "loud", "nomand", "symfollow"))
_BIND: Final = frozenset(("bind", "rbind", "private", "rprivate", "slave", "rslave"))
# The sentry's tmpfs updates access times at each access, unless it gets noatime.
_TMPFS: Final = frozenset(("noatime", "strictatime"))
_TMPFS_VALUES: Final = frozenset(("mode", "size", "uid", "gid"))
# Each sandbox has a devpts of its own, and everybody may open its ptmx.
_DEVPTS: Final = frozenset(("newinstance", "ptmxmode=0666", "ptmxmode=666"))
_OWN: Final = {MountType.BIND: _BIND, MountType.TMPFS: _TMPFS, MountType.DEVPTS: _DEVPTS}

# A bind mount of gVisor has its options with all that is mounted below its source.
_RECURSIVE: Final = frozenset(("rro", "rrw", "rnoexec", "rexec", "rnosuid", "rsuid", "rnodev",
                               "rdev", "rnoatime", "ratime", "rrelatime", "rnorelatime",
                               "rstrictatime", "rnostrictatime", "rnodiratime", "rdiratime"))
# Without these options, a workload has fewer rights, or other time stamps than it asked for, which
# no document promises. On a bind mount, the kernel lets no user namespace change how the source's
# file system writes access times.
_LEFT_OUT: Final = frozenset(("suid", "dev", "noatime", "relatime", "norelatime", "strictatime",
                              "nostrictatime", "nodiratime", "lazytime", "nolazytime", "silent"))
# fmt: on
_OPPOSITES: Final = (("ro", "rw"), ("noexec", "exec"), ("nosuid", "suid"), ("nodev", "dev"))


def translated_option(kind: MountType, option: str) -> str | None:
    """Return the option to give runsc: mostly the same, ``""`` for none, None for a refused one."""
    plain = option[1:] if option in _RECURSIVE else option
    if _holds(kind, plain):
        return plain
    # In the sentry's devpts a terminal belongs to the process that opens it. The flags of
    # propagation have no effect, because the sentry has mounts of its own.
    of_terminals = kind is MountType.DEVPTS and plain.startswith(("mode=", "gid="))
    return "" if plain in _LEFT_OUT or plain in _BIND or of_terminals else None


def _holds(kind: MountType, option: str) -> bool:
    name, _, value = option.partition("=")
    has_value = kind is MountType.TMPFS and name in _TMPFS_VALUES and bool(value)
    return has_value or option in _EVERYWHERE or option in _OWN.get(kind, ())


def option_problems(kind: MountType, options: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each problem of a mount's options, with its place."""
    for index, option in enumerate(options):
        if translated_option(kind, option) is None:
            yield f".options[{index}]", f"runsc has no mount option {shown(option)} here"
    meant = {option[1:] if option in _RECURSIVE else option for option in options}
    for pair in _OPPOSITES:
        if meant.issuperset(pair):
            # mount(8) takes the last one, runsc the stricter one wherever it stands.
            yield ".options", f"there are both {pair[0]} and {pair[1]}"


def adopted_options(kind: MountType, options: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the options that hold of a mount's for runsc, and the changes: a run needs none."""
    pairs = [(option, translated_option(kind, option)) for option in options]
    changes = [f"{old} -> {new}" if new else f"no {old}" for old, new in pairs if old != new]
    return tuple(dict.fromkeys(new for _, new in pairs if new)), changes
