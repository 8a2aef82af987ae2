"""Mounts that a caller asks for: folders and files of the host, and file systems in memory.

A source that would hand the host to the sandbox is refused, unless the caller names it as
dangerous. The rules look at the real path, and the real path is mounted.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.escape import shown
from pytest_gvisor.oci import host_paths, skeleton
from pytest_gvisor.oci.reader import whole
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.oci.vocabulary import MountType, absolute, normal
from pytest_gvisor.programs.paths import within
from pytest_gvisor.sessions import places, private

_ENGINES: Final = (
    "/run/docker.sock", "/run/docker", "/run/dockershim.sock", "/run/cri-dockerd.sock",
    "/run/containerd", "/run/podman", "/run/crio", "/run/buildkit",
    "/var/lib/docker", "/var/lib/containerd", "/var/lib/containers",
)  # fmt: skip
# Sockets of rootless engines, in any user's runtime folder.
_USER_ENGINE: Final = re.compile(
    r"/run/user/\d+(/(docker(\.sock)?|podman|containerd[^/]*|buildkit[^/]*|crio)(/.*)?)?"
)

_EMPTY: Final = ("ro", "nosuid", "nodev", "noexec", "mode=0700")
_NOTHING: Final = ("ro", "nosuid", "nodev", "noexec", "mode=0555")


def _sessions() -> set[str]:
    """Return the places of this user's session folders, those of other processes included."""
    return {places.SYSTEM_BASE, f"/run/user/{places.outer_uid()}/pytest-gvisor", *_bases()}


def _bases() -> Iterator[str]:
    """Yield the candidates for this process's folder, by canonical paths; a link there stays."""
    for base in places.session_bases():
        above, name = os.path.split(base)
        yield os.path.join(os.path.realpath(above), name)


def holds_sessions(source: str) -> bool:
    """Whether session folders of this user lie in this real path, or would."""
    return any(within(kept, source) for kept in _sessions())


def danger(source: str, *, writable: bool = False) -> str:
    """Return why a sandbox must not see (or write) this real path; empty if it may."""
    if source == "/":
        return "is the host's whole file system"
    for folder in skeleton.KERNEL:
        if within(source, folder):
            return f"shows the host's {folder}"
    for kept in _sessions():
        if within(source, kept):
            return "is a session folder of pytest-gvisor"
    # /var holds /var/run, by which the sockets are known too.
    if source == "/var" or any(within(engine, source) for engine in _ENGINES):
        return "holds a container engine's socket or data"
    if any(within(source, engine) for engine in _ENGINES) or _USER_ENGINE.fullmatch(source):
        return "is a container engine's socket or data"
    if source == "/run/user":
        return "holds users' sockets"
    if writable and holds_sessions(source):
        return "holds session folders of pytest-gvisor, or would"
    if writable and any(within(path, source) or within(source, path) for path in places.programs()):
        return "is or holds runsc, a place where it is looked for, or programs beside it"
    return ""


def covers(root: str, mounts: Sequence[Mount], *, session: str = "") -> list[Mount]:
    """Return empty file systems that hide the session folders in a root and its bind mounts.

    ``session`` is one more folder of sessions, for a process whose environment has changed since.
    A missing one cannot be hidden, so this process makes none there any more.
    """
    bases = {*_sessions(), session}
    shown = [(root, "/"), *((m.source, normal(m.destination)) for m in mounts if m.is_bind)]
    # runsc passes over mounts of other kinds, such as mqueue: these hide nothing.
    taken = {normal(m.destination) for m in mounts if m.is_bind or m.type is MountType.TMPFS}
    found = {}
    for source, destination in shown:
        for base in bases:
            target = normal(f"{destination}/{base[len(source.rstrip('/')) :]}")
            between = (within(target, t) and len(t) > len(destination) for t in taken)
            if within(base, source) and base != source and not any(between):
                # A link is not used for sessions, and would lead elsewhere inside. It may go.
                if os.path.isdir(base) and not os.path.islink(base):
                    found[target] = _in_memory(target, *_EMPTY)
                else:
                    private.written.add(base)
    return list(found.values())


