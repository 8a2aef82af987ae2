"""The options of a mount, by their effect in runsc. Does no input or output.

runsc ignores a mount option that it does not know, with a line in its boot log alone. So an option
is one that holds under gVisor, one that is written as another, or it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pytest_gvisor.base.escape import shown
from pytest_gvisor.oci.vocabulary import MountType

# fmt: off
# The sentry's own file systems have no devices of the host, so nodev holds there of itself.
_EVERYWHERE: Final = frozenset(("ro", "rw", "noexec", "exec", "nosuid", "nodev"))
# The defaults of mount(8), which are also gVisor's.
_DEFAULTS: Final = frozenset(("defaults", "async", "atime", "diratime", "loud", "nomand",
                              "symfollow"))
_BIND: Final = frozenset(("bind", "rbind", "private", "rprivate", "slave", "rslave"))
# The sentry's tmpfs updates access times at each access, unless it gets noatime.
_TMPFS: Final = frozenset(("noatime", "strictatime"))
_TMPFS_VALUES: Final = frozenset(("mode", "size", "uid", "gid"))
# Each sandbox has a devpts of its own, and everybody may open its ptmx.
_DEVPTS: Final = frozenset(("newinstance", "ptmxmode=0666", "ptmxmode=666"))

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


def translated(kind: MountType, option: str) -> str | None:
    """Return the option to give runsc: mostly the same, ``""`` for none, None for a refused one."""
    plain = option[1:] if option in _RECURSIVE else option
    if _holds(kind, plain):
        return plain
    # In the sentry's devpts a terminal belongs to the process that opens it. The flags of
    # propagation have no effect, because the sentry has mounts of its own.
    of_terminals = kind is MountType.DEVPTS and plain.startswith(("mode=", "gid="))
    return "" if plain in _LEFT_OUT or plain in _BIND or of_terminals else None


def _holds(kind: MountType, option: str) -> bool:
    if option in _EVERYWHERE or option in _DEFAULTS:
        return True
    if kind is MountType.BIND:
        return option in _BIND
    name, _, value = option.partition("=")
    if kind is MountType.TMPFS:
        return option in _TMPFS or (name in _TMPFS_VALUES and bool(value))
    return kind is MountType.DEVPTS and option in _DEVPTS


def problems(kind: MountType, options: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each problem of a mount's options, with its place."""
    for index, option in enumerate(options):
        if translated(kind, option) is None:
            yield f".options[{index}]", f"runsc has no mount option {shown(option)} here"
    meant = {option[1:] if option in _RECURSIVE else option for option in options}
    for pair in _OPPOSITES:
        if meant.issuperset(pair):
            # mount(8) takes the last one, runsc the stricter one wherever it stands.
            yield ".options", f"there are both {pair[0]} and {pair[1]}"


def adopted(kind: MountType, options: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the options that hold of a mount's for runsc, and the changes: a run needs none."""
    pairs = [(option, translated(kind, option)) for option in options]
    changes = [f"{old} -> {new}" if new else f"no {old}" for old, new in pairs if old != new]
    return tuple(dict.fromkeys(new for _, new in pairs if new)), changes
