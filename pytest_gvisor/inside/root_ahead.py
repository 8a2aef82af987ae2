"""The root of the first sandbox, made by a thread while the host imports what starts sandboxes.

It has over a hundred files, links and folders. System calls that make them let other threads go on.
The thread is over before a hook of another plugin runs, because that may fork.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from pytest_gvisor.errors import LaunchError
from pytest_gvisor.oci import skeleton
from pytest_gvisor.run import threads
from pytest_gvisor.sessions import places

_TURN = 0.0005
"""Seconds until Python lets another thread go on; its own 5 ms are long for this one."""

_key = pytest.StashKey["RootAhead"]()


class RootAhead:
    """A root of the host's system folders, for one sandbox and any account."""

    def __init__(self, session: str) -> None:
        """Begin to make it in the session's folder. Raises `LaunchError` without a thread."""
        self._path = os.path.join(session, ".root")
        self._whole = False
        self._thread = threading.Thread(target=self._make, name="gvisor-root")
        threads.start(self._thread)

    def _make(self) -> None:
        # Whoever makes the root in the usual way comes upon the error.
        with contextlib.suppress(OSError, ValueError):
            skeleton.begin(self._path, skeleton.system())
            self._whole = True

    def take(self, folder: str) -> None:
        """Move it into the folder of a run, if it is there. A second call does nothing."""
        self.end()
        if self._whole:
            self._whole = False
            with contextlib.suppress(OSError):
                os.rename(self._path, os.path.join(folder, skeleton.ROOT))

    def end(self) -> None:
        """Wait until it is made, or cannot be."""
        self._thread.join()


def is_of_use(config: pytest.Config) -> bool:
    """Whether the first sandbox needs a root: one that was kept has its root with it."""
    keeps = config.pluginmanager.hasplugin("cacheprovider")
    return not keeps or not os.path.isdir(places.saved_sandboxes())


@contextlib.contextmanager
def made(config: pytest.Config, session: str) -> Iterator[None]:
    """Make a root for a sandbox that starts in this context. The session's end removes it."""
    try:
        ahead = config.stash[_key] = RootAhead(session)
    except LaunchError:  # the usual way needs no thread
        yield
        return
    interval = sys.getswitchinterval()
    try:
        # The thread waits for its turn after each system call, and this one imports: both get on.
        sys.setswitchinterval(_TURN)
        yield
    finally:
        sys.setswitchinterval(interval)
        ahead.end()
        del config.stash[_key]


def of(config: pytest.Config) -> RootAhead | None:
    """Return the root that is being made; None outside of `made`."""
    return config.stash.get(_key, None)
