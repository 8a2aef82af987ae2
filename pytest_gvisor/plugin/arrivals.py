"""Reports as they arrive in the process that makes the matrix: the first begins it."""

from __future__ import annotations

import pytest


class Arrivals:
    """Registered in every session: has the matrix made when there is something for it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See to it that somebody takes what a report carries, a worker's too."""
        # xdist reports a test whose worker was lost by a phase of this name.
        if hasattr(report, "gvisor_cell") or str(report.when) == "???":
            from pytest_gvisor.plugin import matrix  # noqa: PLC0415 -- idle costs nothing

            known = self._config.pluginmanager.has_plugin(matrix.NAME)
            collector = matrix.ensure(self._config)
            # The call of this hook that is under way does not reach what is registered in it.
            if collector is not None and not known:
                collector.pytest_runtest_logreport(report)
