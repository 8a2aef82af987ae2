"""The rows on one machine that is full: many sandboxes at once, and many tests inside one."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.bench import TRUE, Bench
from benchmarks.results import Figure, Result
from benchmarks.sessions import Project, in_gvisor, projects
from benchmarks.timing import Series
from pytest_gvisor import Sandbox
from pytest_gvisor.programs.proc import children_of

NUMBERS = (1, 4, 16, 64, 256)
TESTS = {100: 0.020, 1000: 0.005, 10_000: 0.004, 100_000: 0.004}
"""Numbers of tests in a session, with the target for the seconds of each."""

MIB = 1 << 20
_EVERY = 0.1


def full(bench: Bench, count: int) -> Iterator[Result]:
    """Runs that start at once, and warm sandboxes that are open at once, by their number."""
    bench.run()
    result = functools.partial(Result, row="full", against="-")
    for number in NUMBERS:
        spent = Series(tuple(_at_once(number, bench.run) / number for _ in range(count)))
        yield result(
            what=f'{number} at once of `gvisor.run(["true"])`: time of all by their number',
            figure=Figure.TIME, ours=spent, target=0.25,
        )  # fmt: skip
        with _open(bench, number) as (memory, processes, descriptors):
            beside = Series(tuple(_at_once(1, bench.run) for _ in range(count)))
        told = f"{number} open warm sandboxes"
        yield result(
            what=f'{told}: `gvisor.run(["true"])` beside them',
            figure=Figure.TIME, ours=beside, target=0.25,
        )  # fmt: skip
        for what, figure, value, target in (
            ("memory", Figure.LARGEST, memory / MIB, 80.0),
            ("processes", Figure.COUNT, processes, 12.0),
            ("descriptors of pytest and its keeper", Figure.COUNT, descriptors, 12.0),
        ):
            yield result(
                what=f"{told}: {what} of each", figure=figure,
                ours=Series((value / number,)), target=target,
            )  # fmt: skip


def _at_once(number: int, act: Callable[[], object]) -> float:
    """The seconds until calls in threads that begin together have all returned."""
    together = threading.Barrier(number + 1)

    def one(_: int) -> None:
        together.wait()
        act()

    with ThreadPoolExecutor(number) as pool:
        calls = pool.map(one, range(number))
        together.wait()
        begun = time.perf_counter()
        list(calls)
        return time.perf_counter() - begun


@contextlib.contextmanager
def _open(bench: Bench, number: int) -> Iterator[tuple[int, int, int]]:
    """Open warm sandboxes; yield the bytes of memory, processes and descriptors that they add."""
    ours = [os.getpid(), bench.launcher.keeper().pid]

    def count() -> tuple[int, int, int]:
        pids = [*ours, *_below(ours[1])]
        return sum(map(_memory, pids)), len(pids), sum(map(_descriptors, ours))

    before = count()
    with contextlib.ExitStack() as held:
        for _ in range(number):
            _exec(held.enter_context(bench.gvisor.sandbox()))
        memory, processes, descriptors = (a - b for a, b in zip(count(), before, strict=True))
        yield memory, processes, descriptors


def _exec(sandbox: Sandbox) -> None:
    if sandbox.exec(TRUE).returncode:
        raise RuntimeError("true failed in a warm sandbox")


def _below(pid: int) -> list[int]:
    """The descendants of a process."""
    found: list[int] = []
    for child in children_of(pid):
        found += [child, *_below(child)]
    return found


def _memory(pid: int) -> int:
    """The bytes of a process, with its part of what it shares; 0 if it has ended."""
    with (
        contextlib.suppress(OSError),
        open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file,
    ):
        return sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024
    return 0


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def grows(bench: Bench, count: int) -> Iterator[Result]:
    """Sessions of more and more tests inside: the time of each, and the most memory.

    Pytest itself keeps each test and its report, so a plain one stands beside the host's.
    """
    with projects() as folder:
        for tests, target in TESTS.items():
            project = Project(os.path.join(folder, str(tests)), tests)
            # To compile one large file takes more memory than its tests do.
            project.run("--collect-only", "-p", "no:gvisor")
            rounds = [_session(project, *in_gvisor(bench)) for _ in range(count)]
            plain = [_session(project, "-p", "no:gvisor") for _ in range(count)]
            seconds, hosts, sandboxes = (Series(each) for each in zip(*rounds, strict=True))
            _, peers, _ = (Series(each) for each in zip(*plain, strict=True))
            told = f"{tests:,} trivial tests, `pytest --in-gvisor`"
            result = functools.partial(Result, row="grows", figure=Figure.LARGEST)
            yield result(
                what=f"{told}: time of each", against="-", figure=Figure.TIME,
                ours=seconds.over(tests), target=target,
            )  # fmt: skip
            yield result(
                what=f"{told}: memory of pytest", against="plain `pytest`",
                ours=hosts, peer=peers, target=64 + tests / 256,
            )  # fmt: skip
            yield result(
                what=f"{told}: memory of the sandbox", against="-",
                ours=sandboxes, target=256 + tests / 64,
            )  # fmt: skip


def _session(project: Project, *options: str) -> tuple[float, float, float]:
    """The seconds of a session, and the most MiB of its pytest and of its sandbox."""
    begun = time.perf_counter()
    most, spent = [0, 0], 0.0
    with project.popen(*options) as process:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                # To look at gigabytes takes the kernel a while.
                process.wait(max(_EVERY, spent / 100))
                break
            below = _below(process.pid)
            now = _memory(process.pid), sum(map(_memory, below))
            most = [max(pair) for pair in zip(most, now, strict=True)]
            spent = time.perf_counter() - begun
    if process.returncode:
        raise RuntimeError(f"a session of trivial tests ended with {process.returncode}")
    return time.perf_counter() - begun, most[0] / MIB, most[1] / MIB
