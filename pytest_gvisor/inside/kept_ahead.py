"""The kept sandbox that is started before it is planned, as the last session has started it.

It comes up while the host imports what plans it. The session's options and environment lead to it,
which decide nothing. Whether it is the right one is seen when the plan is made (`run.adopting`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import pytest

from pytest_gvisor.errors import GvisorError
from pytest_gvisor.inside.configuration import travelling
from pytest_gvisor.programs.locks import is_taken
from pytest_gvisor.run.recorded import Launched, Recorded
from pytest_gvisor.sessions import places
from pytest_gvisor.sessions.launcher import Launcher
from pytest_gvisor.sessions.private import place

CACHE: Final = "cacheprovider"
"""pytest's own plugin that keeps facts for later runs: without it nothing is kept."""

_RECORD: Final = "start.json"
_LONGEST: Final = 1024**2
_MOST_MISSED: Final = 3
"""Sessions in a row that have started it in vain, until none does."""
_OTHERS: Final = ("PYTEST_CURRENT_TEST", "PYTEST_XDIST_TESTRUNUID", "PYTEST_VERSION")
"""Variables that differ in each run."""

_VARIABLES: Final = re.compile("(?:PYTEST|PYTHON|GVISOR|XDG)_?.*|PATH|HOME")
_FOLDER: Final = re.compile(r"[0-9a-f]{64}-[a-z0-9_]{8}")

_key = pytest.StashKey["Ahead"]()
_missed_key = pytest.StashKey[int]()


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """The run that was started before it was planned, in this process."""

    launched: Launched
    recorded: Recorded
    folder: str
    """The folder of the kept sandbox."""


def begin(config: pytest.Config, launcher: Launcher, env: Mapping[str, str]) -> None:
    """Start what the last session of these options has started, if that is recorded.

    ``env`` is the environment inside. A problem is not reported: the usual way comes upon it again.
    """
    if not config.pluginmanager.hasplugin(CACHE) or config.getoption("gvisor_reprobe", False):
        return
    with contextlib.suppress(GvisorError, OSError, ValueError, TypeError, KeyError):
        with place(places.saved_sandboxes()) as found:
            os.close(found.open())
        name = os.readlink(os.path.join(found.path, _guess(config, env)))
        folder = os.path.join(found.path, name)
        if not _FOLDER.fullmatch(name):
            return
        recorded = _read(folder)
        if recorded.missed >= _MOST_MISSED:
            config.stash[_missed_key] = _MOST_MISSED + 1
            return
        config.stash[_missed_key] = recorded.missed
        with contextlib.ExitStack() as undo:
            lock = os.open(f"{folder}/lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            undo.callback(os.close, lock)
            if not is_taken(lock, fcntl.LOCK_SH):
                return
            keeper = launcher.begun()
            undo.pop_all()
        launched = Launched(recorded, keeper, keeper.session, lock)
        config.stash[_key] = Ahead(launched=launched, recorded=recorded, folder=folder)
        config.add_cleanup(lambda: discard(config))


def take(config: pytest.Config, image: str) -> Launched | None:
    """Return what was started, if it goes on with this image; else remove it.

    The caller holds the image, and calls `note` unless it is the run that was planned. A second
    call returns nothing.
    """
    ahead = config.stash.get(_key, None)
    if ahead is None:
        return None
    if os.path.dirname(image) != ahead.folder:
        discard(config)
        return None
    del config.stash[_key]
    config.stash[_missed_key] += 1
    ahead.launched.release()
    return ahead.launched


def discard(config: pytest.Config) -> None:
    """Remove what was started, if nobody has taken it, and note that it was in vain."""
    ahead = config.stash.get(_key, None)
    if ahead is None:
        return
    del config.stash[_key]
    ahead.launched.close()
    missed = ahead.recorded.missed + 1
    with contextlib.suppress(OSError):
        _write(ahead.folder, dataclasses.replace(ahead.recorded, missed=missed))


def note(
    config: pytest.Config, env: Mapping[str, str], image: str, recorded: Recorded, *, adopted: bool
) -> None:
    """Record what this session has started with the image, for the next ones.

    Raises `OSError`.
    """
    folder, missed = os.path.dirname(image), config.stash.get(_missed_key, 0)
    if missed > _MOST_MISSED or (adopted and missed == 1):
        return  # it was given up, or is what was recorded
    _write(folder, dataclasses.replace(recorded, missed=0 if adopted else missed))
    new = os.path.join(folder, f"link.{os.getpid()}")
    os.symlink(os.path.basename(folder), new)
    os.rename(new, os.path.join(os.path.dirname(folder), _guess(config, env)))


def _write(folder: str, recorded: Recorded) -> None:
    path = os.path.join(folder, _RECORD)
    new = f"{path}.{os.getpid()}"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        os.fchmod(fd, 0o600)
        file.write(recorded.to_json())
    os.rename(new, path)


def _read(folder: str) -> Recorded:
    fd = os.open(f"{folder}/{_RECORD}", os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, encoding="utf-8") as file:
        info = os.fstat(fd)
        if info.st_uid != os.geteuid() or info.st_mode & 0o077 or not stat.S_ISREG(info.st_mode):
            raise ValueError("it is not this user's own")
        return Recorded.from_json(file.read(_LONGEST))


def _guess(config: pytest.Config, env: Mapping[str, str]) -> str:
    """Return the name of the link that sessions like this one have in common."""
    facts = {
        "user": os.geteuid(),
        "python": [sys.executable, sys.version],
        "cwd": str(config.invocation_params.dir),
        "options": sorted(_options(config)),
        "env": sorted(env.items()),
        "environ": sorted(
            (name, value)
            for name, value in os.environ.items()
            if _VARIABLES.fullmatch(name) and name not in _OTHERS
        ),
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _options(config: pytest.Config) -> Iterator[tuple[str, str]]:
    for name, value in travelling(config).items():
        if name != "randomly_seed":
            yield name, repr(value)
    for name, value in vars(config.option).items():
        if name.startswith("gvisor_"):
            yield f"own {name}", repr(value)
