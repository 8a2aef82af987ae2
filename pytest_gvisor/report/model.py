"""The report: one row per test, one cell per platform, and the runs of pytest.

One leg is one run of pytest; a report that was merged from several has several. What is read from a
file is untrusted: `parse` checks all of it. What is written is escaped already, and escaped again
by whoever renders it.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pytest_gvisor.base.setting_values import NATIVE

SCHEMA = 1
"""Goes up when a reader of the last one would misunderstand."""

MAX_DETAILS = 32 * 1024 * 1024
"""Characters of output and runs in one report. What fails may take twice that."""

MAX_BYTES = 1024 * 1024 * 1024
"""Of a file. A million tests with all their details fit into it."""

MAX_LIST = 1_000_000
"""Entries of a list, tests among them."""

MAX_SHARDS = 10_000
"""The most shards of one division."""

MAX_NUMBER = 1e12
"""Every number in a report is from 0 to this."""

_ROWS_A_LINE = 100

PlatformName = Annotated[str, "the name of a platform, or of one with a release"]


class State(enum.StrEnum):
    """The state of a test on a platform, the worst first. A merged cell has its worst state.

    What was run outranks what was not: the last three say nothing about the test.
    """

    ERROR = "error"
    """Setup or teardown failed, or the xdist worker was lost."""

    FAILED = "failed"
    XPASSED = "xpassed"
    XFAILED = "xfailed"
    PASSED = "passed"
    SKIPPED = "skipped"
    """By the test itself."""

    UNAVAILABLE = "unavailable"
    """Skipped for want of runsc, of the platform, or of docker."""

    NOT_RUN = "not_run"
    """Collected, and not run to an end: the session stopped before."""

    @property
    def word(self) -> str:
        """The state as people read it."""
        return self.value.replace("_", " ")

    @property
    def rank(self) -> int:
        """The place in the order above."""
        return _RANKS[self]

    @property
    def tells(self) -> bool:
        """Whether the state is a verdict on the test, and can differ from another platform's."""
        return self not in {State.UNAVAILABLE, State.NOT_RUN}


_RANKS = {state: rank for rank, state in enumerate(State)}


@dataclass(frozen=True, slots=True)
class Run:
    """One sandbox of a test. Every text is bounded."""

    args: str
    """The workload's argv, as a shell would take it."""

    command: str = ""
    """runsc's own command line, in a form that can be pasted."""

    ended: str = ""
    stdout: str = ""
    stderr: str = ""
    config: str = ""
    """config.json."""

    log: str = ""
    """runsc's error records, panic log, and what is relevant of its boot log."""

    trace: str = ""
    """What its processes did, as a tree of lines; nothing of a run that was not traced."""


# To make frozen ones takes twice the time, and a merge makes a million rows and cells. It moves
# their legs.
@dataclass(slots=True)
class Other:
    """The state of a cell in another run of pytest, or in another of its workers."""

    leg: int
    state: State
    starts_ms: tuple[float, ...] = ()


@dataclass(slots=True)
class Cell:
    """One test on one platform, and on one release if there are several."""

    platform: PlatformName
    """The name of its column: of several releases the platform, ``-`` and the label."""

    state: State
    leg: int = 0
    """Index into the report's legs."""

    nodeid: str = ""
    """The test's whole id in pytest."""

    runsc: str = ""
    """The version that ran it; nothing where none was found."""

    release: str = ""
    """The label of that runsc, where there are several."""

    network: str = ""
    duration: float = 0.0
    """Seconds: setup, call and teardown."""

    starts_ms: tuple[float, ...] = ()
    """Milliseconds for each of its sandboxes whose start was measured. They go from the hand-over
    to the keeper until the sentry reported that the first process starts."""

    cpu_time: float = 0.0
    """Seconds of processor time of its sandboxes together; 0 where none was measured."""

    peak_memory: int = 0
    """Bytes: the most that one of its sandboxes had at once; 0 where none was measured."""

    peak_tasks: int = 0
    """The most processes and threads of one of its sandboxes; 0 where none was measured."""

    message: str = ""
    output: str = ""
    """The traceback, and what pytest has captured."""

    runs: tuple[Run, ...] = ()
    command: str = ""
    """Repeats this cell."""

    lacking: bool = False
    """Whether the test failed, or was skipped, because runsc, its platform or docker is missing."""

    others: tuple[Other, ...] = ()


