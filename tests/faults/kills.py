"""Rounds of SIGKILL: each kills a pytest at some moment, and times the end of its processes.

The rounds of test_sigkill.py, and of ``python -m tests.faults``.
"""

import itertools
import os
import random
import time
from dataclasses import dataclass

from tests.faults.little import FILES_AFTER, LONGER, PROCESSES_AFTER, Little, eventually

SLACK = max(3.0, LONGER)
"""How many times as long as promised what is left is looked at."""
QUIET = 0.3
"""Seconds in which nothing must be seen of what has gone."""
EARLIEST, LATEST = -1.0, 2.5
"""Seconds: before zero, from the start of the process; else from the beginning of its session."""

# Sandboxes of all kinds, one after the other and at the same time, for longer than anyone waits.
BUSY = """
    import contextlib, os, subprocess, threading
    import pytest

    LIMITS = [{{}}, {{"memory": "512M"}}, {{"pids": 200, "cpus": 1}}] if {root} else [{{}}]
    NETWORKS = ["none", "sandbox", "host"] if {root} else ["none", "host"]
    SCRIPTS = [
        "exit 3",
        "trap '' TERM; while :; do sleep 0.1 & done",
        "head -c 3000000 /dev/zero; sleep 0.2",
        "setsid sleep 100 & sleep 0.3",
    ]
    often = pytest.mark.parametrize("number", range(1000))

    def at_once(run, number):
        threads = [threading.Thread(target=run, args=[more]) for more in range(number % 3)]
        for thread in threads:
            thread.start()
        run(3)
        for thread in threads:
            thread.join()

    @often
    def test_run(gvisor, number):
        def run(more):
            with contextlib.suppress(Exception):
                gvisor.run(["sh", "-c", SCRIPTS[(number + more) % 4]], timeout=0.7,
                           network=NETWORKS[number % len(NETWORKS)],
                           **LIMITS[(number + more) % len(LIMITS)])
        at_once(run, number)

    @often
    def test_allow(gvisor, number):
        def run(more):
            with contextlib.suppress(Exception):
                gvisor.run(["sh", "-c", SCRIPTS[(number + more) % 4]], timeout=0.7,
                           allow=["127.0.0.1:9"], **LIMITS[(number + more) % 2 % len(LIMITS)])
        at_once(run, number)

    @often
    def test_sandbox(gvisor, number):
        def run(more):
            with contextlib.suppress(Exception):
                sandbox.exec(["sh", "-c", SCRIPTS[(number + more) % 4]], timeout=0.4)
        with gvisor.sandbox(network=NETWORKS[number % len(NETWORKS)],
                            **LIMITS[number % len(LIMITS)]) as sandbox:
            at_once(run, number)
            at_once(run, number + 1)

    @often
    @pytest.mark.gvisor(**LIMITS[-1])
    def test_inside(number):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["sh", "-c", SCRIPTS[number % 4]], timeout=0.3, stdout=-3)
        if number % 4 == 3:
            os._exit(3)
"""
WAYS = {
    "run": ("test_it.py::test_run",),
    "sandbox": ("test_it.py::test_sandbox",),
    "inside": ("test_it.py::test_inside", "--in-gvisor"),
    "allow": ("test_it.py::test_allow",),
}
"""The arguments that select the tests of each kind of sandbox."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One killed pytest, and the seconds until its processes and files were gone."""

    moment: float
    way: str
    began: bool
    """Whether the pytest had a session at the kill."""

    processes: float | None
    files: float | None
    left: list[str]

    def fine(self, slack: float = 1.0) -> bool:
        """Whether everything went in time; ``slack`` multiplies that time."""
        if self.processes is None or self.files is None or self.left:
            return False
        return self.processes <= PROCESSES_AFTER * slack and self.files <= FILES_AFTER * slack


def prepare(little: Little) -> None:
    """Give a project the tests whose pytest is killed."""
    little.write(test_it=BUSY.format(root=os.geteuid() == 0))


def planned(count: int, seed: int) -> list[tuple[float, str]]:
    """Random moments for kills, the same for a seed, each with the next way to run pytest."""
    chance = random.Random(seed)
    moments = (chance.uniform(EARLIEST, LATEST) for _ in range(count))
    return list(zip(moments, itertools.cycle(WAYS), strict=False))


def kill_once(little: Little, plan: tuple[float, str]) -> Round:
    """Start a pytest, kill it so many seconds after it has begun a session, and look.

    A negative moment is counted from the start of the process.
    """
    moment, way = plan
    process = little.start(*WAYS[way])
    if moment >= 0:
        eventually(little.files)
    time.sleep(abs(moment))
    began = bool(little.files())
    process.kill()
    killed = time.monotonic()
    process.wait()
    processes, files = last_seen(little, killed)
    left = little.left()
    return Round(moment=moment, way=way, began=began, processes=processes, files=files, left=left)


def last_seen(little: Little, killed: float) -> tuple[float | None, float | None]:
    """The seconds from the kill until processes, and files, were seen for the last time.

    None where they are still there at the limit. A keeper that was being started shows itself a
    moment after the kill. So nothing is gone before it has not been seen for a while.
    """
    seen = {"processes": 0.0, "files": 0.0}
    while (passed := time.monotonic() - killed) < FILES_AFTER * SLACK + QUIET:
        if little.processes():
            seen["processes"] = passed
        if little.files():
            seen["files"] = passed
        if passed - max(seen.values()) > QUIET:
            return seen["processes"], seen["files"]
        time.sleep(0.01)
    still = [passed - when < QUIET for when in seen.values()]
    return (None if still[0] else seen["processes"], None if still[1] else seen["files"])
