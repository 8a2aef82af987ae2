"""A plugin that makes the matrix when the first report for it arrives."""

from __future__ import annotations

import pytest


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