@dataclass(slots=True)
class Row:
    """One test; ``test`` is its node id without the part that names the platform."""

    test: str
    cells: tuple[Cell, ...] = ()

    @property
    def verdicts(self) -> tuple[Cell, ...]:
        """The cells with a verdict on the test."""
        return tuple(cell for cell in self.cells if cell.state.tells and not cell.lacking)

    @property
    def differs(self) -> bool:
        """Whether two platforms, or two runs of pytest, have different verdicts. A failure that is
        expected counts as a pass, because such a difference is known.
        """
        if len(self.cells) == 1 and not self.cells[0].others:
            return False
        known, cells = {State.XFAILED: State.PASSED}, self.verdicts
        states = [cell.state for cell in cells]
        states += [o.state for cell in cells for o in cell.others if o.leg != cell.leg]
        return len({known.get(state, state) for state in states if state.tells}) > 1

    def ratio(self, cell: Cell) -> float | None:
        """Return how often the time on the host fits into a cell's; None if one did not pass."""
        native = self.on(NATIVE)
        if native is None or native is cell:
            return None
        passed = native.state is State.PASSED and cell.state is State.PASSED
        return cell.duration / native.duration if passed and native.duration else None

    def on(self, platform: str) -> Cell | None:
        """Return the row's cell on a platform."""
        return next((cell for cell in self.cells if cell.platform == platform), None)


@dataclass(frozen=True)
class Binary:
    """A runsc that was used."""

    version: str
    path: str
    origin: str = ""
    """The reason for which it was taken."""


@dataclass(frozen=True)
class Column:
    """A platform in one run of pytest; ``cause`` says why it is unusable, or is empty."""

    name: PlatformName
    cause: str = ""


@dataclass(frozen=True)
class Leg:
    """One run of pytest."""

    project: str = ""
    """The name of its root folder."""

    date: str = ""
    """UTC, as of RFC 3339."""

    host: str = ""
    """The name of the machine that ran the tests, as ``hostname`` prints it."""

    kernel: str = ""
    """The host's."""

    machine: str = ""
    inside: str = ""
    """The sandbox that pytest itself was started in, where its tests run in place."""

    python: str = ""
    pytest: str = ""
    plugin: str = ""
    runsc: tuple[Binary, ...] = ()
    platforms: tuple[Column, ...] = ()
    reaped: int = 0
    """How many dead sessions' leavings the sweep at the start has removed."""

    left: int = 0
    """How many things of this run's own sandboxes could not be removed."""

    uncollected: int = 0
    """How many files and folders of tests could not be collected. Their tests have no rows. One if
    the session ended before its tests were known."""

    shard: int = 0
    """The part of the tests that ran, from 1; 0 is all of them."""

    shards: int = 0
    """In how many parts the tests were divided; 0 where they were not."""

    collection: str = ""
    """A digest of the names of all tests before they were divided, where it is known."""

    commit: str = ""
    """The commit that was tested, where CI names it."""

    @property
    def named(self) -> str:
        """The shard as people read it, with its machine; empty where the tests were not divided."""
        on = f" ({self.host})" if self.host else ""
        return f"shard {self.shard} of {self.shards}{on}" if self.shards else ""


@dataclass(frozen=True, kw_only=True)
class Starts:
    """Start times of one platform, in milliseconds."""

    count: int
    median: float
    slowest: float

    def __str__(self) -> str:
        """Return them as part of a sentence."""
        if self.count == 1:
            return f"its sandbox started in {self.median:.0f} ms"
        median = f"{self.median:.0f} ms (median of {self.count})"
        return f"sandboxes start in {median}, slowest {self.slowest:.0f} ms"


