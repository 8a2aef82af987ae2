"""The report as one HTML file without external resources.

Its policy (CSP) allows exactly the one script and the one style sheet that are in it, by their
hashes; every text is escaped by us, and by Jinja2.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from pytest_gvisor.escape import escape
from pytest_gvisor.report.model import Cell, Report, Row, State, Used, joined

MAX_DOTS = 500
"""How many starts of a platform are drawn; the figures beside the chart are of all of them."""

_LEFT, _WIDTH, _LANE, _TOP = 90, 600, 44, 10
_MARKS = {
    State.PASSED: "✓", State.FAILED: "✗", State.ERROR: "!", State.SKIPPED: "»",
    State.XFAILED: "≈", State.XPASSED: "≠", State.UNAVAILABLE: "⊘", State.NOT_RUN: "○",
}  # fmt: skip


def render(report: Report) -> str:
    """Render the whole document."""
    import jinja2  # noqa: PLC0415 -- costs more than all of the report's own modules

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pytest_gvisor.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source = environment.loader
    assert source is not None
    script, _, _ = source.get_source(environment, "report.js")
    style, _, _ = source.get_source(environment, "report.css")
    return environment.get_template("report.html.j2").render(
        csp=policy(script, style),
        script=script,
        style=style,
        report=report,
        platforms=[_column(report, name) for name in report.platforms],
        measured=any(report.used(name) for name in report.platforms),
        rows=[_row(row, report.platforms) for row in report.rows],
        states=[state for state in State if any(report.counts(p).get(state) for p in
                                                report.platforms)],
        marks=_MARKS,
        chart=chart(report),
        details=details(report),
        show=escape,
    )  # fmt: skip


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


def _row(row: Row, platforms: Sequence[str]) -> dict[str, Any]:
    return {
        "parts": re.split(r"(?<=::)|(?<=/)", escape(row.test)),
        "differs": row.differs,
        "states": " ".join(dict.fromkeys(cell.state.value for cell in row.cells)),
        "cells": [row.on(name) for name in platforms],
    }


def details(report: Report) -> str:
    """Return the details of the cells as JSON for a script element."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for number, row in enumerate(report.rows):
        found[str(number)] = {
            cell.platform: _detail(report, row, cell)
            for cell in row.cells
        }  # fmt: skip
    text = json.dumps(found, separators=(",", ":"))
    # ASCII already; no "</script>" and no "<!--" can be in it.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _detail(report: Report, row: Row, cell: Cell) -> dict[str, Any]:
    used = Used.by([cell])
    facts = [
        ("test", cell.nodeid or row.test),
        ("state", cell.state.word),
        ("why", cell.message),
        ("runsc", cell.runsc),
        ("network", cell.network),
        ("duration", f"{cell.duration:.2f} s"),
        ("sandbox starts", ", ".join(f"{start:g} ms" for start in cell.starts_ms)),
        ("processor time", used.cpu_time if used else ""),
        ("peak memory", used.peak_memory if used else ""),
        ("peak of tasks", used.peak_tasks if used else ""),
        ("leg", _leg(report, cell.leg) if len(report.legs) > 1 else ""),
        ("other runs", "\n".join(f"{_leg(report, o.leg)}: {o.state.word}" for o in cell.others)),
        ("again", cell.command),
    ]
    runs = [
        [
            (name, escape(text))
            for name, text in (
                ("argv", run.args), ("ended", run.ended), ("standard output", run.stdout),
                ("standard error", run.stderr), ("runsc's command", run.command),
                ("config.json", run.config), ("log", run.log),
            )
            if text
        ]
        for run in cell.runs
    ]  # fmt: skip
    return {
        "title": f"{escape(row.test)} on {cell.platform}",
        "facts": [(name, escape(text)) for name, text in facts if text],
        "output": escape(cell.output),
        "runs": runs,
    }


def _leg(report: Report, number: int) -> str:
    leg = report.legs[number]
    versions = ", ".join(f"runsc {one.version}" for one in leg.runsc)
    return f"{number} ({', '.join(filter(None, [versions, leg.kernel, leg.date]))})"


def chart(report: Report) -> dict[str, Any] | None:
    """Place the parts of the chart: a lane a platform, a dot a start, a line at the median."""
    measured = [(name, sorted(report.start_times(name))) for name in report.platforms]
    lanes = [(name, times) for name, times in measured if times]
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
