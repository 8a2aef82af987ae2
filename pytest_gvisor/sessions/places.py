"""Places on the host: the folders of this package, and the runsc in use."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

from pytest_gvisor.programs.proc import id_map

SYSTEM_BASE = "/run/pytest-gvisor"
RUNSC_PATHS = ("/usr/local/bin/runsc", "/usr/bin/runsc", "/opt/gvisor/runsc")
"""Where runsc is looked for, by any user."""

RUNSC_FOLDER = "gvisor-bin"
"""The folder beside runsc that has further programs of its release."""

_found: set[str] = set()


def note_runsc(path: str) -> None:
    """Remember the canonical ``path`` of a runsc that this process may start."""
    _found.add(path)


def programs() -> Iterator[str]:
    """Yield the paths that this process may start on the host: runsc, and the folder beside it."""
    for path in {*RUNSC_PATHS, *map(os.path.realpath, RUNSC_PATHS), *_found}:
        yield path
        yield os.path.join(os.path.dirname(path), RUNSC_FOLDER)


def outer_uid() -> int:
    """Return this user's id outside of any user namespace: inside, everybody may be 0."""
    inside = os.geteuid()
    with contextlib.suppress(OSError):
        for ids in id_map():
            if ids.inside <= inside < ids.inside + ids.size:
                return ids.outside + inside - ids.inside
    return inside


def session_bases() -> Iterator[str]:
    """Yield the folders that may hold this process's sessions, the best first.

    Callers must not follow a link in the place of one: another user can make a link in ``/tmp``.
    """
    user = outer_uid()
    run = os.path.dirname(SYSTEM_BASE)
    if os.geteuid() == 0 and os.access(run, os.W_OK) and os.stat(run).st_uid == 0:
        yield SYSTEM_BASE
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    with contextlib.suppress(OSError):  # it is no folder, or another user takes it away
        if os.path.isabs(runtime) and os.stat(f"{runtime}/").st_uid == os.geteuid():
            yield os.path.join(runtime, "pytest-gvisor")
    with contextlib.suppress(FileNotFoundError):  # no temporary folder can be written to
        yield os.path.join(os.path.abspath(tempfile.gettempdir()), f"pytest-gvisor-{user}")
    yield f"/tmp/pytest-gvisor-{user}"
    home = os.path.expanduser("~")
    if os.path.isabs(home) and os.path.isdir(home):
        yield os.path.join(home, ".pytest-gvisor")
