"""Paths inside a sandbox, resolved on the host as if the root were ``/``.

runsc's gofer makes the missing mount points of bind mounts in the root file system, on the host. It
does so even where the root is read-only or has an overlay in memory. It makes none for proc, sysfs
and tmpfs. So every bind mount's point is there before runsc is started, or the run is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from pytest_gvisor.base.escape import shown
from pytest_gvisor.oci import skeleton
from pytest_gvisor.oci.reader import MAX_PROBLEMS, bounded
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.oci.vocabulary import absolute, normal
from pytest_gvisor.programs.paths import within

# The kernel follows as many in one path (path_resolution(7)).
_MAX_LINKS: Final = 40
_NOWHERE: Final = "/dev/null/nothing"


class Place(NamedTuple):
    """The host's side of a path inside."""

    inside: str
    """Its path inside, links resolved."""
    host: str
    """Its path on the host, links resolved."""
    bound: bool
    """Whether a bind mount, not the root, holds it."""
    loop: bool = False
    """Whether links go round."""

    @property
    def exists(self) -> bool:
        """Whether a file, a folder or a link exists at the place."""
        return not self.loop and os.path.lexists(self.host)


def resolve(root: str, path: str, binds: Mapping[str, str]) -> Place:
    """Resolve ``path`` on the host. ``binds`` maps the bind mounts so far, resolved, to sources."""
    rest = [part for part in reversed(path.split("/")) if part not in {"", "."}]
    way: list[tuple[str, str, bool]] = [("", root.rstrip("/"), False)]
    links = 0
    while rest:
        part = rest.pop()
        if part == "..":
            if len(way) > 1:
                way.pop()
            continue
        inside, host, bound = way[-1]
        inside, host = f"{inside}/{part}", f"{host}/{part}"
        if inside in binds:
            way.append((inside, binds[inside], True))
            continue
        try:
            target = os.readlink(host)
        except OSError:  # it is no link, or there is nothing
            way.append((inside, host, bound))
            continue
        links += 1
        if links > _MAX_LINKS:
            return Place(inside=inside, host=host, bound=bound, loop=True)
        if target.startswith("/"):
            del way[1:]
        rest += [part for part in reversed(target.split("/")) if part not in {"", "."}]
    inside, host, bound = way[-1]
    return Place(inside=inside or "/", host=host or "/", bound=bound)


def places(root: str, mounts: Iterable[Mount], made: dict[str, str]) -> list[str]:
    """Return the places inside of mounts that are made one by one; ``made`` gets their sources."""
    found = []
    for mount in mounts:
        found.append(resolve(root, normal(mount.destination), made).inside)
        made[found[-1]] = mount.source if mount.is_bind else _NOWHERE
    return found


def moved(root: str, mounts: Sequence[Mount]) -> list[str]:
    """Return the problems of mounts that are not where their paths lead when all are made.

    A link of the root can lead one mount over a link on the way to another one. What hides a part
    of that one is then made elsewhere, and hides nothing. runsc gets the mounts by the length of
    the paths that are found here. Its gofer resolves bind mounts without the others.
    """
    made: dict[str, str] = {}
    places(root, mounts, made)
    leads = {to: resolve(root, normal(to), made).inside for to in (m.destination for m in mounts)}
    binds = sorted((m for m in mounts if m.is_bind), key=lambda m: len(leads[m.destination]))
    found: dict[str, None] = {}
    for order in (binds, mounts):
        for mount, place in zip(order, places(root, order, {}), strict=True):
            if place != leads[mount.destination]:
                found[f"mounts: another one lies over a link to {shown(mount.destination)}"] = None
    return bounded([*found])


def ordered(mounts: Iterable[Mount]) -> list[Mount]:
    """Return the bind mounts, parents first."""
    return sorted(
        (mount for mount in mounts if mount.is_bind and not absolute(mount.destination)),
        key=lambda mount: normal(mount.destination).count("/"),
    )


def missing(root: str, mounts: Sequence[Mount], *, makes: bool = False) -> list[str]:
    """Return the problems of bind mounts without a mount point in the root.

    With ``makes``, the points that no other mount holds are made: the root was made for this run.
    """
    found, binds = [], dict[str, str]()
    for mount in ordered(mounts):
        destination = normal(mount.destination)
        place = resolve(root, destination, binds)
        source_is_folder = os.path.isdir(mount.source)
        kind = "folder" if source_is_folder else "file"
        if makes and not place.exists and not place.bound and within(place.host, root):
            skeleton.point(root, place.host[len(root) :], is_folder=source_is_folder)
        if not place.exists:
            found.append(
                f"mounts: {shown(destination)} does not exist in the root file system: make that"
                f" {kind} ({shown(place.host)}) first, because runsc would make it on the host"
            )
        elif os.path.isdir(place.host) != source_is_folder:
            found.append(
                f"mounts: {shown(destination)} is not a {kind}, as {shown(mount.source)} is"
            )
        if len(found) > MAX_PROBLEMS:
            break
        binds[place.inside] = mount.source
    return bounded(found)
