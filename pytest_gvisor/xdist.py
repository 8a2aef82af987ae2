"""The only module that knows xdist.

Workers get a name that all processes of the run share; they send what their reports carry, and at
their end how much was removed.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from pytest_gvisor.state import engine_if_any

_SHARED = "gvisor_shared"
_COUNTS = "gvisor_counts"
_name = pytest.StashKey[str]()
_ids = pytest.StashKey[list[str]]()


def shared_name(config: pytest.Config) -> str | None:
    """The name of this run, for what its processes share; None in a run without xdist workers."""
    workerinput: dict[str, Any] | None = getattr(config, "workerinput", None)
    return None if workerinput is None else workerinput.get(_SHARED)


def collected(config: pytest.Config) -> list[str]:
    """The node ids that the workers have collected; none in a run without workers."""
    return config.stash.get(_ids, [])


def worker_of(report: pytest.TestReport) -> str:
    """The worker that has made a report, or was lost in its test; nothing where there are none."""
    node: Any = getattr(report, "node", None)
    return "" if node is None else str(node.gateway.id)


class Controller:
    """Registered where xdist is: talks to the workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See to it that somebody takes what a worker's report carries."""
        if _name not in self._config.stash:
            return  # there are no workers
        if hasattr(report, "gvisor_cell") or str(report.when) == "???":
            from pytest_gvisor.report import collect  # noqa: PLC0415 -- idle costs nothing

            known = self._config.pluginmanager.has_plugin(collect.NAME)
            collector = collect.ensure(self._config)
            # The call of this hook that is under way does not reach what is registered in it.
            if collector is not None and not known:
                collector.pytest_runtest_logreport(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Keep what a worker has collected; they all collect the same."""
        self._config.stash[_ids] = ids

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker has removed; one that has crashed says nothing."""
        counts = getattr(node, "workeroutput", {}).get(_COUNTS)
        if counts is not None:
            from pytest_gvisor.report import collect  # noqa: PLC0415 -- as above

            collector = collect.ensure(self._config)
            if collector is not None:
                collector.reaped += counts[0]
                collector.left += counts[1]

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give the name to a worker that is about to start."""
        name = node.config.stash.setdefault(_name, os.urandom(6).hex())
        node.workerinput[_SHARED] = name


def hand_over(config: pytest.Config) -> None:
    """In a worker: send how much its sweep has removed, and what it could not remove."""
    engine = engine_if_any(config)
    if engine is not None:
        output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]
        output[_COUNTS] = [engine.launcher.swept, engine.launcher.left]
