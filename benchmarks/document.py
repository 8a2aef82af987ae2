"""The last table in docs/benchmarks.md, between two marks that stay there."""

from __future__ import annotations

import os

PAGE = "benchmarks.md"
PLOT = "benchmarks.svg"
_BEGIN, _END = "<!-- last table: make bench writes it -->", "<!-- end of the last table -->"


def replaced(page: str, table: str) -> str:
    """The page with another table. Raises `ValueError` for a page without the marks."""
    before, begin, rest = page.partition(_BEGIN)
    _old, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no place for a table: {_BEGIN} … {_END}")
    return f"{before}{_BEGIN}\n\n{table.strip()}\n\n{_END}{after}"


def write(folder: str, table: str, plot: str | None) -> None:
    """Put the table into the page of ``folder``, and the plot beside it if there is one."""
    path = os.path.join(folder, PAGE)
    with open(path, encoding="utf-8") as file:
        page = replaced(file.read(), table)
    with open(path, "w", encoding="utf-8") as file:
        file.write(page)
    if plot is not None:
        with open(os.path.join(folder, PLOT), "w", encoding="utf-8") as file:
            file.write(plot)