def shown_at(destination: str, source: str) -> Mount:
    """Return a read-only bind of what this package itself has made or chosen."""
    options = ("rbind", "ro", "nosuid", "nodev")
    return Mount(destination=destination, type=MountType.BIND, source=source, options=options)


def cover(destination: str, source: str, folder: str) -> Mount:
    """Return an empty file or folder in the place of this file or folder of the host.

    An empty file is made in ``folder``. Raises `UsageError` for a name that is not UTF-8.
    """
    try:
        destination.encode()
    except UnicodeEncodeError:
        # config.json is UTF-8, and runsc would look for another name.
        raise UsageError(
            f"{shown(source)} cannot be hidden: its name is not UTF-8",
            next_step="Rename it, or leave its folder out: see gvisor_project_hidden.",
        ) from None
    if os.path.isdir(source):
        return _in_memory(destination, *_NOTHING)
    empty = os.path.join(folder, "hidden")
    if not os.path.lexists(empty):
        skeleton.write(empty, b"", 0o444)
    options = ("bind", "ro", "nosuid", "nodev", "noexec")
    return Mount(destination=destination, type=MountType.BIND, source=empty, options=options)


def shows_devices(source: str) -> bool:
    """Whether this real path is a device of the host or holds one."""
    if source == "/" or within(source, "/dev"):
        return True
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def examine(source: str, *, writable: bool, follow: bool) -> tuple[str, str, str]:
    """Return the real path of a source, why it cannot be mounted, and why it is dangerous.

    Raises `UsageError` for a link that is not followed: see `host_paths.canonical`.
    """
    try:
        real = host_paths.canonical(source, follow=follow)
        mode = os.stat(real).st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return source, f"cannot be used: {reason}", ""
    odd = "socket" if stat.S_ISSOCK(mode) else "FIFO" if stat.S_ISFIFO(mode) else "device"
    plain = stat.S_ISDIR(mode) or stat.S_ISREG(mode)
    return real, "", danger(real, writable=writable) or ("" if plain else f"is a {odd}")


def bind(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    readonly: bool = True,
    dangerous: bool = False,
    follow: bool = False,
) -> Mount:
    """Show a folder or file of the host inside, read-only by default.

    Sources that would hand the host to the sandbox need ``dangerous=True``. These are ``/``,
    ``/proc``, ``/sys``, ``/dev``, sockets of container engines and folders that hold them. So are
    other sockets, FIFOs, devices, and session folders of this package. A writable folder needs it
    too if the host executes or trusts what is there. That is the project, ``.git``, a folder of
    ``sys.path``, the running Python, runsc, and the cache of this package.

    A link is followed unless a workload may have put it there. These places are the project, the
    current folder, pytest's base temp, and folders that sandboxes of this session write. Nor is a
    link of another user followed where that user can have put it. ``follow=True`` follows both. A
    run is refused if a part of the path has become a link since.
    """
    asked = os.fspath(source)
    if not isinstance(asked, str):
        raise UsageError("the source of a bind mount must be text, not bytes")
    target = _destination(destination)
    real, impossible, risk = examine(asked, writable=not readonly, follow=follow)
    if impossible:
        raise UsageError(f"cannot mount {shown(asked)} at {target}: it {impossible}")
    if not readonly:
        risk = risk or host_paths.executed(real)
    if risk and not dangerous:
        also = "" if real == asked else f" (really {shown(real)})"
        raise UsageError(
            f"refusing to mount {shown(asked)}{also} at {target}: it {risk}",
            next_step="To show it to the sandbox all the same: bind(..., dangerous=True).",
        )
    # The kernel opens no device of a mount with nodev, not even for the gofer.
    locked = ("nosuid",) if shows_devices(real) else ("nosuid", "nodev")
    options = ("rbind", "ro" if readonly else "rw", *locked)
    return Mount(destination=target, type=MountType.BIND, source=real, options=options)


