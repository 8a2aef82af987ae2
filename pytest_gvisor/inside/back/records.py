"""The names and digests of files that came back, kept in this user's cache for later sessions.

A later session replaces such a file if it still has its digest. None collects it: the host would
run a text as a doctest. A record has the files of one folder and of those below it, each in a line.
Light: each session of a user who has records imports it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.programs.paths import caches

_MOST_BYTES = 64 * 1024 * 1024
"""Of one record, of which a file that came back takes some hundred."""


class Records:
    """The records of this user, each read once."""

    def __init__(self) -> None:
        self.folder = caches("returned")
        self._known: dict[str, dict[str, str]] = {}
        self._noted: dict[str, dict[str, str]] = {}

    def digests(self, path: str) -> set[str]:
        """Return the digests that are recorded of a canonical path; none if it never came back."""
        found, folder = set(), path
        while folder != "/":
            folder = os.path.dirname(folder)
            if known := self._of(folder).get(path[len(folder.rstrip("/")) + 1 :]):
                found.add(known)
        return found

    def note(self, folder: str, path: str, digest: str) -> None:
        """Have `save` record a file below a canonical folder."""
        self._noted.setdefault(folder, {})[path] = digest

    def save(self, write: Callable[[str, str], None]) -> None:
        """Record what was noted by ``write``, and forget files that are gone. Raises `OSError`."""
        for folder, noted in self._noted.items():
            there = {
                path: digest
                for path, digest in self._of(folder).items()
                if os.path.lexists(os.path.join(folder, path))
            }
            text = "".join(f"{digest} {path}\n" for path, digest in (there | noted).items())
            if len(text) > _MOST_BYTES:
                raise OSError(f"there are too many files below {folder}")
            write(self._path(folder), text)

    def _path(self, folder: str) -> str:
        return os.path.join(self.folder, hashlib.sha256(os.fsencode(folder)).hexdigest())

    def _of(self, folder: str) -> dict[str, str]:
        if folder not in self._known:
            data = b""
            with contextlib.suppress(OSError):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                with open(os.open(self._path(folder), flags), "rb") as file:
                    if os.fstat(file.fileno()).st_uid == os.geteuid():
                        data = file.read(_MOST_BYTES)
            lines = (line.partition(" ") for line in data.decode(errors="replace").split("\n"))
            self._known[folder] = {path: digest for digest, _space, path in lines if path}
        return self._known[folder]


class LeftOut:
    """The plugin that leaves recorded files out of the collection on the host."""

    def __init__(self) -> None:
        self._records = Records()

    def _has(self, path: Path) -> bool:
        return bool(self._records.digests(os.path.realpath(path)))

    @pytest.hookimpl(wrapper=True)
    def pytest_ignore_collect(self, collection_path: Path) -> Generator[None, Any, Any]:
        """Leave a recorded file out, whatever other plugins answer."""
        return (yield) or self._has(collection_path)

    @pytest.hookimpl(wrapper=True)
    def pytest_collect_file(self, file_path: Path) -> Generator[None, Any, Any]:
        """Collect nothing of one that an argument names: pytest asks nobody to ignore that."""
        found = yield
        return [] if self._has(file_path) else found
