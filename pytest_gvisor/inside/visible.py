"""The host's parts that a test inside sees: its project, its imports, and what was asked for."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from pytest_gvisor.errors import UsageError
from pytest_gvisor.inside import configuration, readable
from pytest_gvisor.oci import packages, paths, skeleton
from pytest_gvisor.oci.mounts import danger
from pytest_gvisor.programs.paths import within

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_MOST_NAMED = 3
"""The packages of one folder that are named one by one."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The files and folders of the host that tests inside see, apart from the system's."""

    paths: tuple[str, ...]
    """They are at their own paths, read-only."""

    links: tuple[tuple[str, str], ...] = ()
    """Links of opened home folders, with their targets."""

    start: str
    """The folder that pytest was started in: an empty one where it is not in `paths`."""

    def holds(self, path: str) -> bool:
        """Whether a path lies in what tests inside see, links not resolved."""
        return any(within(path, other) for other in (*self.paths, *_SYSTEM, *_prefixes()))

    @property
    def adds(self) -> bool:
        """Whether a root file system with the mount points lacks something: see `complete`."""
        return bool(self.links) or not self.holds(self.start)

    def complete(self, root: str) -> None:
        """Add the links and the folder of the start to a root file system with the mount points."""
        for link, target in self.links:
            above, name = os.path.split(link)
            place = os.path.join(_make_folder(root, above), name)
            if not os.path.lexists(place):
                os.symlink(target, place)
        if not self.holds(self.start):
            _make_folder(root, self.start)


def _make_folder(root: str, path: str) -> str:
    """Make a folder in a root file system, links in that resolved; return its path on the host."""
    inside = paths.resolve(root, path, {}).inside
    skeleton.point(root, inside, is_folder=True)
    return root + inside


def shown(config: pytest.Config, items: Sequence[pytest.Item], asked: Sequence[str] = ()) -> Shown:
    """Return what tests inside see: the project, its imports, and the paths ``asked`` for.

    Raises `UsageError` where that would be a whole home folder or the root folder, unless it was
    asked for.
    """
    start = str(config.invocation_params.dir)
    parts = readable.opened(asked)
    found: list[str] = []
    for path in sorted(parts.whole):
        if not _is_held(path, found):
            found.append(path)
    wanted = {**dict.fromkeys(_optional(config, start)), **_needed(config, items, start)}
    ways = {way: p for p in wanted for way in (os.path.realpath(p), os.path.abspath(p))}
    for path in sorted(ways):
        if not _is_held(path, found) and path not in parts.opened:
            if use := wanted[ways[path]]:
                _check(path, *use)
            found.append(path)
    return Shown(paths=tuple(found), links=parts.links, start=start)


def _needed(
    config: pytest.Config, items: Sequence[pytest.Item], start: str
) -> dict[str, tuple[str, str]]:
    """Return the folders that have to be shown, with the reason and a remedy for each."""
    imports = "it is on sys.path", "Take it off sys.path"
    wanted = dict.fromkeys(_import_folders(start), imports)
    files = [*(str(item.path) for item in items), *configuration.files(items)]
    for folder, name in map(os.path.split, files):
        wanted[folder] = f"{name} lies in it", "Move the tests into a folder of their own"
    root = "it is the root folder of the tests", "Set --rootdir to a folder of the project's own"
    return {**wanted, str(config.rootpath): root}


def _import_folders(start: str) -> Iterator[str]:
    """Yield the folders of ``sys.path``.

    ``python -m pytest`` puts the folder of the start there, which tests need not import from.
    """
    for path in map(os.path.abspath, filter(None, sys.path)):
        if os.path.isdir(path) and not (path == start and skeleton.is_wide(path)):
            yield path


def _optional(config: pytest.Config, start: str) -> Iterator[str]:
    """Yield what is shown unless it is too wide.

    Of the ini file and of conftest.py files the folder may be, and then the file is shown alone.
    """
    wanted = [start, *packages.found()]
    if config.inipath is not None:
        wanted += [str(config.inipath), str(config.inipath.parent)]
    modules = config.pluginmanager._conftest_plugins
    wanted += [path for module in modules if isinstance(path := module.__file__, str)]
    yield from (path for path in wanted if not skeleton.is_wide(path))


def _is_held(path: str, found: Sequence[str]) -> bool:
    return any(within(path, other) for other in (*found, *_SYSTEM, *_prefixes()))


def _prefixes() -> list[str]:
    """Return the folders of Python that the host's root file system already has."""
    return [os.path.realpath(path) for path in {sys.prefix, sys.base_prefix}]


def measurable(
    config: pytest.Config, items: Sequence[pytest.Item], asked: Sequence[str] = ()
) -> list[str]:
    """Return all folders with code that a test may import. Raises `UsageError` like `shown`."""
    return [*shown(config, items, asked).paths, *_SYSTEM, *_prefixes()]


def named_packages(config: pytest.Config) -> list[str]:
    """Return the packages that are shown beside the project and ``sys.path``; many are counted."""
    known = [str(config.rootpath), str(config.invocation_params.dir)]
    known += map(os.path.abspath, filter(os.path.isdir, sys.path))
    known = [path for path in known if not skeleton.is_wide(path)]
    folders: dict[str, list[str]] = {}
    for path in packages.found():
        if not _is_held(path, known) and not skeleton.is_wide(path):
            folders.setdefault(os.path.dirname(path), []).append(path)
    named: list[str] = []
    for folder, found in folders.items():
        named += found if len(found) <= _MOST_NAMED else [f"{len(found)} in {folder}"]
    return named


def _check(path: str, use: str, remedy: str) -> None:
    if not skeleton.is_wide(path):
        return
    dots = ", of which names that begin with a dot stay hidden" * within(skeleton.home(), path)
    ask = f", or show it{dots}: --gvisor-readable {shlex.quote(path)}"
    raise UsageError(
        f"the tests would need all of {shlex.quote(path)} inside the sandbox, because {use}",
        next_step=f"{remedy}{'' if danger(os.path.realpath(path)) else ask}.",
    )
