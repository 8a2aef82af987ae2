"""SIGKILL of pytest, at any moment: the keeper outlives it for as long as it takes."""

import os
import random
import signal
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.kills import Round, kill_once, planned, prepare
from tests.faults.little import FILES_AFTER, LONGER, PROCESSES_AFTER, STRICT, Little, eventually

AT_ONCE = 3
ROUNDS = (3 if STRICT else 2) * AT_ONCE


@pytest.mark.fault("F4")
def test_sigkill_of_pytest_at_any_moment_leaves_nothing(
    make_little: Callable[[], Little], is_first_platform: bool
) -> None:
    """No process is left after a second; no file, mount, socket or cgroup after two.

    Of runs, warm sandboxes, tests inside and runs with an allow-list, in turn.
    """
    count = ROUNDS if is_first_platform else AT_ONCE
    littles = [make_little() for _ in range(AT_ONCE)]
    for little in littles:
        prepare(little)
    seed = random.randrange(2**32)
    plan = planned(count, seed)
    rounds: list[Round] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, count, AT_ONCE):
            some = plan[start : start + AT_ONCE]
            rounds += pool.map(kill_once, littles[: len(some)], some)
    print(f"seed {seed}", *rounds, sep="\n")  # shown if it fails
    assert [one for one in rounds if not one.fine(LONGER)] == []
    assert sum(one.began for one in rounds) >= sum(moment >= 0 for moment, _way in plan)
    if STRICT:
        assert statistics.median(one.processes or 0 for one in rounds) < PROCESSES_AFTER


@pytest.mark.fault("F4")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_pytest_that_dies_while_it_starts_its_keeper_leaves_nothing(
    little: Little, number: signal.Signals
) -> None:
    """The keeper gets the session's folder before that is made."""
    little.write(
        test_it=f"""
        import faulthandler, os
        from pytest_gvisor.sessions import session_folder

        def die(path):
            faulthandler.disable()
            os.kill(os.getpid(), {number})

        session_folder._take_locks = die

        def test_it(gvisor):
            gvisor.run(["true"])
        """
    )
    assert little.start().wait(60) == -number
    assert os.path.exists(little.base)
    assert eventually(lambda: not little.left(), FILES_AFTER * LONGER) is not None
