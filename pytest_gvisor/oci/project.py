"""A project as workloads see it: read-only, at its own paths, and without its secrets.

Secrets are found by their names. A folder is walked once, at the start of a sandbox. No link is
followed on the way.
"""

from __future__ import annotations

import errno
import fnmatch
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.escape import shown
from pytest_gvisor.oci import packages, skeleton
from pytest_gvisor.oci.mounts import bind, cover
from pytest_gvisor.oci.rootfs import host_system
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.programs.linux import closing
from pytest_gvisor.programs.paths import below, within

KEY: Final = "gvisor_project_hidden"
"""The ini key."""

PATTERNS: Final = (
    ".env*", "?*.env", ".flaskenv", ".direnv", ".dev.vars", ".git", ".hg", ".svn", ".bzr", ".jj",
    "*.pem", "*.key", "*.p8", "*.pk8", "*.p12", "*.pfx", "*.jks", "*.keystore",
    "keystore.properties", "*.kdbx", "*.ppk", "*.gpg", "*.ovpn", "id_rsa*", "id_dsa*", "id_ecdsa*",
    "id_ed25519*", ".ssh", ".gnupg", ".aws", ".azure", ".gcloud", ".config/gcloud", ".config/gh",
    ".kube", "kubeconfig", "*.kubeconfig", ".docker", ".dockerc*", ".netrc", "_netrc",
    ".git-credentials", ".pypirc", "pip.conf", ".condarc", "conda-meta/state", ".npmrc", ".yarnrc*",
    "auth.json", "nuget.config", ".cargo/credentials*", ".gem/credentials", ".m2/settings*.xml",
    ".pgpass", ".my.cnf", ".htpasswd*", ".passwd*", ".vault*", "vault?pass*", ".s3cfg", ".boto",
    "rclone.conf", ".databrickscfg", ".sentryclirc", "kaggle.json", "*credential*.json",
    "*credential*.y*ml", "service*account*.json", "*adminsdk*.json", "*secret*.json",
    "*secret*.toml", "*secret*.y*ml", "local.settings.json", "local_settings.py", "wp-config.php",
    ".*_history", ".terraform", "*.tfstate*", "*.tfvars*",
)  # fmt: skip
"""The names that are left out. A pattern with a slash is one of paths, from any folder on."""

MOST_ENTRIES: Final = 200_000
"""The files and folders of a project that are looked at."""

MOST_HIDDEN: Final = 128
"""The entries of a project that are hidden: each is a mount."""

_UNREADABLE: Final = frozenset({errno.EACCES, errno.EPERM})
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@dataclass(frozen=True, kw_only=True)
class Project:
    """The root folder of a project, and the names that are left out of it."""

    root: str
    hidden: tuple[str, ...] = PATTERNS

    def mounts(self) -> list[Mount]:
        """Return the mounts that show the root folder, and the sources of editable packages.

        Raises `UsageError` for a root folder that holds home folders, or must not be shown.
        """
        if skeleton.is_wide(self.root):
            raise UsageError(
                f"project=True would show all of {shown(self.root)} to the workload",
                next_step="Set --rootdir to a folder of the project's own, or start there.",
            )
        held = host_system(whole=False).holds
        outside = [path for path in packages.sources() if not skeleton.is_wide(path)]
        found: list[str] = []
        for path in (self.root, *sorted(outside)):
            for way in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
                known = held(way) or any(within(way, other) for other in found)
                if path == self.root or not known:
                    found.append(way)
        return [bind(path, path, follow=True) for path in dict.fromkeys(found)]

    def would_show(self, path: str) -> bool:
        """Whether `mounts` and `covers` would show a file of the root folder; both are real."""
        top = os.path.realpath(self.root)
        if skeleton.is_wide(self.root) or not within(path, top):
            return False
        finder = Finder(self.hidden)
        ways = [path, *_above(path)]
        return not any(finder.is_secret(way, top) for way in ways if below(way, top))

    def covers(self, own: Sequence[Mount], mounts: Sequence[Mount], folder: str) -> list[Mount]:
        """Return the mounts that hide what is left out of ``own``, the project's mounts.

        ``mounts`` are all of the sandbox: where one of the others is, nothing is hidden. An empty
        file is made in ``folder``. Raises `UsageError`.
        """
        sources = {mount.source for mount in own}
        taken = {mount.destination for mount in mounts}
        others = taken - {mount.destination for mount in own}
        # By their places in what is searched: elsewhere, the host's links are not the sandbox's. If
        # the project is shown by two names, a mount by one of them hides nothing by the other.
        found: dict[str, set[str]] = {}
        for one in own:
            here = {one.source + to[len(one.destination) :]
                    for to in others if within(to, one.destination)}  # fmt: skip
            found[one.source] = found.get(one.source, here) & here
        places = set().union(*found.values())
        finder = Finder(self.hidden, [*places, *map(os.path.realpath, places)])
        for source in sources:
            if not os.access(source, os.R_OK, effective_ids=True):
                raise UsageError(f"{shown(source)} cannot be searched for secrets, nor be shown")
        secrets = finder.twins(set().union(*map(finder.find, sources)))
        targets: dict[str, str] = {}
        for secret in secrets:
            for mount in own:
                if secret != mount.source and within(secret, mount.source):
                    targets[mount.destination + secret[len(mount.source) :]] = secret
        # An entry of a hidden folder is hidden with the folder, and one of another mount with that.
        over = targets.keys() | {to for to in others for one in own if within(to, one.destination)}
        wanted = {target: secret for target, secret in targets.items()
                  if target not in taken and over.isdisjoint(_above(target))}  # fmt: skip
        if len(wanted) > MOST_HIDDEN:
            raise UsageError(
                f"the project has {len(wanted)} files and folders to hide: {MOST_HIDDEN} at most",
                next_step=f"Leave out the folders that hold them: name them in the ini key {KEY}.",
            )
        return [cover(target, wanted[target], folder) for target in sorted(wanted)]


