"""A Markdown table: written, read back, and some of its rows replaced by newer ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

_BETWEEN = re.compile(r"(?<!\\)\|")
Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A head and rows of as many cells. The first cell of a row names it; several may share one."""

    head: Row
    rows: tuple[Row, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the table in a text; one without a head where there is none."""
        lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
        rows = [
            tuple(cell.strip() for cell in _BETWEEN.split(line)[1:-1])
            for number, line in enumerate(lines)
            if number != 1  # the rule below the head
        ]
        return cls(rows[0], tuple(rows[1:])) if rows else cls(())

    def markdown(self) -> str:
        """The table as text that can be read as it is."""
        lines = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = [
            f"| {' | '.join(map(str.ljust, line, widths))} |"  # as many as each other: zip above
            for line in lines
        ]
        rule = "|".join("-" * (width + 2) for width in widths)
        return "\n".join([texts[0], f"|{rule}|", *texts[1:]])

    def with_column(self, name: str, cell: str) -> Table:
        """The table with one more column, that has this cell in each row."""
        return Table((*self.head, name), tuple((*row, cell) for row in self.rows))

    def updated(self, newer: Table, order: Sequence[str]) -> Table:
        """The table with the rows of a newer one, in place of those with the same names.

        Rows have the ``order`` of their names. A table of other columns has no row that stays.
        """
        names = {row[0] for row in newer.rows}
        stay = [row for row in self.rows if row[0] not in names and self.head == newer.head]
        known = {name: place for place, name in enumerate(order)}
        rows = sorted([*stay, *newer.rows], key=lambda row: known.get(row[0], len(known)))
        return Table(newer.head, tuple(rows))
