"""Objects that the plugin keeps in pytest's stashes: the engine, and each test's harnesses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_gvisor.plugin.placement import FIXTURES

if TYPE_CHECKING:
    from pytest_gvisor.base.completed import Usage
    from pytest_gvisor.base.settings import Platform
    from pytest_gvisor.harness.engine import Engine
    from pytest_gvisor.harness.gvisor import Gvisor
    from pytest_gvisor.run.request import Record

_engine_key: pytest.StashKey[Engine] = pytest.StashKey()
_harnesses_key: pytest.StashKey[list[Gvisor]] = pytest.StashKey()
_failed_key: pytest.StashKey[bool] = pytest.StashKey()
_runs_key: pytest.StashKey[list[tuple[float | None, Usage | None]]] = pytest.StashKey()
platform_key: pytest.StashKey[Platform] = pytest.StashKey()
"""The platform of a test, from when it is decided."""


def engine_of(config: pytest.Config) -> Engine:
    """Return this process's engine, made on the first call and closed with the session."""
    if _engine_key not in config.stash:
        from pytest_gvisor.harness.engine import Engine  # noqa: PLC0415 -- idle costs nothing

        engine = config.stash[_engine_key] = Engine()
        config.add_cleanup(engine.close)
    return config.stash[_engine_key]


def record_harness(item: pytest.Item, harness: Gvisor) -> None:
    """Record a harness of a test, and its platform, for the test's report."""
    item.stash[platform_key] = harness.platform
    item.stash.setdefault(_harnesses_key, []).append(harness)


def harnesses(item: pytest.Item) -> list[Gvisor]:
    """Return the harnesses of a test."""
    return item.stash.get(_harnesses_key, [])


def forget_harnesses(item: pytest.Item) -> None:
    """Let go of what a test that is over has run: pytest keeps each test until the session ends."""
    item.stash[_harnesses_key] = []


def is_untrusted(item: pytest.Item) -> bool:
    """Whether a test's report may hold workloads' output: the test has one of our fixtures."""
    if not FIXTURES.isdisjoint(getattr(item, "fixturenames", ())) or harnesses(item):
        return True
    if engine_if_any(item.config) is None:
        return False
    # A request also knows the names that were asked for while the test was set up, or ran.
    request = getattr(item, "_request", None)
    return not FIXTURES.isdisjoint(getattr(request, "fixturenames", ()))


def record_run(item: pytest.Item, record: Record) -> None:
    """Record the start of a test's sandbox, and the resources that it has used, where known."""
    usage = None if record.completed is None else record.completed.usage
    item.stash.setdefault(_runs_key, []).append((record.start, usage))


def take_runs(item: pytest.Item) -> list[tuple[float | None, Usage | None]]:
    """Return the start in seconds, and the resources, of each run since the last call."""
    found = item.stash.get(_runs_key, [])
    item.stash[_runs_key] = []
    return found


def engine_if_any(config: pytest.Config) -> Engine | None:
    """Return this process's engine, if there is one."""
    return config.stash.get(_engine_key, None)


def record_outcome(item: pytest.Item, report: pytest.TestReport) -> None:
    """Record the outcome of a phase of a test."""
    item.stash[_failed_key] = has_failed(item) or report.failed


def has_failed(item: pytest.Item) -> bool:
    """Whether a phase of the test has failed so far."""
    return item.stash.get(_failed_key, False)
