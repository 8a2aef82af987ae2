"""Later runs start runsc, and the sentry if possible, from a copy on huge pages."""

from __future__ import annotations

import filecmp
import os

import pytest

from pytest_gvisor import Gvisor, bind
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.programs.own_copy import (
    MAX_SIZE,
    PREWARMER,
    RUNS_BEFORE,
    SENTRY,
    SHARE_OF_MEMORY,
    VARIABLE,
    available,
)
from pytest_gvisor.runsc.binary import Runsc
from tests.runsc.conftest import Start
from tests.unit.programs.test_keeper import eventually
from tests.unit.programs.test_own_copy import is_at_rest, is_possible


def knows_the_variable(runsc: Runsc) -> bool:
    """Whether a variable tells this release where its sidecars are."""
    with open(f"/proc/self/fd/{runsc.fd}", "rb") as file:
        return VARIABLE in file.read()


def has_the_same_sentry(runsc: Runsc) -> bool:
    """Whether the sentry beside this runsc has the same bytes, and nothing reads them before."""
    programs = runsc.sidecars.programs
    if SENTRY not in programs or PREWARMER in programs:
        return False
    return filecmp.cmp(runsc.path, f"{runsc.sidecars.folder}/{SENTRY}", shallow=False)


WHOLE = bind("/", "/host", dangerous=True)


@pytest.mark.parametrize("mounts", [(), (WHOLE,)], ids=["as itself", "as nobody"])
def test_runsc_and_its_sentry_start_from_a_copy(
    running: Start, gvisor: Gvisor, mounts: tuple[Mount, ...]
) -> None:
    """Except for a large release, and for one that looks for programs beside itself alone.

    A release is large for a machine with little memory too.

    The sentry of a run that shows the whole host is started as the user nobody.
    """
    runsc = gvisor.runsc
    most = min(MAX_SIZE, available() * SHARE_OF_MEMORY)
    fits = os.fstat(runsc.fd).st_size <= most and is_possible()
    fits = fits and (not runsc.uses_sidecars or knows_the_variable(runsc))
    if fits:
        # The keeper compares the sentry when it has seen the copy's end, before another run's.
        for count in (RUNS_BEFORE, 1):
            for _ in range(count):
                gvisor.run(["true"], check=True)
            assert eventually(lambda: is_at_rest(gvisor._launcher.keeper().pid))
    run = running(mounts=mounts)
    files = [
        os.readlink(f"/proc/{pid}/exe")
        for pid in (run.runsc, run.child("gofer"), run.child("boot"))
    ]
    run.end()
    boots_copy = fits and (not runsc.uses_sidecars or not runsc.sidecars.has_sentry)
    boots_copy = boots_copy or (fits and has_the_same_sentry(runsc))
    copies = [file.startswith("/memfd:runsc") for file in files]
    assert copies == [fits, fits, boots_copy]
