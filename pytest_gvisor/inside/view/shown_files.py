"""The files of the host that a path from inside may name: those that tests see, and others.

A path from inside may name anything. A look-up by its name could wait for ever, if another machine
or a program serves the file system. It could also start an automounter, or follow a link. So a file
that tests see is opened below a descriptor of its folder. For a failure's hint any other path is
looked up by lstat and readlink, on local file systems alone. The number of lookups is bounded. The
hint goes into the host's report, and never inside.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator

from pytest_gvisor.base.escape import escape
from pytest_gvisor.inside.view.visible import KEY, OPTION
from pytest_gvisor.oci import skeleton
from pytest_gvisor.oci.mounts import danger
from pytest_gvisor.programs import linux
from pytest_gvisor.programs.paths import below, within
from pytest_gvisor.programs.proc import Mount, mounts
from pytest_gvisor.run.not_started import NO_DATABASE, searched

LOCAL = frozenset({
    "aufs", "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "jfs",
    "ntfs3", "overlay", "ramfs", "reiserfs", "rootfs", "squashfs", "tmpfs", "udf", "vfat", "xfs",
    "zfs",
})  # fmt: skip
"""The types of file systems that this kernel serves alone, from its own disks and memory."""

_BELOW = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_XDEV | linux.NO_LINKS

_MISSING = re.compile(
    "No such file or directory|FileNotFoundError|not a git repository|No module named"
)
_NO_DATABASE = (
    "of the host's folders, tests inside see the project and those of imports.\n"
    f"If the database lies elsewhere: {OPTION}=FOLDER (or ini {KEY})"
)
_PATH = re.compile(r"""'([^'\n]+)'|"([^"\n]+)"|(?:^|(?<=[\s=:(]))(/[^\s'":,;)]+)""")
_ABSOLUTE = re.compile(r"""(?<![\w./])/[^\s'":,;)\]}\0]+""")
_MOST_TEXTS = 64
_LONGEST_TEXT = 256 * 1024
_LONGEST_LINE = 4096
_MOST_NAMED = 4096
_MOST_LOOKED_UP = 64
_MOST_PARTS = 4096
"""Parts of all paths together: of links to links there may be any number, in a circle too."""

_MOST_TOLD = 5
# Tests inside have such folders of their own. The host may have files of the same names there.
_OWN = "/tmp/pytest-of-"


class ShownFiles:
    """The files that tests inside see and cannot change, found without trust in their names.

    The kernel finds a file below a descriptor of its folder. It follows no link, and stays on the
    folder's file system. A local file system that is mounted below counts as a folder of its own.
    On another one nothing is looked up.
    """

    def __init__(self, shown: Iterable[str], excluded: Iterable[str], own: Iterable[str]) -> None:
        """Take the files below ``shown``, apart from those below ``excluded``.

        ``own`` are folders that a sandbox has for itself, as far as they are not shown. Raises
        `OSError` if there is no table of mounts.
        """
        closed = {way for path in excluded for way in (path, os.path.realpath(path))}
        trusted = [path for path in shown if not _is_in(path, closed)]
        self._tops = {way: os.path.realpath(p) for p in trusted for way in (p, os.path.realpath(p))}
        mounted = [m for m in mounts() if any(below(m.point, top) for top in self._tops.values())]
        self._closed = closed.union(mount.point for mount in mounted if mount.kind not in LOCAL)
        self._bases = {*self._tops.values(), *(m.point for m in mounted if m.kind in LOCAL)}
        self._own = tuple(own)
        self._opened: dict[str, int] = {}

    def find(self, path: str) -> str | None:
        """Return the real path of a regular file; None for another one, or one that is not shown.

        Raises `OSError` for a file that is not there, `ValueError` for a path that can name none.
        """
        if "\0" in path:
            raise ValueError("a NUL in a path")
        if (top := _deepest(self._tops, path)) is None:
            if _is_in(path, self._own):
                raise FileNotFoundError(path)
            return None
        real = self._tops[top] + path[len(top) :]
        base = _deepest(self._bases, real)
        if base is None or _is_in(real, self._closed):
            return None
        return real if self._is_regular(base, real[len(base) + 1 :]) else None

    def _is_regular(self, base: str, name: str) -> bool:
        if base not in self._opened:
            self._opened[base] = _open(linux.AT_FDCWD, base, linux.NO_LINKS)
        if not name:
            return stat.S_ISREG(os.fstat(self._opened[base]).st_mode)
        with linux.closing(_open(self._opened[base], name, _BELOW)) as fd:
            return stat.S_ISREG(os.fstat(fd).st_mode)

    def close(self) -> None:
        """Close the folders."""
        while self._opened:
            os.close(self._opened.popitem()[1])


def _open(folder: int, path: str, resolve: int) -> int:
    return linux.openat2(folder, os.fsencode(path), os.O_PATH, resolve)


def _is_in(path: str, folders: Iterable[str]) -> bool:
    return any(within(path, folder) for folder in folders)


def _deepest(folders: Iterable[str], path: str) -> str | None:
    """Return the deepest of the folders that holds a path."""
    return max((one for one in folders if within(path, one)), key=len, default=None)


