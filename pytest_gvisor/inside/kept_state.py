"""The state of the files that a sandbox had read when it was saved for later sessions.

It names them itself. So the names are data of checked shape. They are paths, few enough, and only
of files of the host that the sandbox was shown.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import Any, Final

from pytest_gvisor import guest
from pytest_gvisor.inside.visible import Shown
from pytest_gvisor.oci import skeleton
from pytest_gvisor.programs.paths import within

_MOST: Final = 20_000
_IMPORTED: Final = (*all_suffixes(), ".dist-info", ".egg-info", ".egg-link", ".pth")
_SETTINGS: Final = (".cfg", ".ini", ".toml")
_TESTS: Final = re.compile(r"conftest\.py|test_.*\.py|.*_test\.py|__pycache__")
"""Names that nothing is imported from before the gate."""

_JUST_NOW: Final = 100_000_000
_COARSE: Final = 2_000_000_000
"""Nanoseconds in which a file system may give two changes the same time; some count seconds."""

State = dict[str, dict[str, Any]]


def of(files: Sequence[str], folders: Sequence[str], shown: Shown, path: Sequence[str]) -> State:
    """Return the state of files that were read and of folders that are in use.

    ``path`` is the ``sys.path`` of the sandbox.
    """
    read = {*filter(shown.holds, files), *skeleton.sources(), *_own(), *_settings(shown)}
    used = {above for folder in folders for above in _ways(folder) if shown.holds(above)}
    imported = {*path, shown.start}
    places = {folder for folder in imported if shown.holds(folder)}
    loose = {folder for folder in places if any(within(folder, top) for top in shown.paths)}
    return {
        "files": {name: _file(name) for name in sorted(read | used | (places - loose))},
        "names": {name: _names(name) for name in sorted(loose)},
    }


def again(state: State) -> State:
    """Return the present state of the same files and folders. Raises `KeyError`."""
    return {
        "files": {name: _file(name) for name in state["files"]},
        "names": {name: _names(name) for name in state["names"]},
    }


def changed(before: State, now: State) -> str:
    """Return a file or folder whose state differs; nothing if none does."""
    for part in ("files", "names"):
        for name, value in before[part].items():
            if now[part][name] != value:
                return name
    return ""


def since(state: State, moment: int) -> str:
    """Return a file that may have changed after ``moment``, in nanoseconds since 1970; or nothing.

    Nobody can set this time of a file, its ctime.
    """
    for name, value in state["files"].items():
        if value is None:
            continue
        spread = _COARSE if value[-1] % 1_000_000_000 == 0 else _JUST_NOW
        if value[-1] > moment - spread:
            return name
    return ""


def paths(value: object) -> list[str] | None:
    """Return the paths of a list from a sandbox; None for no such list, or too long a one."""
    if not isinstance(value, list) or len(value) > _MOST:
        return None
    if not all(isinstance(path, str) for path in value):
        return None
    # Of what processes map or have open, some has no path, and some is removed.
    return [path for path in value if _is_path(path)]


def _is_path(path: str) -> bool:
    whole = os.path.isabs(path) and not path.startswith("//") and "\0" not in path
    return whole and os.path.normpath(path) == path


def _own() -> Iterator[str]:
    """Yield this package's programs inside."""
    yield from map(str, Path(guest.__path__[0]).glob("*.py"))
    yield os.path.realpath(sys.executable)
    yield os.path.join(sys.prefix, "pyvenv.cfg")


def _settings(shown: Shown) -> Iterator[str]:
    """Yield the files of settings where pytest was started, and those that name folders."""
    folders = [shown.start, *filter(os.path.isdir, sys.path)]
    for folder in dict.fromkeys(folders):
        suffixes = (".pth", *_SETTINGS) if folder == shown.start else (".pth",)
        for name in _list(folder):
            if name.endswith(suffixes):
                yield os.path.join(folder, name)


def _ways(path: str) -> Iterator[str]:
    while path != "/":
        yield path
        path = os.path.dirname(path)


def _file(path: str) -> list[int] | None:
    """Return the state of a file; of a folder, that of its list of names."""
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return None
    return [info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]


def _names(folder: str) -> str:
    """Return a digest of the names in a folder from which something may be imported."""
    found = "\0".join(sorted(name for name in _entries(folder) if not _TESTS.fullmatch(name)))
    return hashlib.sha256(found.encode("utf-8", "surrogateescape")).hexdigest()


def _entries(folder: str) -> Iterable[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith((*_IMPORTED, *_SETTINGS)) or (
                    entry.is_dir() and entry.name.isidentifier()
                ):
                    yield entry.name
    except OSError:
        return


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
