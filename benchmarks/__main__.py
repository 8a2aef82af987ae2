"""``python benchmarks``: measures side by side with the peers, prints the table and the ratios.

A missed target is printed and is not an error: figures depend on the machine. The exit status is 1
only where something that should be measured could not be.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence

# `python benchmarks` puts this folder on sys.path, and not the one above it.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks import document, plot, scale, table
from benchmarks.bench import Bench
from benchmarks.results import Missing, Phase, Result, Unavailable
from benchmarks.rows import PHASE_ROUNDS, PHASES, ROWS, phases
from benchmarks.sessions import curve
from pytest_gvisor import GvisorError

PLOT = "plot"
PLOT_ROUNDS = 3
_KNOWN = [*ROWS, PHASES, PLOT]
_FAILURES = (GvisorError, OSError, RuntimeError, subprocess.SubprocessError)
"""The errors of a row that could not be measured."""


def _rows(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in _KNOWN:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(_KNOWN)}")
    return [name for name in _KNOWN if name in names]


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rounds")
    return int(text)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "--rows",
        "--only",
        type=_rows,
        default=_KNOWN,
        help=f"comma list of {', '.join(_KNOWN)} (default: all)",
    )
    rounds = {name: row.rounds for name, row in ROWS.items()}
    rounds |= {PHASES: PHASE_ROUNDS, PLOT: PLOT_ROUNDS}
    defaults = ", ".join(f"{name} {number}" for name, number in rounds.items())
    parser.add_argument(
        "--count",
        type=_count,
        metavar="N",
        help=f"rounds of each row (default: {defaults})",
    )
    parser.add_argument("--json", metavar="FILE", help="write every single value to FILE as well")
    parser.add_argument(
        "--write",
        metavar="FOLDER",
        help="put the rows into benchmarks.md of this folder, and the plots beside it",
    )
    return parser.parse_args(arguments)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen rows; returns the exit status."""
    options = _options(arguments)
    results: list[Result] = []
    steps: list[Phase] = []
    missing: list[Missing] = []
    drawn: str | None = None
    with Bench.ready() as bench:
        about = table.versions(bench.runsc.version, bench.platform.value, bench.folder)
        for name in options.rows:
            _note(f"measuring {name} ...")
            try:
                if name == PHASES:
                    steps = phases(bench, options.count or PHASE_ROUNDS)
                elif name == PLOT:
                    points = curve(bench, options.count or PLOT_ROUNDS)
                    drawn = plot.svg(points, f"{about['date']}, runsc {about['runsc']}")
                else:
                    row = ROWS[name]
                    results += row.measure(bench, options.count or row.rounds)
            except Unavailable as error:
                missing.append(Missing(row=name, why=str(error), failed=False))
            except _FAILURES as error:
                missing.append(Missing(row=name, why=str(error), failed=True))
    tables = {
        "results": table.of_results(results),
        "steps": table.of_steps(PHASES, steps),
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
    for each in tables.values():
        if each.rows:
            print(each.markdown(), end="\n\n")
    for line in table.verdicts(results, missing):
        print(line)
    if options.write:
        document.write(options.write, tables, about, _KNOWN, drawn)
        scale.write(options.write)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(table.as_json(about, results, steps, missing), file, indent=1)
    return int(any(entry.failed for entry in missing))


if __name__ == "__main__":
    sys.exit(main())
