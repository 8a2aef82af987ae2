"""Notes every config.json that a process writes, for `tests.bundlecheck` to judge.

Loaded in the pytests that tests start as well, by PYTEST_PLUGINS: standard library only, so that
what is idle there stays as cheap as it is.
"""

from __future__ import annotations

import contextlib
import os
import sys

VARIABLE = "BUNDLES_WRITTEN"
"""Names the file that takes them, one a line."""


def pytest_configure() -> None:
    if VARIABLE in os.environ:
        watch(os.environ[VARIABLE])


def watch(notes: str) -> None:
    """Add what this process writes from now on to a file, whichever part of the package does it."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        # The file is written beside its place, and renamed: it is whole at this moment.
        if event == "os.rename" and "/.config-" in str(arguments[0]):
            # A test may have taken all descriptors, or the disk.
            with contextlib.suppress(OSError):
                _note(str(arguments[0]), notes)

    sys.addaudithook(hook)


def _note(path: str, notes: str) -> None:
    with open(path, "rb") as file:
        data = file.read()
    with open(notes, "ab", buffering=0) as file:
        file.write(data + b"\n")
