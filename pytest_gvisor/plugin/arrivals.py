"""A plugin that takes reports, and counts of xdist's workers, for the matrix.

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
        self._is_settled = False
        """Whether the matrix is made, or, in a worker, the controller is told of its tests."""

    @pytest.hookimpl(tryfirst=True)  # before a worker sends the report
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Make the matrix if a report, perhaps a worker's, has data for it."""
        # xdist reports a test whose worker was lost by a phase of this name.
        if self._is_settled or not (hasattr(report, "gvisor_cell") or str(report.when) == "???"):
            return
        from pytest_gvisor.plugin import cells, matrix  # noqa: PLC0415 -- idle costs nothing

        self._is_settled, manager = True, self._config.pluginmanager
        known = manager.has_plugin(matrix.NAME)
        if (collector := matrix.ensure(self._config)) is None:
            # The controller collects nothing itself: once, it is told what there is to run.
            session = manager.get_plugin("session")
            vars(report)[cells.ROSTER] = [] if session is None else cells.roster(session)
        elif not known:
            # The call of this hook that is under way does not reach what is registered in it.
            collector.pytest_runtest_logreport(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take a worker's count of removed leaks; a crashed worker sends none."""
        counts = getattr(node, "workeroutput", {}).get(_COUNTS)
        if counts is not None:
            from pytest_gvisor.plugin import matrix  # noqa: PLC0415 -- as above

            if (collector := matrix.ensure(self._config)) is not None:
                collector.reaped += counts[0]
                collector.left += counts[1]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Send, from a worker, the leaks that its sweep has removed, and those it could not."""
        output: dict[str, Any] | None = getattr(self._config, "workeroutput", None)
        if output is not None:
            from pytest_gvisor.plugin.stash import engine_if_any  # noqa: PLC0415 -- as above

            if (engine := engine_if_any(self._config)) is not None:
                output[_COUNTS] = [engine.launcher.swept, engine.launcher.left]
