"""The sandbox that is started before the host collects, for the first tests inside.

It boots, and its pytest imports plugins, while the host collects. No thread waits for it: what it
says stays in its sockets until the first test. It is used if the plan that is made then is the
same, and else removed.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import all_suffixes
from typing import Any

import pytest

from pytest_gvisor.errors import GvisorError
from pytest_gvisor.inside import start, users
from pytest_gvisor.inside.link import Link
from pytest_gvisor.plugin.placement import plan_key
from pytest_gvisor.plugin.precedence import run_settings
from pytest_gvisor.plugin.stash import engine_of
from pytest_gvisor.programs.paths import within
from pytest_gvisor.settings import Platform

_GREETING = 0.5
"""Seconds for runsc to come as far as to need the host, which takes it some 30 ms."""

_COMPILED = "__pycache__"
_READ = (*all_suffixes(), ".cfg", ".ini", ".json", ".pth", ".toml", ".yaml", ".yml")
"""The suffixes of programs and settings: the output of this run may go to another file."""


State = dict[str, frozenset[tuple[Any, ...]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Started:
    """A sandbox, how it was started, and the host's files at that time."""

    link: Link
    plan: start.Plan
    state: State


class Early:
    """The plugin that starts it. ``inside`` returns the run's own settings of a pytest inside."""

    def __init__(self, config: pytest.Config, inside: Callable[[], start.Inside]) -> None:
        self._config = config
        self._inside = inside
        self._owner = os.getpid()
        self._started: _Started | None = None
        self._refused = ""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> Iterator[None]:
        """Start the sandbox, and remove it if no test runs inside."""
        # The controller of xdist runs no test.
        if self._config.pluginmanager.hasplugin("dsession"):
            return (yield)
        self.begin()
        result = yield
        if not any(plan_key in item.stash for item in session.items):
            self.discard()
        return result

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Report with ``-v`` a sandbox that was started for nothing."""
        if self._refused and self._config.get_verbosity() > 0:
            terminalreporter.write_line(
                "gvisor: a sandbox was started before the collection, and not used, because "
                f"these were others after it: {self._refused}"
            )

    def begin(self) -> None:
        """Start a sandbox for tests with the run's own settings, if it is clear which one.

        A problem is not reported here: the first test comes upon it again.
        """
        try:
            planned = self._plan()
            if planned is None:
                return
            state = _state(_folders(planned), self._temporary())
            link = start.launch(self._config, planned)
        except (GvisorError, pytest.UsageError, OSError):
            return
        self._started = _Started(link=link, plan=planned, state=state)
        self._config.add_cleanup(self.discard)
        # What the tests need is imported while runsc starts.
        from pytest_gvisor.inside import session  # noqa: F401, PLC0415

        link.greet(_GREETING)

    def _plan(self) -> start.Plan | None:
        settings = run_settings(self._config)
        platforms = engine_of(self._config).platforms_of(settings)
        # kvm may hang for ever, and is tried first. With an image, no test can run inside.
        several = len(platforms) > 1 or len(settings.releases) > 1
        if several or platforms[0] is Platform.KVM or settings.image is not None:
            return None
        return start.plan(
            self._config,
            platform=platforms[0],
            settings=settings,
            inside=self._inside(),
            user=users.of_run(self._config),
            items=None,
        )

    def _temporary(self) -> str:
        """Return the base of temporary folders that was given: pytest makes it in the meantime."""
        given = self._config.getoption("basetemp")
        return os.path.join(self._config.invocation_params.dir, given) if given else ""

    def take(self, plan: start.Plan) -> Link | None:
        """Return the sandbox for its first tests if it was started by the same plan.

        Else remove it. A second call returns nothing.
        """
        started = self._started
        if started is None:
            return None
        names = [
            field.name
            for field in dataclasses.fields(plan)
            if getattr(plan, field.name) != getattr(started.plan, field.name)
        ]
        if not names and _state(started.state, self._temporary()) != started.state:
            names = ["files"]
        if names or self._owner != os.getpid():
            self._refused = ", ".join(names)
            self.discard()
            return None
        self._started = None
        return started.link

    def discard(self) -> None:
        """Remove the sandbox, if no test has taken it."""
        started, self._started = self._started, None
        if started is not None and self._owner == os.getpid():
            started.link.close()


def _folders(plan: start.Plan) -> Iterator[str]:
    """Yield the project's folders that a Python inside may have read before its gate.

    They are those of ``sys.path`` and of what has been imported here.
    """
    wanted = [plan.shown.start, plan.command["options"]["rootdir"], *map(os.path.abspath, sys.path)]
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            wanted.append(os.path.dirname(os.path.abspath(file)))
    shown = plan.shown.paths
    yield from (path for path in dict.fromkeys(wanted) if any(within(path, top) for top in shown))


def _state(folders: Iterable[str], temporary: str) -> State:
    """Return the names in folders, and the state of files that a start may read.

    A sandbox may keep what it has read of them. Byte code and the base of temporary folders do not
    count.
    """
    return {folder: frozenset(_entries(folder, temporary)) for folder in folders}


def _entries(folder: str, temporary: str) -> Iterator[tuple[Any, ...]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == _COMPILED or entry.path == temporary:
                    continue
                if entry.name.endswith(_READ) and entry.is_file():
                    info = entry.stat()
                    yield entry.name, info.st_ino, info.st_size, info.st_mtime_ns
                else:
                    yield (entry.name,)
    except OSError:
        return
