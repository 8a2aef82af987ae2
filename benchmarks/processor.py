"""The processor time of a workload: its own code, the sentry, and the host's kernel for each.

On systrap, code of a workload runs in stub processes, which are the sentry's children. Its system
calls and page faults are the sentry's work. So the times of these processes divide the total.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Self

from benchmarks import floors, suites
from benchmarks.results import Unavailable
from pytest_gvisor import Platform
from pytest_gvisor.programs import proc

if TYPE_CHECKING:
    from benchmarks.bench import Bench

NAME = "processor"
ROUNDS = 1
SPAWNS = 100
"""Programs that one measurement inside starts."""

_EVERY = 0.02
_TICK = 1 / os.sysconf("SC_CLK_TCK")


class Times(NamedTuple):
    """Seconds of a process in its own code and in the host's kernel, by /proc/PID/stat."""

    code: float = 0.0
    kernel: float = 0.0

    def plus(self, other: Times) -> Times:
        """The sum."""
        return Times(self.code + other.code, self.kernel + other.kernel)

    def minus(self, other: Times) -> Times:
        """The difference."""
        return Times(self.code - other.code, self.kernel - other.kernel)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spent:
    """The time of one work, and its parts. Seconds."""

    row: str
    work: str
    where: str
    wall: float
    workload: Times
    sentry: Times | None = None
    rest: Times | None = None
    """runsc and the gofer."""

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return sum(sum(part) for part in (self.workload, self.sentry, self.rest) if part)


def measure(bench: Bench, count: int) -> Iterator[Spent]:
    """Each suite on the host and inside, ``count`` times; then ``true`` spawned inside."""
    if bench.platform is not Platform.SYSTRAP:
        raise Unavailable(f"only systrap has stub processes, and not {bench.platform}")
    for name in suites.names():
        with suites.prepared(name) as suite:
            for _ in range(count):
                yield from _both(bench, suite, f"suite of {name}, plain `pytest`")
                if name == suites.WORKERS:
                    yield from _both(bench, suite, f"suite of {name}, plain `pytest -n2`", "-n2")
    for release in bench.releases():
        work = f"{SPAWNS} times `true` by `posix_spawn`, runsc {release.runsc.version}"
        with floors.spawner(release) as ask:
            for _ in range(count):
                yield _inside(work, functools.partial(_repeat, ask))


def _repeat(ask: Callable[[], object]) -> None:
    for _ in range(SPAWNS):
        ask()


def _both(bench: Bench, suite: suites.Suite, work: str, *options: str) -> Iterator[Spent]:
    """Run the suite on the host and inside."""
    keep = ("xdist",) if options else ()
    yield _on_host(work, lambda: suite.host("-p", "no:gvisor", *options))
    yield _inside(work, lambda: suite.workload(bench, *options, keep=keep))


def _on_host(work: str, run: Callable[[], object]) -> Spent:
    before, begun = _of_children(), time.monotonic()
    run()
    wall = time.monotonic() - begun
    return Spent(
        row=NAME, work=work, where="host", wall=wall, workload=_of_children().minus(before)
    )


def _of_children() -> Times:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Times(usage.ru_utime, usage.ru_stime)


def _inside(work: str, run: Callable[[], object]) -> Spent:
    with Sampler() as sampler:
        begun = time.monotonic()
        run()
        wall = time.monotonic() - begun
    return Spent(
        row=NAME, work=work, where="inside", wall=wall, workload=sampler.spent("stub"),
        sentry=sampler.spent("sentry"), rest=sampler.spent("rest"),
    )  # fmt: skip


class Sampler(threading.Thread):
    """Reads the times of the processes of this process's sandboxes again and again.

    A process that ends takes its time of the last `_EVERY` seconds along.
    """

    def __init__(self) -> None:
        super().__init__()
        self._over = threading.Event()
        self._first: dict[int, Times] = {}
        self._last: dict[int, Times] = {}
        self._parts: dict[int, str] = {}

    def __enter__(self) -> Self:
        """Start. The time that was spent until now does not count."""
        self._look()
        self._first = dict(self._last)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """Look until the end."""
        while not self._over.wait(_EVERY):
            self._look()

    def spent(self, part: str) -> Times:
        """Return the time of a part since the start: ``stub``, ``sentry`` or ``rest``."""
        total = Times()
        for pid, times in self._last.items():
            if self._parts[pid] == part:
                total = total.plus(times.minus(self._first.get(pid, Times())))
        return total

    def _look(self) -> None:
        """Walk from this process downwards: a sentry's descendants are stubs."""
        level = [(pid, "") for pid in proc.children_of_self()]
        for pid, above in level:
            words, known = proc.words_of(pid), self._parts.get(pid, "")
            part = above
            if known in {"sentry", "stub"}:  # a zombie has no words
                part = known
            elif above in {"sentry", "stub"}:
                part = "stub"
            elif "boot" in words:
                part = "sentry"
            elif {"gofer", "run"} & set(words):
                part = "rest"
            if part:
                with contextlib.suppress(OSError):  # it has ended
                    self._last[pid] = _times(pid)
                    self._parts[pid] = part
            level += [(child, part) for child in proc.children_of(pid)]


def _times(pid: int) -> Times:
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return Times(*(int(field) * _TICK for field in fields[11:13]))
