"""The places of a run by which runsc is given files and folders of the host.

runsc's gofer looks a source's name up three times before it mounts it. So config.json names places
in the run's own folder, and the child binds the sources there by descriptor: `programs.sources`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from pathlib import PurePath

from pytest_gvisor.base.errors import InvalidBundle, LaunchError, UsageError, stage
from pytest_gvisor.base.escape import shown
from pytest_gvisor.oci import root_paths
from pytest_gvisor.oci.skeleton import KERNEL
from pytest_gvisor.oci.spec import Spec
from pytest_gvisor.oci.vocabulary import normal
from pytest_gvisor.programs.paths import within
from pytest_gvisor.programs.sources import ANY, Source
from pytest_gvisor.run.request import Workspace
from pytest_gvisor.sessions.private import make_private


def written(spec: Spec) -> list[str]:
    """Return the folders and files of the host that a run may write."""
    return [one.source for one in spec.mounts if one.is_bind and "ro" not in one.options]


def check_points(spec: Spec, going_on: Collection[str]) -> None:
    """Raise `UsageError` for a mount point that another run, which is going on, may write.

    ``going_on`` are the sources that such runs write. One of them could put a link in the place of
    the mount point. The gofer makes mount points that are missing, on the host.
    """
    above = {"/": spec.root.path}
    for mount in root_paths.ordered(spec.mounts):
        point = normal(mount.destination)
        top = next(filter(above.__contains__, (point, *map(str, PurePath(point).parents))))
        place = above[top].rstrip("/") + point[len(top.rstrip("/")) :]
        if any(within(place, source) for source in [*going_on]):  # which other threads change
            raise UsageError(
                f"the mount point {shown(point)} is {place!a} on the host, which a run that is"
                " going on may write",
                next_step="Mount it elsewhere, or wait for the end of that run.",
            )
        above[point] = mount.source


def settled(spec: Spec, shared: str) -> Spec:
    """Return it with each mount at the place that its path leads to; of two at one, the later.

    runsc's sentry makes mounts by the length of their paths. Of a bind mount it learns where the
    path leads, and of no other one. So with a link to a longer path, what hides a part of a bind
    mount would be made first, and lie below it. Raises `InvalidBundle` for a mount point that is
    missing then, and for a root whose links lead mounts over each other, unless the session has
    made the root in the folder ``shared``.
    """
    root = spec.root.path
    paths = {normal(mount.destination) for mount in spec.mounts}
    if len(paths) < len(spec.mounts):
        return spec  # it is refused: two have one path
    if not within(root, shared) and (found := root_paths.moved(root, spec.mounts)):
        raise InvalidBundle(found, where="root file system")
    at = dict(zip(root_paths.places(root, spec.mounts, {}), spec.mounts, strict=True))
    for place, mount in at.items():
        # runsc knows the kernel's own folders, and /dev/pts, by their paths.
        if not any(within(mount.destination, folder) for folder in KERNEL):
            at[place] = dataclasses.replace(mount, destination=place)
    mounts = tuple(at[place] for place in sorted(at, key=len))
    # The points are there in the order of the paths as they were written. This is another one.
    if at.keys() != paths and (found := root_paths.missing(root, mounts)):
        raise InvalidBundle(found, where="root file system")
    return dataclasses.replace(spec, mounts=mounts)


def placed(spec: Spec, workspace: Workspace) -> tuple[Spec, tuple[Source, ...]]:
    """Return the specification for runsc, and the sources that the child binds at its places.

    The root is one of the sources, unless this session has made it. Raises `LaunchError`.
    """
    made: list[Source] = []

    def place(name: str, path: str, *, readonly: bool) -> str:
        target = os.path.join(workspace.path("sources"), name)
        if os.path.isdir(path):
            make_private(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        identity = workspace.identities.get(path, ANY)
        made.append(Source(path, target, readonly=readonly, identity=identity))
        return target

    root = spec.root.path
    with stage("sources", f"cannot make the places of mounts in {workspace.folder}"):
        make_private(workspace.path("sources"))
        mounts = [
            dataclasses.replace(
                mount,
                source=place(str(index), mount.source, readonly="ro" in mount.options),
                # The kernel lets no user namespace, as the gofer's, leave out the mounts below.
                options=tuple(dict.fromkeys(("rbind", *mount.options))),
            )
            if mount.is_bind
            else mount
            for index, mount in enumerate(spec.mounts)
        ]
        if not within(root, workspace.shared):
            if os.statvfs(root).f_flag & os.ST_NOEXEC:
                # The gofer is in a user namespace, where the kernel keeps this flag of a mount.
                raise LaunchError(
                    "rootfs",
                    f"{shown(root)} is on a file system that is mounted noexec",
                    next_step="Move it. XDG_CACHE_HOME says where images are kept.",
                )
            root = place("root", root, readonly=True)
    placed = dataclasses.replace(
        spec, mounts=tuple(mounts), root=dataclasses.replace(spec.root, path=root)
    )
    return placed, tuple(made)
