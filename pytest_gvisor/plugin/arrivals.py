"""A plugin that takes reports, and counts of xdist's workers, for the matrix.

With `machines` the only module that knows xdist. Light: every session imports it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gvisor.plugin.placement import UNTRUSTED

if TYPE_CHECKING:
    import threading
    from collections.abc import Generator

_COUNTS = "gvisor_counts"
_SIGNED = "gvisor_signed"
"""An attribute of each report of a worker that has this plugin, on its way to the controller."""


def _late(name: str) -> Any:
    """Return a module beside this one: a session that does not need it does not import it."""
    return importlib.import_module(f"pytest_gvisor.plugin.{name}")


class Arrivals:
    """Registered in every session: makes the matrix on demand."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_settled = False
        """Whether the matrix is made, or, in a worker, the controller is told of its tests."""

        self._ended: threading.Event | None = None
        self._unsigned: dict[object, bool] = {}
        """The workers without this plugin that have run tests, and whether one of these tests has
        the mark ``in_gvisor``."""

    @pytest.hookimpl(tryfirst=True)  # before a worker sends the report
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Make the matrix if a report, perhaps a worker's, has data for it.

        Escape texts that pytest has added to it since it was made, as for a subtest.
        """
        if UNTRUSTED in vars(report):
            _late("sections").escape_again(report)
        # xdist reports a test whose worker was lost by a phase of this name.
        is_lost = str(report.when) == "???"
        if is_lost:
            _late("machines").name_lost(self._config, report)
        if hasattr(self._config, "workerinput"):
            vars(report)[_SIGNED] = True
        elif not vars(report).pop(_SIGNED, is_lost) and (node := getattr(report, "node", None)):
            self._unsigned[node] = self._unsigned.get(node, False) or "in_gvisor" in report.keywords
        if self._is_settled or not (hasattr(report, "gvisor_cell") or is_lost):
            return
        self._is_settled = True
        _late("matrix").settle(self._config, report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Find out on which machine a worker is to run."""
        _late("machines").meet(node)

    @pytest.hookimpl
    def pytest_sessionstart(self) -> None:
        """End a worker on another machine with its controller."""
        if getattr(self._config, "workerinput", {}).get("gvisor_elsewhere"):
            self._ended = _late("machines").end_with_controller(self._config)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Say that no machine is left, in place of an internal error of xdist's."""
        try:
            return (yield)
        except Exception:
            _late("machines").exit_without_machines(self._config)
            raise

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take a worker's count of removed leaks; a crashed worker sends none.

        Raises `pytest.UsageError` for a worker that should have had this plugin.
        """
        if error:
            _late("machines").replace_lost(node)
        counts = getattr(node, "workeroutput", {}).get(_COUNTS)
        # A hook of the project may make the reports' data without our attribute.
        if counts is None and node in self._unsigned:
            _late("machines").refuse_without_plugin(node, ran=self._unsigned[node])
        if counts and (collector := _late("matrix").ensure(self._config)) is not None:
            collector.reaped[node.gateway.id] += counts[0]
            collector.left[node.gateway.id] += counts[1]
            if node in self._unsigned:
                told = "its reports have lost our data, so its tests are missing here"
                collector.notes.append(f"worker {node.gateway.id}: {told}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Send, from a worker, the leaks that its sweep has removed, and those it could not."""
        if self._ended is not None:
            self._ended.set()  # the controller does not wait for what comes after this hook
        output: dict[str, Any] | None = getattr(self._config, "workeroutput", None)
        if output is not None:
            engine = _late("stash").engine_if_any(self._config)
            output[_COUNTS] = [engine.launcher.swept, engine.launcher.left] if engine else []
