"""Two plugins that take reports, and counts of xdist's workers, for the matrix.

The only module that knows xdist. Light: every session imports it.
"""

from __future__ import annotations

from typing import Any

import pytest

_COUNTS = "gvisor_counts"


class Arrivals:
    """Registered in every session: makes the matrix on demand."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seen = False

    def __dir__(self) -> list[str]:
        """Name the hook alone: pytest and pluggy look at each name of a plugin."""
        return ["pytest_runtest_logreport"]

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Make the matrix if a report, perhaps a worker's, has data for it."""
        # xdist reports a test whose worker was lost by a phase of this name.
        if self._seen:
            return
        if hasattr(report, "gvisor_cell") or str(report.when) == "???":
            from pytest_gvisor.plugin import matrix  # noqa: PLC0415 -- idle costs nothing

            self._seen = True
            known = self._config.pluginmanager.has_plugin(matrix.NAME)
            collector = matrix.ensure(self._config)
            # The call of this hook that is under way does not reach what is registered in it.
            if collector is not None and not known:
                collector.pytest_runtest_logreport(report)


class Controller:
    """Registered if xdist is installed: talks to the workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Keep the node ids of a worker's tests; all workers collect the same."""
        from pytest_gvisor.plugin import stash  # noqa: PLC0415 -- idle costs nothing

        self._config.stash[stash.ids_key] = ids

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
    from pytest_gvisor.plugin.stash import engine_if_any  # noqa: PLC0415 -- as above

    engine = engine_if_any(config)
    if engine is not None:
        output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]
        output[_COUNTS] = [engine.launcher.swept, engine.launcher.left]
