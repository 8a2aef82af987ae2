"""The state of the host's files that a pytest inside may have read on its way to the gate."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import all_suffixes
from typing import Any

import pytest

from pytest_gvisor.inside.view.visible import Shown
from pytest_gvisor.programs.paths import within

_READ = (*all_suffixes(), ".cfg", ".ini", ".json", ".pth", ".toml", ".yaml", ".yml")
"""The suffixes of programs and settings: the output of this run may go to another file."""

State = dict[str, frozenset[tuple[Any, ...]]]
"""For each folder its names, and of files that a start may read inode, size and time."""

Names = dict[str, frozenset[str] | None]
"""For each folder its names; None where it cannot be read."""


def now(config: pytest.Config, folders: Iterable[str]) -> State:
    """Return the names in folders, and the state of files that a start may read.

    A sandbox may keep what it has read of them. Byte code does not count. Nor does a base of
    temporary folders, which pytest makes in the meantime.
    """
    given = config.getoption("basetemp")
    temporary = os.path.join(config.invocation_params.dir, given) if given else ""
    return {folder: frozenset(_entries(folder, temporary)) for folder in folders}


def read(state: State) -> State:
    """Return the part of a state that is about files which a start may read."""
    return {
        folder: frozenset(entry for entry in entries if len(entry) > 1)
        for folder, entries in state.items()
    }


def names(folders: Iterable[str], shown: Iterable[str]) -> Names:
    """Return the names in the folders and in those above them, as far as they are ``shown``."""
    found: Names = {}
    for folder in folders:
        path = folder
        while path not in found and any(within(path, top) for top in shown):
            found[path] = None
            with contextlib.suppress(OSError):
                found[path] = frozenset(os.listdir(path))
            path = os.path.dirname(path)
    return found


def details(folders: Iterable[str]) -> State:
    """Return the names in the folders, and of each regular file inode, size and time."""
    return {folder: frozenset(_entries(folder, "", every=True)) for folder in folders}


def folders(config: pytest.Config, shown: Shown) -> Iterator[str]:
    """Yield the project's folders that a Python inside may have read before its gate.

    They are those of ``sys.path`` and of what has been imported here.
    """
    wanted = [shown.start, str(config.rootpath), *map(os.path.abspath, sys.path)]
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            wanted.append(os.path.dirname(os.path.abspath(file)))
    for path in dict.fromkeys(wanted):
        if any(within(path, top) for top in shown.paths):
            yield path


def _entries(folder: str, temporary: str, *, every: bool = False) -> Iterator[tuple[Any, ...]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == "__pycache__" or entry.path == temporary:
                    continue
                if (every or entry.name.endswith(_READ)) and entry.is_file():
                    info = entry.stat()
                    yield entry.name, info.st_ino, info.st_size, info.st_mtime_ns
                else:
                    yield (entry.name,)
    except OSError:
        return
