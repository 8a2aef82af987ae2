"""A keeper with too few descriptors: its other sandboxes go on, and errors name the limit."""

import contextlib
import os
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_gvisor import Gvisor, GvisorError, LaunchError, Runsc, RunscFailed, SandboxCrashed
from pytest_gvisor.base.settings import Platform
from pytest_gvisor.sessions.launcher import Launcher
from tests.faults.conftest import sessions_in


@pytest.mark.fault("G6")
def test_no_shortage_of_descriptors_ends_the_keeper(runsc: Runsc, short_folder: str) -> None:
    """Its other sandboxes go on, whatever a run with an allow-list has too few descriptors for.

    A keeper that cannot remove a run gives up after ten seconds. So four keepers are short at once.
    """

    def outlives(first: int) -> None:
        with contextlib.closing(Launcher(f"{short_folder}/{first}")) as launcher:
            gvisor = Gvisor(runsc=runsc, platform=Platform.SYSTRAP, launcher=launcher)
            with gvisor.sandbox() as warm:
                assert warm.exec(["true"]).returncode == 0
                keeper = launcher.keeper().pid
                used = len(os.listdir(f"/proc/{keeper}/fd"))
                for number in range(first, 12, 4):
                    limits = (used + number, 20_000)
                    before = resource.prlimit(keeper, resource.RLIMIT_NOFILE, limits)
                    with contextlib.suppress(GvisorError):
                        gvisor.run(["true"], allow=["127.0.0.1:9"], timeout=60)
                    resource.prlimit(keeper, resource.RLIMIT_NOFILE, before)
                    assert warm.exec(["echo", "x"]).stdout == "x\n"
                assert launcher.keeper().pid == keeper

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(outlives, range(4)))
    assert [sessions_in(f"{short_folder}/{first}") for first in range(4)] == [[]] * 4


@pytest.mark.fault("G6")
def test_of_many_at_once_each_error_names_the_limit_on_open_files(
    apart: Callable[[], Gvisor],
) -> None:
    """The keeper has too few for 16 runs: some end well, and after that all do."""
    gvisor = apart()
    gvisor.run(["true"])
    keeper = gvisor._launcher.keeper().pid
    # Room for four runs. Other runs start while one lasts, however slow the machine is.
    limit = len(os.listdir(f"/proc/{keeper}/fd")) + 15
    before = resource.prlimit(keeper, resource.RLIMIT_NOFILE, (limit, 20_000))
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: ending(gvisor, "sleep", "5"), range(16)))
    resource.prlimit(keeper, resource.RLIMIT_NOFILE, before)
    errors = [error for error in found if error is not None]
    assert errors
    assert {type(error) for error in errors} <= {LaunchError, RunscFailed, SandboxCrashed}
    assert [str(error) for error in errors if "`ulimit -n`" not in str(error)] == []
    assert ending(gvisor, "true") is None


def ending(gvisor: Gvisor, *args: str) -> GvisorError | None:
    """The error of a run."""
    try:
        gvisor.run(args, timeout=60)
    except GvisorError as error:
        return error
    return None
