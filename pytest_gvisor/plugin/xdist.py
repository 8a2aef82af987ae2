"""The only module that knows xdist.

Workers send what their reports carry, and at their end how much was removed.
"""

from __future__ import annotations

from typing import Any

import pytest

from pytest_gvisor.plugin.stash import _ids, engine_if_any

_COUNTS = "gvisor_counts"


class Controller:
    """Registered if xdist is installed: talks to the workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Keep the node ids of a worker's tests; all workers collect the same."""
        self._config.stash[_ids] = ids

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take a worker's count of removed leaks; a crashed worker sends none."""
        counts = getattr(node, "workeroutput", {}).get(_COUNTS)
        if counts is not None:
            from pytest_gvisor.plugin import matrix  # noqa: PLC0415 -- as above

            collector = matrix.ensure(self._config)
            if collector is not None:
                collector.reaped += counts[0]
                collector.left += counts[1]


def hand_over(config: pytest.Config) -> None:
    """Send, from a worker, the leaks that its sweep has removed, and those that it could not."""
    engine = engine_if_any(config)
    if engine is not None:
        output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]
        output[_COUNTS] = [engine.launcher.swept, engine.launcher.left]
