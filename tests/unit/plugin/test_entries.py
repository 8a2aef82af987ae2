"""Entries of a report while their test runs."""

from types import SimpleNamespace
from typing import Any, cast

from pytest_gvisor.plugin.entries import CellInMaking
from pytest_gvisor.report.model import State


def test_a_try_that_kills_its_worker_has_come() -> None:
    """pytest counts that failure. xdist reports it, with three question marks as the phase."""
    entry = CellInMaking(row="t", platform="systrap", state=State.PASSED, void=True)
    lost = SimpleNamespace(
        when="???", outcome="failed", failed=True, passed=False, skipped=False, duration=0.0,
        longrepr="the worker crashed", longreprtext="the worker crashed", nodeid="t",
    )  # fmt: skip
    entry.take(cast("Any", lost))
    assert entry.cell("t").state is State.ERROR
