"""The report as one HTML file without external resources.

Its policy (CSP) allows exactly the one script and the one style sheet that are in it, by their
hashes. Every text is escaped by us, and by Jinja2.
"""

from __future__ import annotations

import base64
import collections
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2

from pytest_gvisor.base.escape import escape
from pytest_gvisor.report.details import as_ratio, details
from pytest_gvisor.report.merging import missing
from pytest_gvisor.report.model import Binary, Cell, Report, Row, State, failures_first, joined

MAX_DOTS = 500
"""How many starts of a platform are drawn; the figures beside the chart are of all of them."""

MAX_ROWS = 5000
"""How many rows a page has. A browser opens so many in a second."""

_QUIET = {State.PASSED, State.XFAILED, State.SKIPPED}
_LEFT, _WIDTH, _LANE, _TOP = 90, 600, 44, 10
_MARKS = {
    State.PASSED: "✓", State.FAILED: "✗", State.ERROR: "!", State.SKIPPED: "»",
    State.XFAILED: "≈", State.XPASSED: "≠", State.UNAVAILABLE: "⊘", State.NOT_RUN: "○",
}  # fmt: skip


def render(report: Report) -> str:
    """Render the whole document."""
    source = jinja2.PackageLoader("pytest_gvisor.report")
    environment = jinja2.Environment(
        loader=source, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    compare, report_js, style = (
        source.get_source(environment, name)[0]
        for name in ("compare.js", "report.js", "report.css")
    )
    script = compare + report_js
    platforms = [_column(report, name) for name in report.platforms]
    shown = _shown(report)
    rows = [{"number": number, **_row(report, row, report.platforms)} for number, row in shown]
    counts = [report.counts(name) for name in report.platforms]
    return environment.get_template("report.html.j2").render(
        csp=policy(script, style),
        script=script,
        style=style,
        report=report,
        missing=missing(report),
        verdict=verdict(report),
        facts=_facts(report),
        unusable=any(column["cause"] for column in platforms),
        started=any(column["starts"] for column in platforms),
        platforms=platforms,
        measured=any(column["used"] for column in platforms),
        rows=rows,
        left_out=_left_out(report, shown),
        compared=any(row["ratio"] for row in rows),
        states=[state for state in State if any(state in found for found in counts)],
        marks=_MARKS,
        chart=chart(report),
        details=details(report, shown),
        show=escape,
    )  # fmt: skip


def _shown(report: Report) -> list[tuple[int, Row]]:
    """Return the rows of the page, failures first, each with its number in the report.

    Of a large report they are those that need a look.
    """
    numbered: Iterable[tuple[int, Row]] = enumerate(report.rows)
    if len(report.rows) > MAX_ROWS:
        numbered = ((number, row) for number, row in numbered if not _quiet(row) or row.differs)
    return failures_first(numbered)[:MAX_ROWS]


def _quiet(row: Row) -> bool:
    return _QUIET.issuperset([cell.state for cell in row.cells])


def _left_out(report: Report, shown: Sequence[tuple[int, Row]]) -> str:
    """Return a sentence on the tests that the page has no row for, by their states."""
    if len(shown) == len(report.rows):
        return ""
    found: collections.Counter[State] = collections.Counter()
    for name in report.platforms:
        found.update(report.counts(name))
    found.subtract(cell.state for _number, row in shown for cell in row.cells)
    return (
        f"The table below has {_tests(len(shown))} of {len(report.rows)}: the first that failed, "
        f"differ or did not run. Left out are {joined(+found)}. The report as .json has each test."
    )


def _time(row: Row, cell: Cell | None) -> str:
    """Return the time that a cell shows: its ratio to the host's, or else its seconds."""
    if cell is None or not cell.duration:
        return ""
    return as_ratio(row.ratio(cell)) or f"{cell.duration:.2f} s"


def policy(script: str, style: str) -> str:
    """Return the content security policy, which allows only this script and style sheet."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _column(report: Report, name: str) -> dict[str, Any]:
    versions = dict.fromkeys(cell.runsc for cell in report.cells(name) if cell.runsc)
    return {
        "name": name,
        "counts": joined(report.counts(name)),
        "cause": escape(report.cause(name)),
        "versions": [escape(version) for version in versions],
        "starts": report.starts(name),
        "used": report.used(name),
    }


def verdict(report: Report) -> tuple[str, State]:
    """Return the outcome of all tests in one sentence, and the state that has its colour."""
    total = len(report.rows)
    kinds = collections.Counter(tuple([cell.state for cell in row.cells]) for row in report.rows)

    def some(*states: State) -> int:
        return sum(count for kind, count in kinds.items() if not {*states}.isdisjoint(kind))

    if failed := some(State.ERROR, State.FAILED):
        return f"failed: {failed} of {_tests(total)}", State.FAILED
    if missing(report):
        return "not finished: shards are missing", State.XPASSED
    if report.uncollected:
        return "not finished: not all tests were collected", State.XPASSED
    if unfinished := some(State.NOT_RUN):
        return f"not finished: {unfinished} of {_tests(total)} did not run", State.XPASSED
    if differing := len(report.differing):
        return f"none failed, but {report.sides} differ in {_tests(differing)}", State.XPASSED
    if some(State.PASSED, State.XPASSED, State.XFAILED):
        if untold := total - some(*(state for state in State if state.tells)):
            return f"none failed, but {untold} of {_tests(total)} could not run", State.XPASSED
        return f"passed: none of {_tests(total)} failed", State.PASSED
    return f"nothing ran: {_tests(total)}", State.SKIPPED


def _tests(count: int) -> str:
    return "1 test" if count == 1 else f"{count} tests"


def _facts(report: Report) -> list[tuple[str, str]]:
    """Return the facts at the top, without those that are unknown."""
    legs = report.legs
    dates = sorted({leg.date for leg in legs if leg.date})
    facts = (
        ("project", [leg.project for leg in legs]),
        ("date", dates[:1] + dates[1:][-1:]),
        ("runsc", [_binary(one) for leg in legs for one in leg.runsc]),
        ("part", [leg.named for leg in legs] if len(legs) == 1 else []),
        ("already inside", [leg.inside for leg in legs]),
        ("platforms", report.platforms),
        ("differ", [_tests(len(report.differing))] if report.differing else []),
        ("not collected", [str(report.uncollected)] if report.uncollected else []),
        ("leaks removed", [str(report.reaped)] if report.reaped else []),
        ("leaks left", [str(report.left)] if report.left else []),
    )
    named = ((name, ", ".join(dict.fromkeys(filter(None, found)))) for name, found in facts)
    return [(name, escape(text)) for name, text in named if text]


def _binary(one: Binary) -> str:
    return ", ".join(filter(None, [one.version, one.origin]))


def _row(report: Report, row: Row, platforms: Sequence[str]) -> dict[str, Any]:
    cells = {cell.platform: cell for cell in row.cells}
    return {
        "test": escape(row.test),
        "parts": re.split(r"(?<=::)|(?<=[/_])", escape(row.test)),
        "differs": row.differs,
        "states": " ".join(dict.fromkeys(cell.state.value for cell in row.cells)),
        "time": max((cell.duration for cell in row.cells), default=0),
        "ratio": max((row.ratio(cell) or 0 for cell in row.cells), default=0),
        "cells": [
            (cell, _time(row, cell), escape(report.place(cell)) if cell else "")
            for cell in map(cells.get, platforms)
        ],
    }


def chart(report: Report) -> dict[str, Any] | None:
    """Place the parts of the chart: a lane a platform, a dot a start, a line at the median."""
    lanes = [(name, times) for name in report.platforms if (times := report.start_times.get(name))]
    if not lanes:
        return None
    step, top = scale(max(times[-1] for _name, times in lanes))

    def x(milliseconds: float) -> float:
        return round(_LEFT + _WIDTH * milliseconds / top, 1)

    drawn = []
    for number, (name, times) in enumerate(lanes):
        starts = report.starts(name)
        assert starts is not None
        middle = _TOP + number * _LANE + _LANE // 2
        kept = times[:: -(-len(times) // MAX_DOTS)]
        drawn.append({
            "name": name,
            "y": middle,
            "median": x(starts.median),
            "dots": [(x(time), middle + (index % 5 - 2) * 4) for index, time in enumerate(kept)],
        })  # fmt: skip
    bottom = _TOP + len(lanes) * _LANE
    ticks = [(x(step * n), f"{step * n:g}") for n in range(round(top / step) + 1)]
    return {
        "lanes": drawn, "ticks": ticks, "top": _TOP, "bottom": bottom, "left": _LEFT,
        "right": _LEFT + _WIDTH, "width": _LEFT + _WIDTH + 40, "height": bottom + 36,
    }  # fmt: skip


def scale(largest: float) -> tuple[float, float]:
    """Return the distance of two ticks, and the end of an axis for ``largest`` in 3 to 8 steps."""
    step = 1.0
    while True:
        for factor in (1, 2, 5):
            if largest <= step * factor * 8:
                steps = max(1, -(-largest // (step * factor)))
                return step * factor, step * factor * steps
        step *= 10
