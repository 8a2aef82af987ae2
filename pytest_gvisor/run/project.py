"""A project as workloads see it: read-only, at its own paths, and without its secrets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_gvisor.errors import UsageError
from pytest_gvisor.escape import shown
from pytest_gvisor.oci import packages, skeleton
from pytest_gvisor.oci.mounts import bind
from pytest_gvisor.oci.skeleton import is_wide
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.oci.vocabulary import MountType
from pytest_gvisor.programs.paths import within
from pytest_gvisor.run.left_out import KEY, MOST_HIDDEN, PATTERNS, Finder

HIDING = "hidden"
"""The name of the empty file, in the folder of a run, that hides others."""

_NOTHING = ("ro", "nosuid", "nodev", "noexec", "mode=0555")


@dataclass(frozen=True, kw_only=True)
class Project:
    """The root folder of a project, and the names that are left out of it."""

    root: str
    hidden: tuple[str, ...] = PATTERNS

    def mounts(self) -> list[Mount]:
        """Return the mounts that show the root folder, and the sources of editable packages.

        Raises `UsageError` for a root folder that holds home folders, or must not be shown.
        """
        if is_wide(self.root):
            raise UsageError(
                f"project=True would show all of {shown(self.root)} to the workload",
                next_step="Set --rootdir to a folder of the project's own, or start there.",
            )
        held = [*skeleton.prefixes(), "/usr"]
        outside = [path for path in packages.sources() if not is_wide(path)]
        found: list[str] = []
        for path in (self.root, *sorted(outside)):
            for way in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
                if path == self.root or not any(within(way, other) for other in (*held, *found)):
                    found.append(way)
        return [bind(path, path) for path in dict.fromkeys(found)]

    def covers(self, own: Sequence[Mount], mounts: Sequence[Mount], folder: str) -> list[Mount]:
        """Return the mounts that hide what is left out of ``own``, the project's mounts.

        ``mounts`` are all of the sandbox: where one of the others is, nothing is hidden. An empty
        file is made in ``folder``. Raises `UsageError`.
        """
        sources = {mount.source for mount in own}
        taken = {mount.destination for mount in mounts}
        others = taken - {mount.destination for mount in own}
        finder = Finder(self.hidden, [*others, *map(os.path.realpath, others)])
        for source in sources:
            if not os.access(source, os.R_OK, effective_ids=True):
                raise UsageError(f"{shown(source)} cannot be searched for secrets, nor be shown")
        secrets = set().union(*map(finder.find, sources))
        targets: dict[str, str] = {}
        for secret in secrets:
            for mount in own:
                if secret != mount.source and within(secret, mount.source):
                    targets[mount.destination + secret[len(mount.source) :]] = secret
        # What lies in a hidden folder is hidden with it.
        wanted = {target: secret for target, secret in targets.items()
                  if target not in taken and not _is_below_another(target, targets)}  # fmt: skip
        if len(wanted) > MOST_HIDDEN:
            raise UsageError(
                f"the project has {len(wanted)} files and folders to hide: {MOST_HIDDEN} at most",
                next_step=f"Leave out the folders that hold them: name them in the ini key {KEY}.",
            )
        return [_cover(target, wanted[target], folder) for target in sorted(wanted)]


def _is_below_another(path: str, paths: dict[str, str]) -> bool:
    above = os.path.dirname(path)
    while above != "/":
        if above in paths:
            return True
        above = os.path.dirname(above)
    return False


def _cover(target: str, secret: str, folder: str) -> Mount:
    """Return an empty file or folder in the place of a secret."""
    try:
        target.encode()
    except UnicodeEncodeError:
        # config.json is UTF-8, and runsc would look for another name.
        raise UsageError(
            f"{shown(secret)} cannot be hidden: its name is not UTF-8",
            next_step=f"Rename it, or leave its folder out: name that in the ini key {KEY}.",
        ) from None
    if os.path.isdir(secret):
        return Mount(destination=target, type=MountType.TMPFS, source="tmpfs", options=_NOTHING)
    source = os.path.join(folder, HIDING)
    if not os.path.lexists(source):
        skeleton.write(source, b"", 0o444)
    options = ("bind", "ro", "nosuid", "nodev", "noexec")
    return Mount(destination=target, type=MountType.BIND, source=source, options=options)
