"""The last tables in docs/benchmarks.md, each between two marks that stay there.

Rows that were measured now replace those of the same name, and the others stay. Each row names its
measurement, which the last table lists with its date and versions.
"""

from __future__ import annotations

import os
import string
from collections.abc import Mapping, Sequence

from benchmarks.grid import Table

PAGE = "benchmarks.md"
PLOT = "benchmarks.svg"
KINDS = ("results", "steps")
MEASUREMENTS = "measurements"
_AT = "at"
"""The column that names the measurement of a row."""


def updated(
    page: str, tables: Mapping[str, Table], about: Mapping[str, str], order: Sequence[str]
) -> str:
    """The page with the rows of ``tables``, by `KINDS`, which one measurement ``about`` made.

    Raises `ValueError` for a page without the marks of a table.
    """
    measured = table(page, MEASUREMENTS)
    names = {row[0] for row in measured.rows}
    name = next(letter for letter in string.ascii_uppercase if letter not in names)
    found = {kind: table(page, kind) for kind in KINDS}
    for kind, newer in tables.items():
        if newer.rows:
            found[kind] = found[kind].updated(newer.with_column(_AT, name), order)
    used = {row[-1] for each in found.values() for row in each.rows}
    newest = Table((_AT, *about), ((name, *about.values()),))
    kept = [row for row in measured.updated(newest, (*names, name)).rows if row[0] in used]
    letters = dict(zip((row[0] for row in kept), string.ascii_uppercase, strict=False))
    for kind, each in found.items():
        rows = tuple((*row[:-1], letters.get(row[-1], row[-1])) for row in each.rows)
        page = replaced(page, kind, Table(each.head, rows))
    rows = tuple((letters[row[0]], *row[1:]) for row in kept)
    return replaced(page, MEASUREMENTS, Table(newest.head, rows))


def write(
    folder: str,
    tables: Mapping[str, Table],
    about: Mapping[str, str],
    order: Sequence[str],
    plot: str | None,
) -> None:
    """Put the tables into the page of ``folder``, and the plot beside it if there is one."""
    path = os.path.join(folder, PAGE)
    with open(path, encoding="utf-8") as file:
        page = updated(file.read(), tables, about, order)
    with open(path, "w", encoding="utf-8") as file:
        file.write(page)
    if plot is not None:
        with open(os.path.join(folder, PLOT), "w", encoding="utf-8") as file:
            file.write(plot)


def marks(kind: str) -> tuple[str, str]:
    """The lines of a page between which a table of this kind stands."""
    return f"<!-- last {kind}: make bench writes them -->", f"<!-- end of the last {kind} -->"


def _part(page: str, kind: str) -> tuple[str, str, str]:
    """The page before the table of this kind, the table, and the page after it."""
    begin, end = marks(kind)
    before, has_begin, rest = page.partition(begin)
    table, has_end, after = rest.partition(end)
    if not has_begin or not has_end:
        raise ValueError(f"{PAGE} has no place for a table: {begin} … {end}")
    return before + begin, table, end + after


def table(page: str, kind: str) -> Table:
    """The table of this kind that stands on a page."""
    return Table.parse(_part(page, kind)[1])


def replaced(page: str, kind: str, table: Table) -> str:
    """The page with a table in the place of that of its kind."""
    before, old, after = _part(page, kind)
    return f"{before}\n\n{table.markdown()}\n\n{after}" if table.head else f"{before}{old}{after}"
