"""The state of the process that a start of tests inside leaves as it was."""

from __future__ import annotations

import gc

import pytest

from pytest_gvisor.inside import hooks


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_while_a_sandbox_starts(*, enabled: bool) -> None:
    """The collector then goes on, unless the project had switched it off."""
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with hooks._without_collector():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