def _above(path: str) -> Iterator[str]:
    """Yield the folders above a path."""
    return map(str, PurePath(path).parents)


def patterns(lines: Iterable[str]) -> tuple[str, ...]:
    """Return `PATTERNS` with those of the ini key; ``!PATTERN`` takes one away.

    Raises `UsageError` for one to take away that is not there.
    """
    found = dict.fromkeys(PATTERNS)
    for line in filter(None, map(str.strip, lines)):
        if not line.startswith("!"):
            found[line.strip("/")] = None
        elif line[1:] not in found:
            raise UsageError(
                f"{KEY}: {shown(line)} takes away a pattern that is not in the list",
                next_step=f"The list is {' '.join(found)}.",
            )
        else:
            del found[line[1:]]
    return tuple(found)


class Finder:
    """Finds the entries of folders whose names are in a list of patterns."""

    def __init__(self, asked: Sequence[str], passed_by: Sequence[str] = ()) -> None:
        paths = [pattern for pattern in asked if "/" in pattern]
        # Most names occur many times, so the answers are cached. Few names are the last part of a
        # pattern with a slash, and only those need a search of the whole path.
        self._named = _cached(pattern for pattern in asked if pattern not in paths)
        self._last = _cached(pattern.rpartition("/")[2] for pattern in paths)
        self._paths = _compiled(f"*/{pattern}" for pattern in paths)
        self._passed_by = frozenset(passed_by)
        self._seen = 0
        self._files: dict[tuple[int, int], list[str]] = {}

    def find(self, top: str) -> set[str]:
        """Return the paths below a folder, or of a file, that are to be hidden.

        A folder that this user cannot list is one of them, since files in it may be known by
        name. If a link has such a name, its target is hidden, which may be elsewhere. Raises
        `UsageError` for a folder that has too many entries.
        """
        found: set[str] = set()
        waiting = [top]
        while waiting:
            for path, is_folder, is_link in self._entries(waiting.pop(), found):
                if path in self._passed_by:
                    continue
                if not self.is_secret(path, top):
                    waiting += [path] * is_folder
                elif not is_link:
                    found.add(path)
                elif (target := os.path.realpath(path)) != top and self._may_hide(target, top):
                    found.add(target)
        return found

    def twins(self, found: set[str]) -> set[str]:
        """Return these paths, and the other names of their files in the folders that were searched.

        A file in a hidden folder may have a name outside of it that is not found.
        """
        shared = (names for names in self._files.values() if not found.isdisjoint(names))
        return found.union(*shared)

    def _entries(self, folder: str, found: set[str]) -> Iterator[tuple[str, bool, bool]]:
        """Yield path, whether it is a folder and whether it is a link, of each entry."""
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _UNREADABLE:
                found.add(folder)
            elif error.errno not in _GONE:
                raise _cannot_look(folder, error) from error
            return
        try:
            with closing(descriptor), os.scandir(descriptor) as entries:
                device = os.fstat(descriptor).st_dev
                for entry in entries:
                    self._count(folder)
                    is_link = entry.is_symlink()
                    if entry.is_file(follow_symlinks=False):
                        one = device, entry.inode()
                        self._files.setdefault(one, []).append(f"{folder}/{entry.name}")
                    yield f"{folder}/{entry.name}", entry.is_dir(follow_symlinks=False), is_link
        except OSError as error:
            raise _cannot_look(folder, error) from error

    def _count(self, folder: str) -> None:
        self._seen += 1
        if self._seen > MOST_ENTRIES:
            raise UsageError(
                f"the project has more than {MOST_ENTRIES} files and folders to look at "
                f"(now in {shown(folder)})",
                next_step=f"Leave large folders out: name them in the ini key {KEY}.",
            )

    def _may_hide(self, target: str, top: str) -> bool:
        """Whether a link's target exists, and is not shown for another reason."""
        known = any(within(target, p) and not within(top, p) for p in self._passed_by)
        return os.path.lexists(target) and not os.path.islink(target) and not known

    def is_secret(self, path: str, top: str) -> bool:
        """Whether the name of a path below a folder is one of the patterns'."""
        name = path.rpartition("/")[2]
        if self._named(name) or not self._last(name):
            return self._named(name)
        return self._paths.match(path[len(top) :].casefold()) is not None


def _cached(asked: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a name has one of these patterns."""
    match = _compiled(asked).match
    return functools.cache(lambda name: match(name.casefold()) is not None)


def _compiled(asked: Iterable[str]) -> re.Pattern[str]:
    """Return a regular expression for all these patterns, upper and lower case alike."""
    parts = [fnmatch.translate(pattern.casefold()) for pattern in asked]
    return re.compile("|".join(parts) if parts else r"(?!)")


def _cannot_look(folder: str, error: OSError) -> UsageError:
    return UsageError(
        f"the project cannot be searched for secrets: {shown(folder)}: {error.strerror}",
        next_step=f"Leave that folder out: name it in the ini key {KEY}.",
    )