def tmpfs(
    destination: str | os.PathLike[str], *, size: int | str | None = None, mode: int = 0o1777
) -> Mount:
    """An empty file system in the sandbox's memory. ``size`` is in bytes, or text as ``64M``."""
    target = _destination(destination)
    if not whole(mode) or not 0 <= mode <= 0o7777:
        raise UsageError(f"{shown(mode)} cannot be the mode of a folder")
    limit = () if size is None else (f"size={parse_size(size)}",)
    return _in_memory(target, "nosuid", "nodev", f"mode={mode:04o}", *limit)


def _in_memory(destination: str, *options: str) -> Mount:
    return Mount(destination=destination, type=MountType.TMPFS, source="tmpfs", options=options)


Mounts = Iterable[Mount | str] | Mapping[str, str] | Mapping[Path, str]
"""The mounts of a call: of `bind` and `tmpfs`, or as docker's users write them: see `mounts_of`."""

_MODES: Final = ("ro", "rw", "dangerous")
_EXAMPLES: Final = 'mounts={"src": "/app", "data": "/data:rw"}, or mounts=["src:/app", tmpfs("/x")]'


def mounts_of(given: object) -> tuple[Mount, ...]:
    """Return the mounts of a call. Raises `UsageError`.

    A mapping has a target for each source, and a text is ``SOURCE:TARGET``. Both may have a mode at
    their end: ``:ro`` is the default, ``:rw`` and ``:dangerous`` are those of `bind`.
    """
    if isinstance(given, Mapping):
        return tuple(_read(one, to, f"mounts {{{one!r}: {to!r}}}") for one, to in given.items())
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise UsageError(f"mounts={given!r} is not a list", next_step=f"Write {_EXAMPLES}.")
    return tuple(one if isinstance(one, Mount) else parse_mount(one) for one in given)


def parse_mount(text: object, name: str = "mounts") -> Mount:
    """Read ``SOURCE:TARGET`` as a `bind`, with a mode at its end. Raises `UsageError`."""
    source, _, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
    return _read(source, rest, f"{name} {text!r}")


def _read(source: object, rest: object, written: str) -> Mount:
    if isinstance(source, str | os.PathLike) and isinstance(rest, str | os.PathLike):
        where, colon, mode = os.fspath(rest).rpartition(":")
        target, mode = (where, mode) if colon else (mode, "ro")
        if os.fspath(source) and target and ":" not in target and mode in _MODES:
            return bind(source, target, readonly=mode == "ro", dangerous=mode == "dangerous")
    raise UsageError(
        f"{written} is not SOURCE:TARGET, or that with :{' or :'.join(_MODES)}",
        next_step=f"Write {_EXAMPLES}." if written.startswith("mounts") else "",
    )


def parse_size(size: int | str) -> int:
    """Return a size in bytes; text may end in ``K``, ``M``, ``G``, ``T`` (of 1024), ``KiB``,
    ``KB``…
    """
    if isinstance(size, int) and whole(size) and 0 < size < 2**63:
        return size
    found = re.fullmatch(r"([1-9][0-9]{0,15}) ?([kmgt]?)(i?b)?", str(size).lower(), re.ASCII)
    units = ("", "k", "m", "g", "t")
    value = int(found[1]) << 10 * units.index(found[2]) if isinstance(size, str) and found else 0
    if not 0 < value < 2**63:
        raise UsageError(f"{shown(size)} is not a size: a number of bytes, or text as '64M'")
    return value


def _destination(given: str | os.PathLike[str]) -> str:
    path = os.fspath(given)
    if not isinstance(path, str):
        raise UsageError("the destination of a mount must be text, not bytes")
    wrong = absolute(path) or ("has a NUL byte" if "\0" in path else "")
    target = "" if wrong else normal(path)
    if target == "/":
        wrong = "/ is the root file system"
    if within(target, "/proc"):
        wrong = f"{shown(target)} is the sandbox's own"
    if wrong:
        raise UsageError(f"this cannot be the destination of a mount: {wrong}")
    return target
