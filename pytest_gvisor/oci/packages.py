"""Packages that lie outside of the folders of ``sys.path``, for sandboxes to import.

These are editable packages of setuptools, links into uv's cache, zip files and eggs. The files of
installers are read as data. A link of another kind is not followed, because it may lead anywhere.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import all_suffixes
from typing import Any

_FINDER = re.compile(r"__editable___\w+_finder")
_METADATA = "METADATA"
_MOST_READ = 64 * 1024
_MOST_LINKED = 128
"""The packages of one folder of uv's cache that are shown one by one: each is a mount."""


def found() -> list[str]:
    """Return the existing folders and files of these packages, sorted."""
    path = [os.path.abspath(entry or os.curdir) for entry in sys.path]
    return sorted({*editable(sys.modules), *linked(path), *archives(path)})


def sources() -> list[str]:
    """Return the existing folders and files of editable packages, sorted.

    An installer names them to a finder, or in a .pth file in one of the folders of packages.
    """
    path = [os.path.abspath(entry or os.curdir) for entry in sys.path]
    return sorted({*editable(sys.modules), *_path_files(path)})


def _path_files(path: Sequence[str]) -> Iterator[str]:
    """Yield the folders of ``path`` that a .pth file in another one names."""
    for folder in dict.fromkeys(path):
        for name in _names(folder, ".pth"):
            try:
                with open(os.path.join(folder, name), encoding="utf-8", errors="ignore") as file:
                    lines = file.read(_MOST_READ).splitlines()
            except OSError:
                continue
            for line in lines:
                named = os.path.normpath(os.path.join(folder, line.rstrip()))
                # A line may be code, and Python may not have added the folder to sys.path.
                if line.strip() and named in path and os.path.isdir(named):
                    yield named


def editable(modules: Mapping[str, Any]) -> Iterator[str]:
    """Yield what setuptools' finders among ``modules`` map names to.

    The path of a package is its folder; that of a module has no suffix.
    """
    for name, module in list(modules.items()):
        if not _FINDER.fullmatch(name):
            continue
        mapping, namespaces = (vars(module).get(key) for key in ("MAPPING", "NAMESPACES"))
        for path in (*_texts(mapping), *_texts(namespaces)):
            if os.path.isdir(path):
                yield path
            else:
                yield from filter(os.path.isfile, (path + suffix for suffix in all_suffixes()))


def _texts(mapping: object) -> Iterator[str]:
    """Yield the absolute paths among the values of a dictionary, or in lists that are values."""
    for value in mapping.values() if isinstance(mapping, dict) else ():
        for path in value if isinstance(value, list | tuple) else (value,):
            if isinstance(path, str) and os.path.isabs(path):
                yield os.path.normpath(path)


def linked(path: Sequence[str]) -> Iterator[str]:
    """Yield the folders of uv's cache that the packages in these folders are links into.

    uv links each file of a package, its metadata too. A folder counts only if it has metadata of
    the same name: so it is an unpacked package.
    """
    parents: dict[str, set[str]] = {}
    for folder in dict.fromkeys(path):
        for name in _names(folder, ".dist-info"):
            target = _link(os.path.join(folder, name, _METADATA))
            package, _, end = target.rpartition(f"/{name}/")
            if package and end == _METADATA and os.path.isfile(target):
                parents.setdefault(os.path.dirname(package), set()).add(package)
    for parent, packages in parents.items():
        yield from [parent] if len(packages) > _MOST_LINKED else packages


def _names(folder: str, end: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith(end)]
    except OSError:
        return []


def _link(path: str) -> str:
    try:
        return os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    except OSError:
        return ""


def archives(path: Sequence[str]) -> Iterator[str]:
    """Yield the zip files among these entries; an entry may name a folder in one."""
    for entry in path:
        while not os.path.lexists(entry) and entry != os.path.dirname(entry):
            entry = os.path.dirname(entry)  # noqa: PLW2901 -- the part of it that exists
        if os.path.isfile(entry) and zipfile.is_zipfile(entry):
            yield entry
