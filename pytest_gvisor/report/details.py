"""The details of the cells in the HTML report, as JSON that its script reads."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.setting_values import NATIVE
from pytest_gvisor.report.model import Cell, Report, Row, State, Used

_CAPTURED = re.compile(r"^--- Captured \w+ \w+ ---$", re.MULTILINE)
"""The title of pytest's first section after a traceback."""


def details(report: Report, rows: Sequence[tuple[int, Row]]) -> str:
    """Return the details of the cells of numbered rows as JSON for a script element."""
    found = {}
    for number, row in rows:
        # A row may have hundreds of cells, and has at most eight states.
        against = {state: counterpart(row, state) for state in {cell.state for cell in row.cells}}
        found[number] = {
            cell.platform: {"against": against[cell.state], **_detail(report, row, cell)}
            for cell in row.cells
        }
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
        ("duration", f"{cell.duration:.2f} s" if cell.duration else ""),
        ("against native", as_ratio(row.ratio(cell))),
        ("sandbox starts", ", ".join(f"{start:g} ms" for start in cell.starts_ms)),
        ("processor time", used.cpu_time if used else ""),
        ("peak memory", used.peak_memory if used else ""),
        ("peak of tasks", used.peak_tasks if used else ""),
        ("run", _leg(report, cell.leg) if len(report.legs) > 1 else ""),
        ("other runs", "\n".join(f"{_leg(report, o.leg)}: {o.state.word}" for o in cell.others)),
        ("again", cell.command),
    ]
    runs = [
        [
            (name, escape(text))
            for name, text in (
                ("command", run.args), ("ended", run.ended), ("standard output", run.stdout),
                ("standard error", run.stderr), ("what it did", run.trace),
                ("runsc's command line", run.command), ("config.json", run.config),
                ("log", run.log),
            )
            if text
        ]
        for run in cell.runs
    ]  # fmt: skip
    return {
        "state": cell.state.word,
        "title": f"{escape(row.test)} on {cell.platform}",
        "facts": [(name, escape(text)) for name, text in facts if text],
        "output": [(name, escape(text)) for name, text in parts(cell) if text],
        "runs": runs,
    }


def counterpart(row: Row, state: State) -> str:
    """Return the platform to compare a state with: one of another verdict, the host at best."""
    found = [one for one in row.verdicts if one.state is not state]
    if not state.tells or not found:
        return ""
    best = min(found, key=lambda one: (one.platform != NATIVE, one.state is not State.PASSED))
    return best.platform


def as_ratio(ratio: float | None) -> str:
    """Return a ratio as text, or nothing if there is none."""
    return "" if ratio is None else f"×{ratio:.{1 if ratio < 100 else 0}f}"  # noqa: RUF001


def parts(cell: Cell) -> list[tuple[str, str]]:
    """Return what pytest has written on a test: its traceback, and what was captured."""
    if cell.state not in {State.FAILED, State.ERROR}:
        return [("captured output", cell.output)]
    found = _CAPTURED.search(cell.output)
    end = found.start() if found else len(cell.output)
    return [("traceback", cell.output[:end]), ("captured output", cell.output[end:])]


def _leg(report: Report, number: int) -> str:
    leg = report.legs[number]
    versions = ", ".join(f"runsc {one.version}" for one in leg.runsc)
    facts = (leg.named or leg.host, versions, leg.kernel, leg.date)
    return f"{number + 1} ({', '.join(filter(None, facts))})"
