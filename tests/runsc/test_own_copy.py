"""Later runs of a release without sidecars are started from a copy of it on huge pages."""

from __future__ import annotations

import os

from pytest_gvisor import Gvisor
from pytest_gvisor.programs.own_copy import MAX_SIZE, RUNS_BEFORE
from tests.runsc.conftest import Start
from tests.unit.programs.test_keeper import eventually
from tests.unit.programs.test_own_copy import is_at_rest, is_possible


def test_runsc_starts_from_its_copy(running: Start, gvisor: Gvisor) -> None:
    """Except for a release that looks for programs beside itself, or a large one."""
    runsc = gvisor.runsc
    fits = not runsc.uses_sidecars and os.fstat(runsc.fd).st_size <= MAX_SIZE
    if fits:
        for _ in range(RUNS_BEFORE):
            gvisor.run(["true"], check=True)
        assert eventually(lambda: is_at_rest(gvisor._launcher.keeper().pid))
    run = running()
    file = os.readlink(f"/proc/{run.runsc}/exe")
    run.end()
    assert file.startswith("/memfd:runsc") == (fits and is_possible())