@dataclass(frozen=True, kw_only=True)
class Used:
    """The resources that cells have used, as text; ``-`` if none was measured."""

    cpu_time: str
    peak_memory: str
    peak_tasks: str

    def __str__(self) -> str:
        """Return them as part of a sentence."""
        peaks = f"peak memory {self.peak_memory}, peak of tasks {self.peak_tasks}"
        return f"processor time {self.cpu_time}, {peaks}"

    @classmethod
    def by(cls, cells: Iterable[Cell]) -> Used | None:
        """Return the sum of processor times, and the largest peaks; None if none was measured."""
        figures = [
            (cell.cpu_time, cell.peak_memory, cell.peak_tasks)
            for cell in cells
            if cell.cpu_time or cell.peak_memory or cell.peak_tasks
        ]
        if not figures:
            return None
        times, memory, tasks = zip(*figures, strict=True)
        return cls(
            cpu_time=f"{sum(times):.2f} s" if any(times) else "-",
            peak_memory=f"{max(memory) / 2**20:.1f} MiB" if any(memory) else "-",
            peak_tasks=str(max(tasks)) if any(tasks) else "-",
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole report."""

    legs: tuple[Leg, ...] = ()
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    """What was left out."""

    joined: bool = False
    """Whether it is a merge, in which shards may be missing."""

    @property
    def platforms(self) -> tuple[str, ...]:
        """The columns, in the order of their first appearance."""
        named = [column.name for leg in self.legs for column in leg.platforms]
        return tuple(dict.fromkeys([*named, *self._columns]))

    def cells(self, platform: str) -> Sequence[Cell]:
        """Return all cells of a column."""
        return self._columns.get(platform, ())

    @functools.cached_property
    def _columns(self) -> dict[str, list[Cell]]:
        found: dict[str, list[Cell]] = {}
        for row in self.rows:
            for cell in row.cells:
                found.setdefault(cell.platform, []).append(cell)
        return found

    def counts(self, platform: str) -> dict[State, int]:
        """Count the cells of a column by state, in the order of `State`, without zeros."""
        found = collections.Counter(cell.state for cell in self.cells(platform))
        return {state: found[state] for state in State if found[state]}

    @functools.cached_property
    def start_times(self) -> dict[str, list[float]]:
        """All measured starts by platform, sorted, in milliseconds, replaced cells included."""
        found = {}
        for name, cells in self._columns.items():
            times = [start for cell in cells for start in cell.starts_ms]
            others = (other for cell in cells if cell.others for other in cell.others)
            times += (start for other in others for start in other.starts_ms)
            found[name] = sorted(times)
        return found

    def starts(self, platform: str) -> Starts | None:
        """Return the statistics of start times; None if none was measured."""
        times = self.start_times.get(platform)
        if not times:
            return None
        middle = len(times) // 2
        median = (times[middle] + times[~middle]) / 2
        return Starts(count=len(times), median=median, slowest=times[-1])

    def used(self, platform: str) -> Used | None:
        """Return the resources that the cells of a column have used; None if none was measured."""
        return Used.by(self.cells(platform))

    def cause(self, platform: str) -> str:
        """Return why a platform was unusable in any run of pytest, and on which machine."""
        causes = [
            f"{self._on(number)[1:]}: {column.cause}".removeprefix(": ")
            for number, leg in enumerate(self.legs)
            for column in leg.platforms
            if column.name == platform and column.cause
        ]
        return "; ".join(dict.fromkeys(causes))

    @functools.cached_property
    def hosts(self) -> tuple[str, ...]:
        """The names of the machines, in the order of the runs."""
        return tuple(dict.fromkeys(leg.host for leg in self.legs if leg.host))

    @property
    def sides(self) -> str:
        """The name of the sides that may differ: platforms, and machines if there are several."""
        return "platforms or machines" if len(self.hosts) > 1 else "platforms"

    @functools.cached_property
    def _spread(self) -> frozenset[str]:
        """The columns whose tests ran on several machines."""
        found: dict[str, set[int]] = collections.defaultdict(set)
        for cell in (cell for row in self.rows for cell in row.cells):
            legs = found[cell.platform]
            legs.add(cell.leg)
            if cell.others:
                legs.update(other.leg for other in cell.others)
        places = ((name, set(map(self._on, legs))) for name, legs in found.items())
        return frozenset(name for name, each in places if len(each) > 1)

    def _on(self, leg: int) -> str:
        host = self.legs[leg].host if leg < len(self.legs) else ""
        return f" on {host}" if host and len(self.hosts) > 1 else ""

    def place(self, cell: Cell, leg: int | None = None) -> str:
        """Return ``on NAME`` with a space before it, for the machine of a cell or another run.

        Nothing if all tests of the cell's column ran on one machine.
        """
        return self._on(cell.leg if leg is None else leg) if cell.platform in self._spread else ""

    @functools.cached_property
    def differing(self) -> tuple[Row, ...]:
        """The rows on which platforms differ."""
        return tuple(row for row in self.rows if row.differs)

    @property
    def reaped(self) -> int:
        """The leaks that all runs of pytest removed."""
        return sum(leg.reaped for leg in self.legs)

    @property
    def left(self) -> int:
        """The leaks that all runs of pytest left."""
        return sum(leg.left for leg in self.legs)

    @property
    def uncollected(self) -> int:
        """The files and folders that no run of pytest could collect."""
        return sum(leg.uncollected for leg in self.legs)

    def to_json(self) -> str:
        """Return the report as JSON, with counts and start times for readers without a model."""
        return "".join(self.pieces())

    def pieces(self) -> Iterator[str]:
        """Yield that JSON piece by piece: that of a million tests has 400 MB."""
        starts = {name: self.starts(name) for name in self.platforms}
        before = {
            "schema": SCHEMA,
            "legs": self.legs,
            "counts": {name: self.counts(name) for name in self.platforms},
            "starts_ms": {name: found for name, found in starts.items() if found},
            "notes": self.notes,
            **({"joined": True} if self.joined else {}),
        }
        yield json.dumps(before, indent=1, default=_plain).removesuffix("\n}") + ',\n "tests": ['
        encode = json.JSONEncoder(separators=(",", ":"), default=_plain).encode
        for first in range(0, len(self.rows), _ROWS_A_LINE):
            rows = encode(self.rows[first : first + _ROWS_A_LINE])
            yield ("," if first else "") + "\n  " + rows[1:-1]
        yield "\n ]\n}\n"


@functools.cache
def _fields(kind: Any) -> tuple[list[str], list[Any], operator.attrgetter[tuple[Any, ...]]]:
    fields = dataclasses.fields(kind)
    names = [field.name for field in fields]
    return names, [field.default for field in fields], operator.attrgetter(*names)


def _plain(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass without those that have their default."""
    kind: Any = type(value)
    names, defaults, get = _fields(kind)
    named = zip(names, defaults, get(value), strict=True)
    return {name: part for name, default, part in named if part != default}


def joined(counts: Mapping[State, int]) -> str:
    """``3 passed, 1 failed``, passed first."""
    order = sorted(counts, key=lambda state: (state is not State.PASSED, state.rank))
    return ", ".join(f"{counts[state]} {state.word}" for state in order) or "nothing"


def failures_first(rows: Iterable[tuple[int, Row]]) -> list[tuple[int, Row]]:
    """Sort numbered rows by the worst cell, then those that differ; else in the same order."""
    order = (State.ERROR, State.FAILED, State.NOT_RUN, State.XPASSED, State.UNAVAILABLE)

    def urgency(numbered: tuple[int, Row]) -> tuple[int, bool]:
        row = numbered[1]
        states = {cell.state for cell in row.cells}
        place = next((at for at, state in enumerate(order) if state in states), len(order))
        return place, not row.differs

    return sorted(rows, key=urgency)
