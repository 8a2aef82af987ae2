"""Merging of reports, for instance from the jobs of a CI matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pytest_gvisor.report.model import Cell, Leg, Other, Report, Row


def merge(reports: Sequence[Report]) -> Report:
    """Merge reports into one; tests keep the order of their first appearance.

    Several legs may have the same test on the same platform. The cell of the worst state (`State`
    has the order) is shown then, of equal ones the first. Each of the others is named in it.
    """
    legs: list[Leg] = []
    rows: dict[str, dict[str, Cell]] = {}
    for report in reports:
        offset = len(legs)
        legs += report.legs
        for row in report.rows:
            cells = rows.setdefault(row.test, {})
            for cell in row.cells:
                moved = _moved(cell, offset)
                known = cells.get(cell.platform)
                cells[cell.platform] = moved if known is None else worse(known, moved)
    return Report(
        legs=tuple(legs),
        rows=tuple(Row(test=test, cells=tuple(cells.values())) for test, cells in rows.items()),
        notes=tuple(note for report in reports for note in report.notes),
    )


def _moved(cell: Cell, offset: int) -> Cell:
    others = tuple(dataclasses.replace(one, leg=one.leg + offset) for one in cell.others)
    return dataclasses.replace(cell, leg=cell.leg + offset, others=others)


def worse(one: Cell, two: Cell) -> Cell:
    """Return the cell with the worse state of two in one place, with the other one noted."""
    worst, other = (two, one) if two.state.rank < one.state.rank else (one, two)
    named = Other(leg=other.leg, state=other.state, starts_ms=other.starts_ms)
    rest = (*worst.others, named, *other.others)
    others = tuple(sorted(rest, key=lambda entry: entry.leg))
    return dataclasses.replace(worst, others=others)
