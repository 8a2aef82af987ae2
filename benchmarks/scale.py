"""The model of docs/scale.md: fitted to the rows `grows` and `full` of benchmarks.md, with a plot.

``python -m benchmarks.scale docs`` makes both again from the rows that are there.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
from collections.abc import Mapping

from benchmarks import document, plot
from benchmarks.grid import Table

PAGE = "scale.md"
PLOT = "scale.svg"
KIND = "model"
_DAY = 86_400
_RUNS = 1_000_000
_MACHINES = 1000
_UNITS = {"ms": 0.001, "s": 1.0, "MiB": 1.0}


def model(results: Table, processors: int) -> tuple[Table, plot.Curve]:
    """The fitted figures, and the sessions of the row `grows` beside those of the model."""
    each, pytest, sandbox = (
        _by_number(results, "grows", what)
        for what in ("time of each", "memory of pytest", "memory of the sandbox")
    )
    runs = _by_number(results, "full", "time of all by their number")
    memory = _by_number(results, "full", "memory of each")
    start, more = _fitted(each)
    # Memory is a base, and so much for each test.
    host, inside = (
        statistics.linear_regression(list(m), list(m.values())) for m in (pytest, sandbox)
    )
    most = max(runs)
    busy = runs[most] * processors
    a_day = _DAY / busy
    figures = (
        ("session of tests inside: start", f"{start:.1f} s", "`grows`"),
        ("each trivial test inside", f"{more * 1000:.1f} ms", "`grows`"),
        ("pytest: memory without tests", f"{host.intercept:.0f} MiB", "`grows`"),
        ("pytest: memory of each test", f"{host.slope * 1024:.0f} KiB", "`grows`"),
        ("sandbox with its keeper: memory without tests", f"{inside.intercept:.0f} MiB", "`grows`"),
        ("sandbox: memory of each test", f"{inside.slope * 1024:.0f} KiB", "`grows`"),
        (f"a run, {most} at once: processor time", f"{busy * 1000:.0f} ms", "`full`"),
        ("an open warm sandbox: memory", f"{memory[max(memory)]:.0f} MiB", "`full`"),
        ("a million runs a day: processors", f"{_RUNS / a_day:.1f}", "86,400 s"),
        (
            f"a thousand machines of {processors} processors: runs a day",
            f"{_MACHINES * processors * a_day / 1e6:,.0f} million",
            "86,400 s",
        ),
    )
    curve = {
        "measured": {n: n * spent for n, spent in each.items()},
        "model": {n: start + n * more for n in each},
    }
    return Table(("figure", "fitted", "from"), figures), curve


def _fitted(each: Mapping[int, float]) -> tuple[float, float]:
    """The start and the time of a test, so that each of n tests takes ``start / n`` and that time.

    The relative errors have the least squares: a session of 100 counts as much as one of 100,000.
    """
    pairs = [(1 / (n * spent), 1 / spent) for n, spent in each.items()]
    aa, ab, bb = (sum(p[i] * p[j] for p in pairs) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = map(sum, zip(*pairs, strict=True))
    return (a * bb - b * ab) / (aa * bb - ab * ab), (b * aa - a * ab) / (aa * bb - ab * ab)


def _by_number(results: Table, row: str, what: str) -> Mapping[int, float]:
    """The medians of a row, in seconds or MiB, by the number that begins their work."""
    found = {}
    for name, work, ours, *_ in results.rows:
        number = re.match(r"[\d,]+", work)
        if name == row and number and f": {what}" in work:
            value, unit = ours.split()[:2]
            found[int(number[0].replace(",", ""))] = float(value) * _UNITS[unit]
    return found


def write(folder: str) -> None:
    """Put the model of the rows in ``folder`` into its page, and the plot beside it."""
    with open(os.path.join(folder, document.PAGE), encoding="utf-8") as file:
        page = file.read()
    at = {row[-1] for row in document.table(page, "results").rows if row[0] == "grows"}
    measured = document.table(page, document.MEASUREMENTS)
    (about,) = (dict(zip(measured.head, row, strict=True)) for row in measured.rows if row[0] in at)
    figures, curve = model(document.table(page, "results"), int(about["processors"]))
    path = os.path.join(folder, PAGE)
    with open(path, encoding="utf-8") as file:
        text = document.replaced(file.read(), KIND, figures)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    with open(os.path.join(folder, PLOT), "w", encoding="utf-8") as file:
        file.write(plot.svg(curve, f"{about['date']}, runsc {about['runsc']}"))


if __name__ == "__main__":
    write(sys.argv[1])
