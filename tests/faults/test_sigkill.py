"""SIGKILL of pytest, at any moment: the keeper outlives it for as long as it takes."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.faults.little import Little, eventually

ROUNDS = int(os.environ.get("PYTEST_GVISOR_KILL_ROUNDS", "25"))
AT_ONCE = 3
PROCESSES_AFTER = 1.0
FILES_AFTER = 2.0
SLACK = 3.0
"""How many times longer it may take on a machine that has several of these at once to do."""

# Runs of all kinds, one after the other and at the same time, for longer than anyone waits.
BUSY = """
    import threading
    import pytest

    LIMITS = [{{}}, {{"memory": "512M"}}, {{"pids": 200, "cpus": 1}}] if {root} else [{{}}]
    NETWORKS = ["none", "sandbox", "host"] if {root} else ["none", "host"]
    SCRIPTS = [
        "exit 3",
        "trap '' TERM; while :; do sleep 0.1 & done",
        "head -c 3000000 /dev/zero; sleep 0.2",
        "setsid sleep 100 & sleep 0.3",
    ]

    @pytest.mark.parametrize("number", range(1000))
    def test_it(gvisor, number):
        def run(more):
            try:
                gvisor.run(["sh", "-c", SCRIPTS[(number + more) % 4]], timeout=0.7,
                           network=NETWORKS[number % len(NETWORKS)],
                           **LIMITS[(number + more) % len(LIMITS)])
            except Exception:
                pass
        threads = [threading.Thread(target=run, args=[more]) for more in range(number % 3)]
        for thread in threads:
            thread.start()
        run(3)
        for thread in threads:
            thread.join()
"""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One pytest that was killed, and how long what it had started took to go."""

    moment: float
    began: bool
    """Whether it had a session by then."""

    processes: float | None
    files: float | None
    left: list[str]

    @property
    def fine(self) -> bool:
        """Whether everything went in time."""
        return self.processes is not None and self.files is not None


def kill_once(little: Little, moment: float) -> Round:
    """Start a pytest, kill it so many seconds after it has begun a session, and look.

    A negative moment is counted from the start of the process.
    """
    process = little.start()
    if moment >= 0:
        eventually(little.files)
    time.sleep(abs(moment))
    began = bool(little.files())
    process.kill()
    killed = time.monotonic()
    process.wait()
    processes = eventually(lambda: not little.processes(), PROCESSES_AFTER * SLACK)
    rest = max(0.0, killed + FILES_AFTER * SLACK - time.monotonic())
    files = eventually(lambda: not little.files(), rest)
    left = little.left()
    return Round(moment=moment, began=began, processes=processes, files=files, left=left)


@pytest.mark.fault("F4")
def test_sigkill_of_pytest_at_any_moment_leaves_nothing(
    make_little: Callable[[], Little],
) -> None:
    """After a second no process, after two no file, mount, socket or cgroup."""
    littles = [make_little() for _ in range(AT_ONCE)]
    for little in littles:
        little.write(test_it=BUSY.format(root=os.geteuid() == 0))
    moments = [random.uniform(-1.0, 2.5) for _ in range(ROUNDS)]
    rounds: list[Round] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, ROUNDS, AT_ONCE):
            some = moments[start : start + AT_ONCE]
            rounds += pool.map(kill_once, littles[: len(some)], some)
    print(*rounds, sep="\n")  # shown if it fails
    assert [one for one in rounds if not one.fine or one.left] == []
    assert sum(one.began for one in rounds) >= sum(moment >= 0 for moment in moments)
    assert statistics.median(one.processes or 0 for one in rounds) < PROCESSES_AFTER


@pytest.mark.fault("F4")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_pytest_that_dies_while_it_starts_its_keeper_leaves_nothing(
    little: Little, number: signal.Signals
) -> None:
    """The keeper is told the session's folder before it is made."""
    little.write(
        test_it=f"""
        import faulthandler, os
        from pytest_gvisor.launch import session_dir

        def die(path):
            faulthandler.disable()
            os.kill(os.getpid(), {number})

        session_dir._take_lock = die

        def test_it(gvisor):
            gvisor.run(["true"])
        """
    )
    assert little.start().wait(60) == -number
    assert os.path.exists(little.base)
    assert eventually(lambda: not little.left(), FILES_AFTER * SLACK) is not None
