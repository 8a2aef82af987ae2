"""The first sandbox of a session, as a copy of one that an earlier session saved at its gate.

A session that finds none saves its own first sandbox there. The next one with the same key spares
the start of Python and the imports of pytest and its plugins. Whatever is wrong with a saved one,
the sandbox starts in the usual way.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_gvisor.errors import GvisorError
from pytest_gvisor.inside import (
    configuration,
    host_files,
    kept_ahead,
    kept_key,
    kept_state,
    savable,
)
from pytest_gvisor.inside.link import Died, Hangs, Link, gone
from pytest_gvisor.inside.start import Plan, Started, begin, foreseen, launch
from pytest_gvisor.plugin.placement import EARLY
from pytest_gvisor.programs.paths import within
from pytest_gvisor.run import saved, saved_store
from pytest_gvisor.run.saved_store import Held, SavedStore
from pytest_gvisor.runsc import saving

_PATIENCE = 30.0
"""Seconds to get to the gate, to be saved there, or to go on from there."""

_NONE = "no sandbox of tests inside is kept for later sessions"


@dataclass(frozen=True, kw_only=True)
class _Missing:
    """A sandbox that no earlier session has saved."""

    plan: Plan
    keys: tuple[str, str]
    """For one that has not read its command line, and for another."""

    since: int
    """When it began, in nanoseconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class _New:
    """The image of a saved sandbox that is to be kept."""

    plan: Plan
    key: str
    image: str
    facts: dict[str, Any]


