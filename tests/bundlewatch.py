"""The recorder of every config.json that a process writes, for `tests.bundlecheck`.

PYTEST_PLUGINS loads it in the pytests that tests start, too. It imports the standard library only,
so that an idle session stays cheap.
"""

import contextlib
import os
import sys
from typing import Any

VARIABLE = "BUNDLES_WRITTEN"
"""Names the file that takes them, one a line."""


def pytest_configure() -> None:
    if VARIABLE in os.environ:
        watch(os.environ[VARIABLE])


def pytest_sessionfinish(session: Any) -> None:
    """Spare a pytest that has not used hypothesis its import, which takes 0.7 s of a processor.

    The terminal summary of hypothesis's plugin imports all of it. pytest writes that summary when
    every plugin has finished the session.
    """
    manager = session.config.pluginmanager
    if "hypothesis" not in sys.modules and manager.hasplugin("hypothesispytest"):
        manager.unregister(name="hypothesispytest")


def watch(notes: str) -> None:
    """Add each file that this process writes from now on to a list."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        # The file is written beside its place, and renamed: it is whole at this moment.
        if event == "os.rename" and "/config.json." in str(arguments[0]):
            # A test may have taken all descriptors, or the disk.
            with contextlib.suppress(OSError):
                _note(str(arguments[0]), notes)

    sys.addaudithook(hook)


def _note(path: str, notes: str) -> None:
    with open(path, "rb") as file:
        data = file.read()
    with open(notes, "ab", buffering=0) as file:
        file.write(data + b"\n")
