"""The check after each test: no child, descriptor, thread, mount, sandbox or folder is left.

The engine of the running pytest may make its keeper, its session folder and its descriptors during
any test. It keeps them until the session ends, so they are known and left out.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_gvisor.harness.engine import Engine
from pytest_gvisor.oci.rootfs import SHARED
from pytest_gvisor.plugin.stash import _engine_key
from pytest_gvisor.programs.proc import children_of, children_of_self, words_of
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.sessions import session_folder
from tests.faults.little import STRICT
from tests.mounts import points

_PATIENCE = 2.0 if STRICT else 30.0
"""Seconds until a find is one: a busy machine takes its time to end what is about to end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holdings:
    """The resources of this process at one moment, and dead session folders of any process."""

    children: frozenset[int]
    descriptors: frozenset[tuple[int, str]]
    threads: frozenset[int]
    dead_sessions: frozenset[str]
    mounts: frozenset[str] = frozenset()
    """Mount points in pytest's folder of temporary files.

    A folder that its owner removes cannot have any. pytest removes this one three runs later.
    """

    @classmethod
    def now(cls, temporary: Path) -> Holdings:
        """Look; ``temporary`` is pytest's folder of temporary files."""
        return cls(
            children=frozenset(children_of_self()),
            descriptors=frozenset(_descriptors()),
            threads=frozenset(thread.ident or 0 for thread in threading.enumerate()),
            # Under xdist another worker may be between making a session and its removal.
            dead_sessions=frozenset(
                () if "PYTEST_XDIST_WORKER" in os.environ else _dead_sessions()
            ),
            mounts=frozenset(points(temporary)),
        )

    def beyond(self, before: Holdings, known: Holdings) -> list[str]:
        """The new resources as text, apart from the known ones."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        found = [
            f"child {pid}: {_cmdline(pid)}"
            for pid in self.children - before.children - known.children
        ]
        found += [
            f"descriptor {fd}: {target}"
            for fd, target in self.descriptors - before.descriptors
            if fd not in {fd for fd, _target in known.descriptors}
        ]
        found += [f"thread {names.get(t)}" for t in self.threads - before.threads]
        found += [f"session folder {path}" for path in self.dead_sessions - before.dead_sessions]
        found += [f"mount {path}" for path in self.mounts - before.mounts]
        return found


def _descriptors() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc/self/fd"):
        try:
            yield int(name), os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue


def _dead_sessions() -> Iterator[str]:
    base = session_folder.base_folder()
    if not os.path.isdir(base):
        return
    for entry in os.scandir(base):
        if entry.name.startswith("s-") and session_folder._is_dead(entry.path):
            yield entry.path


def _cmdline(pid: int) -> str:
    return " ".join(words_of(pid)) or "(gone, or a zombie)"


def _known(engine: Engine | None) -> Holdings:
    """The resources of the running pytest's own engine."""
    children: set[int] = set()
    descriptors: set[tuple[int, str]] = set()
    if engine is not None:
        keeper, session = engine.launcher._keeper, engine.launcher._session
        if keeper is not None:
            children.add(keeper.pid)
            descriptors.add((keeper._socket.fileno(), ""))
        if session is not None:
            descriptors |= {(fd, "") for fd in session.held}
        if engine._images is not None:
            descriptors |= {(one.hold.lock, "") for one in engine._images._found.values()}
        descriptors |= {(r.fd, "") for r in engine._found.values() if isinstance(r, Runsc)}
    return Holdings(
        children=frozenset(children),
        descriptors=frozenset(descriptors),
        threads=frozenset(),
        dead_sessions=frozenset(),
    )


def _sandboxes(engine: Engine | None) -> list[str]:
    """The remains of finished runs in the engine's keeper and session folder."""
    if engine is None:
        return []
    found = []
    keeper, session = engine.launcher._keeper, engine.launcher._session
    if keeper is not None and keeper.alive():
        # A fork that copies runsc into memory has the keeper's own command line.
        own = words_of(keeper.pid)
        left = [pid for pid in children_of(keeper.pid) if words_of(pid) != own]
        found += [f"process of a sandbox {pid}: {_cmdline(pid)}" for pid in left]
    if session is not None and os.path.isdir(session.path):
        names = set(os.listdir(session.path)) - {"lock", "journal"}
        # host, host-…: root filesystems that the runs of a session share.
        found += [f"left in {session.path}: {n}" for n in names if n.split("-")[0] != SHARED]
    return found


def _settled(look: Callable[[], list[str]]) -> list[str]:
    """The finds of ``look`` that stay after some time."""
    deadline = time.monotonic() + _PATIENCE
    while (found := look()) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
    return found


@pytest.fixture(autouse=True)
def nothing_is_left(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Fail a test that leaves a resource."""
    config = request.config
    temporary = tmp_path_factory.getbasetemp()
    before = Holdings.now(temporary)
    # Sandboxes for tests inside, and shared warm ones, live longer than a test.
    lasting = set(_sandboxes(config.stash.get(_engine_key, None)))
    yield
    engine = config.stash.get(_engine_key, None)

    def look() -> list[str]:
        left = [line for line in _sandboxes(engine) if line not in lasting]
        return Holdings.now(temporary).beyond(before, _known(engine)) + left

    found = _settled(look)
    if found:
        pytest.fail("left behind:\n  " + "\n  ".join(found), pytrace=False)
