"""The host's resources that a foreign bundle reaches, against those that its caller allows.

Mount sources arrive with all links resolved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, Final, Literal, TypeVar

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.escape import shown
from pytest_gvisor.base.trust import Trust, follow
from pytest_gvisor.oci import host_paths, mounts
from pytest_gvisor.oci.spec import Capabilities, Mount, Spec
from pytest_gvisor.oci.vocabulary import normal
from pytest_gvisor.programs.paths import within

Access = Literal["ro", "rw"]
Source = TypeVar("Source", bound=str | os.PathLike[str])
"""The keys of a mapping have one type for a type checker: those of a dict of paths are paths."""

_DANGEROUS: Final = "allow_dangerous=True"
# For any other, /dev/nvidiactl among them, runsc may open the host's driver by itself.
_OWN_DEVICES: Final = frozenset((
    "/dev/console", "/dev/full", "/dev/fuse", "/dev/net/tun", "/dev/null", "/dev/ptmx",
    "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero",
))  # fmt: skip


def allowed(binds: Mapping[Any, str]) -> dict[str, Access]:
    """Return the argument ``allow_binds`` by real paths.

    Raises `UsageError` for a bad one, and for a link that is not followed: see
    `host_paths.canonical`.
    """
    found: dict[str, Access] = {}
    for source, access in binds.items():
        path: object = os.fspath(source)
        if not isinstance(path, str) or not os.path.isabs(path) or access not in {"ro", "rw"}:
            raise UsageError(
                f"allow_binds: {shown(path)}: {shown(access)} is not an absolute path and 'ro' or"
                " 'rw'"
            )
        try:
            real = host_paths.canonical(path)
        except (OSError, ValueError):
            real = path  # no mount can have it as a source
        found[real] = "rw" if "rw" in {access, found.get(real)} else "ro"
    return found


def problems(spec: Spec, folder: str, allow: Mapping[str, Access]) -> Iterator[str]:
    """Yield each thing outside the bundle's folder that the specification reaches without
    permission.
    """
    missing: dict[str, Access] = {}
    sets = dataclasses.astuple(spec.process.capabilities or Capabilities())
    uncovers = any("CAP_SYS_ADMIN" in names for names in sets)
    for index, mount in enumerate(spec.mounts):
        place = f"mounts[{index}]"
        if mount.is_bind:
            yield from _bind(mount, place, folder, allow, missing)
            if uncovers and mounts.holds_sessions(mount.source):
                text = "holds session folders, or would, and CAP_SYS_ADMIN can uncover them"
                yield f"{place}.source: {shown(mount.source)} {text}: {_DANGEROUS} lets it"
        if mount.uid_mappings or mount.gid_mappings:
            yield f"{place}: maps ids of the host: {_DANGEROUS} lets it"
    if missing:
        argument = ", ".join(f"{source!a}: {access!r}" for source, access in missing.items())
        yield f"to give the sandbox these sources: allow_binds={{{argument}}}"
    yield from _exchangeable(spec)
    for index, namespace in enumerate(spec.linux.namespaces):
        if namespace.path:
            yield f"linux.namespaces[{index}].path: joins a namespace of the host"
    for index, device in enumerate(spec.linux.devices):
        if normal(device.path) not in _OWN_DEVICES:
            yield (
                f"linux.devices[{index}].path: {shown(device.path)} may be a device of the host:"
                f" {_DANGEROUS} lets it"
            )


def _bind(
    mount: Mount, place: str, folder: str, allow: Mapping[str, Access], missing: dict[str, Access]
) -> Iterator[str]:
    # By the path that the run opens without links: it may lead elsewhere by now.
    writable, source = "ro" not in mount.options, mount.source
    _real, impossible, risk = mounts.examine(source, writable=writable, follow=True)
    risk = risk or (host_paths.executed(source) if writable else "")
    where = "" if within(source, folder) else "outside of the bundle"
    if impossible:
        yield f"{place}.source: {shown(source)} {impossible}"
    elif risk:
        yield f"{place}.source: {shown(source)} {risk}: {_DANGEROUS} lets it"
    elif where or (writable and _is_others(source, folder)):
        needed: Access = "rw" if writable else "ro"
        if allow.get(source) not in {"rw", needed}:
            verb = "write" if writable else "see"
            missing[source] = "rw" if "rw" in {needed, missing.get(source)} else "ro"
            where = where or "another user's, or in a folder of theirs"
            yield f"{place}.source: {shown(source)} is {where}, and the sandbox would {verb} it"


def _is_others(path: str, folder: str) -> bool:
    """Whether a folder is another user's, or a part of the way from there to ``path`` is.

    That user could run a program that is left there, set-uid to this one.
    """
    mine = Trust.here(os.geteuid())
    with contextlib.ExitStack() as held:
        entries = [lookup.entry for lookup in follow(path, held).lookups]
        return not all(mine.owns(one) for one in entries if within(one.path, folder))


def _exchangeable(spec: Spec) -> Iterator[str]:
    """Yield sources below a writable one: the sandbox could put a link in their place."""
    binds = [(index, mount) for index, mount in enumerate(spec.mounts) if mount.is_bind]
    writable = {mount.source: index for index, mount in binds if "ro" not in mount.options}
    places = [(f"mounts[{index}].source", mount.source) for index, mount in binds]
    for place, path in [("root.path", spec.root.path), *places]:
        above = next(filter(writable.__contains__, map(str, PurePath(path).parents)), None)
        if above is not None:
            yield (
                f"{place}: {shown(path)} is below mounts[{writable[above]}].source, and the"
                f" sandbox could put a link in its place: {_DANGEROUS} lets it"
            )