class Kept:
    """The saved sandbox of this session's plan: found, or to be saved."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._missing: _Missing | None = None
        self._found: tuple[str, Held] | None = None
        self._said: list[str] = []

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Report with ``-v`` a sandbox that came from an earlier session, or why none did."""
        if self._config.get_verbosity() > 0:
            for line in self._said:
                terminalreporter.write_line(f"gvisor: {line}")

    def start(self, plan: Plan) -> Started:
        """Start a sandbox of this plan, from a saved one if possible. Raises `GvisorError`."""
        if self._config.pluginmanager.hasplugin(kept_ahead.CACHE):
            if not (why := self._refusal(plan)):
                try:
                    if (started := self._restore(plan)) is not None:
                        return started
                except (GvisorError, OSError) as error:
                    why = str(error)
            if why:
                self._say(f"{_NONE}: {why}")
        return begin(self._config, plan, watched=self._missing is not None)

    def _refusal(self, plan: Plan) -> str:
        """Return why sandboxes of this plan are neither saved nor taken from earlier sessions."""
        if why := savable.obstacle(plan) or kept_key.secret(plan):
            return why
        folder = os.path.realpath(saved_store.folder())
        seen = (*plan.shown.paths, *map(os.path.realpath, plan.inside.writable))
        if any(within(folder, path) or within(path, folder) for path in seen):
            return f"tests inside see {folder}"
        return ""

    def _restore(self, plan: Plan) -> Started | None:
        """Start a copy of a saved sandbox; None if there is none."""
        moment = time.time_ns()
        path = configuration.search_path()
        keys = kept_key.key(plan, path, line=False), kept_key.key(plan, path)
        self._missing = _Missing(plan=plan, keys=keys, since=moment)
        store = SavedStore.open(make=False)
        if store is None:
            return None
        if plan.settings.reprobe:
            for key in keys:
                store.drop(key)
        found = ((key, held) for key in keys if (held := store.find(key)) is not None)
        key, held = next(found, ("", None))
        if held is None:
            return None
        if changed := _changed(held):
            held.close()
            kept_ahead.discard(self._config)  # it holds the image too
            self._drop(key, f"{changed} has changed since")
            return None
        state = host_files.of_start(self._config, plan.shown)
        ahead = kept_ahead.take(self._config, held.image)
        try:
            link = launch(self._config, plan, held.image, held.roots, ahead=ahead)
        except GvisorError as error:
            held.close()
            self._drop(key, f"it cannot be started: {error}")
            return None
        except BaseException:
            held.close()
            raise
        self._missing, self._found = None, (key, held)
        if ahead is not None and not link.adopted:
            self._say("a sandbox that was started before it was planned was not the right one")
        return Started(link=link, plan=plan, state=state)

    def proceed(
        self, started: Started, go_on: Callable[[Link], None], again: Callable[[], Started]
    ) -> Link:
        """Give a sandbox its second command by ``go_on``; save it before, if none was found.

        If it is lost, start another one by ``again``. Raises `GvisorError`.
        """
        link = started.link
        if link.copy:
            return self._go_on(started, go_on, again)
        missing, self._missing = self._missing, None
        new = None
        if missing is not None and missing.plan is started.plan and self._is_of_use(missing):
            link, new = self._save(link, missing, again)
        go_on(link)
        if new is not None:
            try:
                self._keep(new)  # it loads the project meanwhile
            except BaseException:
                link.close()
                raise
        return link

    def _go_on(
        self, started: Started, go_on: Callable[[Link], None], again: Callable[[], Started]
    ) -> Link:
        link = started.link
        found, self._found = self._found, None
        try:
            go_on(link)
            # A copy speaks before it loads any file of the project.
            link.wait(time.monotonic() + _PATIENCE)
        except (GvisorError, Died, Hangs) as error:
            link.close()
            why = f"it did not go on: {gone(error)}\n{link.told()}"
        except BaseException:
            link.close()
            raise
        else:
            self._say("the first sandbox of tests inside was kept from an earlier session")
            if found is not None:
                self._note(started, found[1])
                found[1].close()
            return link
        if found is not None:
            found[1].close()
            self._drop(found[0], why)
        link = again().link
        go_on(link)
        return link

    def _note(self, started: Started, held: Held) -> None:
        """Record how it was started: see `kept_ahead`."""
        link, env = started.link, started.plan.inside.env
        with contextlib.suppress(OSError, ValueError):
            kept_ahead.note(self._config, env, held.image, link.recorded(), adopted=link.adopted)

    def _is_of_use(self, missing: _Missing) -> bool:
        """Whether a saved sandbox may be used one day, as the last ones of the project were."""
        with contextlib.suppress(GvisorError, OSError):
            store = SavedStore.open(make=False)
            if store is None or not store.is_in_vain(missing.plan.shown.start):
                return True
            self._say(f"{_NONE}: the last ones of this project were never used")
            return False
        return True  # the problem is reported when it is saved

    def _save(
        self, link: Link, missing: _Missing, again: Callable[[], Started]
    ) -> tuple[Link, _New | None]:
        """Save a sandbox for later sessions; return it, or a fresh one if it is lost by that."""
        deadline = time.monotonic() + _PATIENCE
        try:
            saving.save_flags(missing.plan.runsc)  # asked while the sandbox comes up
        except GvisorError as error:
            self._say(f"{_NONE}: {error}")
            return link, None
        try:
            folders = link.rest(deadline)
        except (GvisorError, Died, Hangs):
            return link, None  # whoever takes it comes upon it again
        except BaseException:
            link.close()
            raise
        files = kept_state.paths(link.loaded)
        if folders is None or files is None:
            return link, None
        shown, path = missing.plan.shown, configuration.search_path()
        state: kept_state.State = {}
        try:
            image = link.save(
                deadline, lambda: state.update(kept_state.of(files, folders, shown, path))
            )
        except (GvisorError, OSError) as error:
            link.close()
            self._say(f"{_NONE}: {error}")
            return again().link, None
        except BaseException:
            link.close()
            raise
        if fresh := kept_state.since(state, missing.since):
            self._say(f"{_NONE}: {fresh} is new")
            shutil.rmtree(image, ignore_errors=True)
            return link, None
        facts = {**state, "start": shown.start}
        key = missing.keys[link.reads]
        return link, _New(plan=missing.plan, key=key, image=image, facts=facts)

    def _keep(self, new: _New) -> None:
        try:
            size, most = saved.size_of(new.image) >> 20, saved_store.LARGEST >> 20
            if size >= most:
                self._say(f"{_NONE}: its memory takes {size} MiB, more than {most} MiB")
                return
            store = SavedStore.open(make=True)
            if store is not None and store.keep(new.key, new.image, new.facts):
                self._say("the first sandbox of tests inside is kept for later sessions")
                self._foresee(store, new)
        except (GvisorError, OSError) as error:
            self._say(f"{_NONE}: {error}")
        finally:
            shutil.rmtree(new.image, ignore_errors=True)

    def _foresee(self, store: SavedStore, new: _New) -> None:
        """Make the root of its copies, and record how the next session starts one."""
        held = store.find(new.key, uses=False)
        if held is None:
            return
        with contextlib.closing(held), contextlib.suppress(GvisorError, OSError, ValueError):
            recorded = foreseen(self._config, new.plan, held.image, held.roots)
            env = new.plan.inside.env
            kept_ahead.note(self._config, env, held.image, recorded, adopted=False)

    def _drop(self, key: str, why: str) -> None:
        self._say(f"a sandbox that an earlier session has kept was not used: {why}")
        # The next session comes upon it again.
        with contextlib.suppress(GvisorError, OSError):
            if (store := SavedStore.open(make=False)) is not None:
                store.drop(key)

    def _say(self, line: str) -> None:
        self._said.append(line)


def begun(config: pytest.Config, plan: Plan, go_on: Callable[[Link], None]) -> Link:
    """Return a sandbox of a plan that has got its second command by ``go_on``.

    It is the one that was started before the collection, if that has the same plan. Raises
    `GvisorError`.
    """
    early = config.pluginmanager.get_plugin(EARLY)
    started: Started | None = early and early.take(plan)
    if early is None or started is None:
        link = begin(config, plan).link
        go_on(link)
        return link
    kept: Kept = early.kept
    return kept.proceed(started, go_on, lambda: begin(config, plan))


def unsaved(config: pytest.Config, plan: Plan) -> Started:
    """Return a sandbox of a plan that can be saved, as `begun` finds it: none that was restored.

    Raises `GvisorError`.
    """
    early = config.pluginmanager.get_plugin(EARLY)
    started: Started | None = early and early.take(plan)
    if started is not None and started.link.copy:
        started.link.close()
        started = None
    return started or begin(config, plan)


def _changed(held: Held) -> str:
    """Return a file that has changed since a sandbox was saved; nothing if none has."""
    try:
        return kept_state.changed(held.facts, kept_state.again(held.facts))
    except (KeyError, TypeError, AttributeError):
        return "what is written about it"
