"""Merging: reports of several runs become one, and shards of one collection are checked.

Shards are the parts of one collection of tests that several runs of pytest have divided. A shard
belongs to each platform that its run has a column for. A run without any column had nothing to run,
and counts for each platform with the same collection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from pytest_gvisor.base.errors import ReportError
from pytest_gvisor.base.escape import escape
from pytest_gvisor.report.model import MAX_DETAILS, MAX_LIST, Cell, Leg, Other, Report, Row, State

_NAMED = 20
_LONGEST = 1000
_STEP = "Join the shards of one run of CI, and of one Python, by one `report merge`."


def merge(reports: Iterable[Report]) -> Report:
    """Merge reports into one; tests keep the order of their first appearance.

    The cells of the reports become those of the merge, and count its legs: give each report once,
    and do not use it afterwards.
    Several legs may have the same test on the same platform. The cell of the worst state (`State`
    has the order) is shown then, of equal ones the first. Each of the others is named in it.
    Of all details, `MAX_DETAILS` characters are kept, twice that with those of failures.
    Raises `ReportError` if shards do not belong together, if two of them have the same test, or
    for more than `MAX_LIST` tests.
    """
    legs: list[Leg] = []
    rows: dict[str, Row] = {}
    notes: list[str] = []
    size = dropped = 0
    for report in reports:
        before = len(legs)
        legs += report.legs
        notes += report.notes
        for row in report.rows:
            for cell in row.cells:
                cell.leg += before
                for other in cell.others:
                    other.leg += before
                if cell.output or cell.runs:
                    bound = MAX_DETAILS * (2 if cell.state in {State.FAILED, State.ERROR} else 1)
                    if (more := _details(cell)) > bound - size:
                        cell.output, cell.runs = "", ()
                        dropped += 1
                    else:
                        size += more
            if (known := rows.setdefault(row.test, row)) is not row:
                known.cells = _joined(known, row.cells, legs)
        if len(rows) > MAX_LIST:
            raise ReportError(f"the reports have more than {MAX_LIST} tests together")
    refuse_strangers(legs)
    if dropped:
        notes.append(f"details of {dropped} cells were left out of the merge, for its size")
    return Report(legs=tuple(legs), rows=tuple(rows.values()), notes=tuple(notes), joined=True)


def _details(cell: Cell) -> int:
    """Count the characters of output and runs."""
    texts = (text for run in cell.runs for text in dataclasses.astuple(run))
    return len(cell.output) + sum(map(len, texts))


def _joined(known: Row, cells: Iterable[Cell], legs: Sequence[Leg]) -> tuple[Cell, ...]:
    """Return the cells of a test that was there before, and these."""
    found = {cell.platform: cell for cell in known.cells}
    for cell in cells:
        if (other := found.get(cell.platform)) is not None:
            runs: tuple[Cell | Other, ...] = (other, *other.others, cell, *cell.others)
            _refuse_doubled(known.test, cell.platform, [legs[one.leg] for one in runs])
            found[cell.platform] = worse(other, cell)
        else:
            found[cell.platform] = cell
    return tuple(found.values())


def worse(one: Cell, two: Cell) -> Cell:
    """Return the cell with the worse state of two in one place, with the other one noted."""
    worst, other = (two, one) if two.state.rank < one.state.rank else (one, two)
    named = Other(leg=other.leg, state=other.state, starts_ms=other.starts_ms)
    rest = (*worst.others, named, *other.others)
    others = tuple(sorted(rest, key=lambda entry: entry.leg))
    return dataclasses.replace(worst, others=others)


def refuse_strangers(legs: Iterable[Leg]) -> None:
    """Raise `ReportError` unless the shards of each platform are parts of the same collection."""
    known: dict[tuple[str, str], tuple[object, Leg]] = {}
    for leg in legs:
        if not leg.shards:
            continue
        facts = [("", "commit", leg.commit)]
        for column in leg.platforms:
            facts.append((column.name, "number of shards", str(leg.shards)))
            facts.append((column.name, "collection of tests", leg.collection))
        for name, what, value in facts:
            first, other = known.setdefault((name, what), (value, leg)) if value else (value, leg)
            if first != value:
                told = f"{leg.named} and {other.named} differ in their {what}: {value}, {first}"
                raise ReportError(_brief(told), next_step=_STEP)


def _refuse_doubled(test: str, platform: str, legs: Iterable[Leg]) -> None:
    """Raise `ReportError` if different shards have run the same test on a platform."""
    one, *others = [leg for leg in legs if leg.shards] or [Leg()]
    for two in others:
        if one.shard != two.shard:
            told = f"a test belongs to one shard, and {one.named} and {two.named} both have {test}"
            raise ReportError(_brief(f"{platform}: {told}"), next_step=_STEP)


def _brief(text: str) -> str:
    return escape(" ".join(text.split()))[:_LONGEST]


def missing(report: Report) -> list[str]:
    """Name the shards without a run, by platform; at most twenty, and the number of the others.

    Only a merge can miss some. A run without any column counts where its collection is the same.
    """
    legs = [leg for leg in report.legs if leg.shards and report.joined]
    empty = [leg for leg in legs if not leg.platforms]
    there: dict[str, list[Leg]] = {}
    for leg in legs:
        for column in leg.platforms:
            there.setdefault(column.name, []).append(leg)
    found: list[str] = []
    for name, some in (there or {"": empty} if empty else there).items():
        count, known = some[0].shards, {leg.collection for leg in some} - {""}
        whole = [leg for leg in (*some, *empty) if leg.shards == count]
        here = {leg.shard for leg in whole if not known or leg.collection in {"", *known}}
        lacking = (number for number in range(1, count + 1) if number not in here)
        found += [
            f"shard {number} of {count}" + (f" on {name}" if name else "") for number in lacking
        ]
    more = [f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else []
    return found[:_NAMED] + more