def hint(texts: Iterable[str], holds: Callable[[str], bool], cwd: str) -> str:
    """Return what to say of a failure's texts; nothing where they name no such file.

    ``holds`` tells whether tests inside see a path. They start in ``cwd``.
    """
    ends = (text[-_LONGEST_TEXT:] for text in itertools.islice(texts, _MOST_TEXTS))
    lines = [line[:_LONGEST_LINE] for text in ends for line in text.splitlines()]
    of_lines = (_paths(line, cwd) for line in lines if _MISSING.search(line))
    missing = itertools.chain.from_iterable(of_lines)
    if databases := any(NO_DATABASE in line for line in lines):
        folders = (os.path.dirname(f[0]) for line in lines for f in _ABSOLUTE.finditer(line))
        missing = itertools.chain(missing, folders)
    named = dict.fromkeys(itertools.islice(missing, _MOST_NAMED))
    # Each program has a message of its own for a file that it does not find. A folder may be named
    # for any reason, and what a sandbox has itself is no file that it lacks.
    absolute = (found[0] for line in lines for found in _ABSOLUTE.finditer(line))
    others = (p for p in map(os.path.normpath, absolute) if p not in named and not _is_own(p, cwd))
    rest = itertools.islice(dict.fromkeys(itertools.islice(others, _MOST_NAMED)), _MOST_LOOKED_UP)
    told: dict[str, str] = {}
    try:
        lookup = _Lookup(mounts(), holds)
    except OSError:
        return ""
    answers = [lookup.hidden(path) for path in [*named][:_MOST_LOOKED_UP]]
    answers += [lookup.hidden(path, file=True) for path in rest if not skeleton.holds(path)]
    for answer in filter(None, answers):
        if len(told) < _MOST_TOLD and not _is_in(answer[0], told):
            told.setdefault(*answer)
    options = " ".join(f"{OPTION}={escape(shlex.quote(path))}" for path in told)
    show = f"To show: {options} (or ini {KEY})"
    return "\n".join([*told.values(), show]) if told else _NO_DATABASE * databases


def _paths(line: str, cwd: str) -> Iterator[str]:
    """Yield the absolute paths that a line names."""
    # The folder of the start is on sys.path, and may be too wide to be shown.
    modules = [path for _variable, _folder, path in searched(line)]
    named = (next(filter(None, match.groups())) for match in _PATH.finditer(line))
    for name in (*modules, *named):
        path = os.path.normpath(os.path.join(cwd, name))
        if "\0" not in path and not _is_own(path, cwd):
            yield path


def _is_own(path: str, cwd: str) -> bool:
    return path.startswith(_OWN) and not cwd.startswith(_OWN)


class _Lookup:
    """The host's files, as far as a look at them has no effect."""

    def __init__(self, table: list[Mount], holds: Callable[[str], bool]) -> None:
        self._holds = holds
        self._kinds = {mount.point: mount.kind for mount in table}  # the one on top counts
        self._parts_left = _MOST_PARTS

    def hidden(self, path: str, *, file: bool = False) -> tuple[str, str] | None:
        """Return the path to show and a sentence on it, for what is hidden from tests.

        ``file`` takes regular files alone.
        """
        try:
            real, seen, link = self._resolve(path) or ("", True, "")
            shown = self._holds(real)
            if not real or danger(real) or (shown and seen):
                return None
            # A mount point has not been looked at.
            if file and (self._is_elsewhere(real) or not stat.S_ISREG(os.lstat(real).st_mode)):
                return None
        except (OSError, ValueError):  # it is not there, or this user may not look at it
            return None
        text = f"{path} is on the host, and is not shown to tests inside."
        if link and not shown:
            text = f"{link} is a link on the way to {real}, which is not shown to tests inside."
            path = real
        # Of a file in git's folder that folder: git needs all of it.
        above, git, _below = path.partition("/.git/")
        return f"{above}/.git" if git else path, escape(text)

    def _resolve(self, path: str) -> tuple[str, bool, str] | None:
        """Resolve a path; None where it is not to be looked up.

        Return the real path, whether tests inside see each link on the way, and the last link that
        they see. Raises `OSError` or `ValueError`.
        """
        rest = [part for part in reversed(path.split("/")) if part]
        way, seen, last = "", True, ""
        while rest:
            self._parts_left -= 1
            if self._parts_left < 0:
                return None
            part = rest.pop()
            here = os.path.dirname(way) if part == ".." else f"{way}/{part}"
            if part == ".." or self._is_known(here):
                way = here.rstrip("/")
                continue
            if self._is_elsewhere(here):
                return None
            if stat.S_ISLNK(os.lstat(here).st_mode):
                if self._holds(here):
                    last = here
                else:
                    seen = False
                target = os.readlink(here)
                if target.startswith("/"):
                    way = ""
                rest += [part for part in reversed(target.split("/")) if part not in {"", "."}]
            else:
                way = here
        return way or "/", seen, last

    def _is_known(self, path: str) -> bool:
        """Whether a path is a folder by the table of mounts alone."""
        return any(within(point, path) for point in self._kinds)

    def _is_elsewhere(self, path: str) -> bool:
        """Whether looking a path up may start a mount, or ask another machine or a program."""
        point = _deepest(self._kinds, path) or "/"
        if (kind := self._kinds.get(point, "")) in LOCAL:
            return False
        # A project that lies on such a file system needs it anyway, one mounted below it may not.
        needed = self._holds(path) and not self._holds(os.path.dirname(point))
        return kind == "autofs" or not needed
