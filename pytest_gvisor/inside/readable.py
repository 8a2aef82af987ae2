"""The files and folders of ``--gvisor-readable``: shown read-only to tests inside, as asked for.

The entries of a home folder are shown one by one, and none whose name begins with a dot. Keys and
tokens of every program lie there.
"""

from __future__ import annotations

import glob
import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from pytest_gvisor.errors import UsageError
from pytest_gvisor.escape import escape
from pytest_gvisor.oci import skeleton
from pytest_gvisor.oci.mounts import examine
from pytest_gvisor.programs.paths import within

if TYPE_CHECKING:
    import pytest

KEY = "gvisor_readable"
"""The ini key, and where argparse puts the option."""

OPTION = "--gvisor-readable"

_MOST_ENTRIES = 256
"""The entries of home folders that are shown: each is a mount."""


class Opened(NamedTuple):
    """The parts of a readable path."""

    whole: tuple[str, ...] = ()
    """Files and folders that are shown as they are."""

    opened: tuple[str, ...] = ()
    """Folders of which the entries are shown instead: home folders, and those that hold one."""

    links: tuple[tuple[str, str], ...] = ()
    """Links in those, with their targets. Nothing is shown for their sake."""


def paths(config: pytest.Config) -> list[str]:
    """Return the paths asked for, globs resolved. Raises `UsageError`."""
    here = str(config.invocation_params.dir)
    base = str(config.inipath.parent if config.inipath else config.rootpath)
    found: dict[str, None] = {}
    for folder, asked in ((base, config.getini(KEY)), (here, config.getoption(KEY))):
        for path in asked:
            found |= dict.fromkeys(_resolved(folder, path))
    for path in found:
        _real, impossible, risk = examine(path, writable=False)
        if problem := impossible or risk:
            raise UsageError(
                f"{OPTION} {escape(shlex.quote(path))}: it {problem}",
                next_step="Name files and folders that tests need. The ini key "
                f"{KEY} takes the same, one a line.",
            )
    return list(found)


def _resolved(folder: str, asked: str) -> list[str]:
    path = os.path.normpath(os.path.join(folder, os.path.expanduser(asked)))
    if glob.has_magic(path) and not os.path.lexists(path):
        return sorted(glob.glob(path))
    return [path]


def opened(asked: Iterable[str]) -> Opened:
    """Return the parts of these paths, home folders opened. Raises `UsageError`."""
    homes = _homes()
    whole: list[str] = []
    folders: list[str] = []
    links: list[tuple[str, str]] = []
    waiting = sorted({way for path in asked for way in (path, os.path.realpath(path))})
    while waiting:
        path, *waiting = waiting
        real = os.path.realpath(path)
        if not os.path.isdir(path) or not any(within(home, real) for home in homes):
            whole.append(path)
            continue
        if path != real:
            links.append((path, real))
            continue
        folders.append(path)
        waiting += _entries(path, links, dots=path not in homes)
        if len(waiting) + len(whole) + len(links) > _MOST_ENTRIES:
            raise UsageError(
                f"{OPTION} {escape(shlex.quote(path))}: it has more than {_MOST_ENTRIES} entries",
                next_step="Name the entries that tests need.",
            )
    return Opened(tuple(dict.fromkeys(whole)), tuple(folders), tuple(links))


def _entries(folder: str, links: list[tuple[str, str]], *, dots: bool) -> Iterator[str]:
    """Yield the files and folders in a folder that may be shown; add its links to ``links``."""
    try:
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if name.startswith(".") and not dots:
                continue
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                links.append((path, os.readlink(path)))
            elif stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                yield path
    except OSError as error:
        raise UsageError(f"{OPTION} {escape(shlex.quote(folder))}: {error.strerror}") from error


def _homes() -> set[str]:
    """Return home folders: this user's by both of its names, root's, and those in /home."""
    others = {os.path.realpath(path) for path in glob.glob("/home/*")}
    return others | {os.path.realpath(path) for path in skeleton.homes() if path != "/home"}
