"""Later runs start runsc from a copy on huge pages, and its sidecars from their files."""

import os

import pytest

from pytest_gvisor import Gvisor, bind
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.programs.own_copy import MAX_SIZE, RUNS_BEFORE, SHARE_OF_MEMORY, available
from pytest_gvisor.programs.paths import SIDECARS_VARIABLE
from pytest_gvisor.runsc.binary import Runsc
from tests.runsc.conftest import Start
from tests.unit.programs.test_own_copy import copies_of, is_at_rest, is_possible
from tests.waiting import wait_for


def knows_the_variable(runsc: Runsc) -> bool:
    """Whether a variable tells this release where its sidecars are."""
    with open(f"/proc/self/fd/{runsc.fd}", "rb") as file:
        return SIDECARS_VARIABLE.encode() in file.read()


WHOLE = bind("/", "/host", dangerous=True)


@pytest.mark.parametrize("mounts", [(), (WHOLE,)], ids=["as itself", "as nobody"])
def test_runsc_starts_from_a_copy(
    running: Start, gvisor: Gvisor, mounts: tuple[Mount, ...]
) -> None:
    """Except for a large release, and for one that looks for programs beside itself alone.

    A release is large for a machine with little memory too.

    The sentry of a run that shows the whole host is started as the user nobody.
    """
    runsc = gvisor.runsc
    most = min(MAX_SIZE, available() * SHARE_OF_MEMORY)
    size = os.fstat(runsc.fd).st_size
    fits = size <= most and (not runsc.uses_sidecars or knows_the_variable(runsc))
    if fits:
        could_copy = is_possible(size)
        for _ in range(RUNS_BEFORE + 1):  # before the last one, the keeper has begun the copy
            gvisor.run(["true"], check=True)
        keeper = gvisor._launcher.keeper().pid
        wait_for(lambda: is_at_rest(keeper), "the end of the run")
        fits = bool(copies_of(keeper))
        assert fits or not (could_copy and is_possible(size))
    run = running(mounts=mounts)
    files = [
        os.readlink(f"/proc/{pid}/exe")
        for pid in (run.runsc, run.child("gofer"), run.child("boot"))
    ]
    run.end()
    boots_copy = fits and (not runsc.uses_sidecars or not runsc.sidecars.has_sentry)
    copies = [file.startswith("/memfd:runsc") for file in files]
    assert copies == [fits, fits, boots_copy]
