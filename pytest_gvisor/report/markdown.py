"""The report as GitHub-flavoured Markdown: the figures, and a table of tests and platforms."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_gvisor.base.escape import escape
from pytest_gvisor.report.merging import missing
from pytest_gvisor.report.model import Cell, Leg, Report, Row, State, joined

_MARKS = {
    State.PASSED: "✅", State.FAILED: "❌", State.ERROR: "💥", State.SKIPPED: "⏭️",
    State.XFAILED: "☑️", State.XPASSED: "❗", State.UNAVAILABLE: "🚫", State.NOT_RUN: "⬜",
}  # fmt: skip
_MAX_WORDS = 300


def render(report: Report) -> str:
    """Render the report, with a row for each test."""
    top = "\n".join(_top(report)) + "\n"
    if not report.rows:
        return top
    names = report.platforms
    heads = [f"| test | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    return f"{top}\n" + "\n".join([*heads, *(_line(report, r, names) for r in report.rows)]) + "\n"


def _top(report: Report) -> Iterator[str]:
    yield "## gVisor"
    yield ""
    if not report.rows:
        yield "No test belongs to a platform."
    for name in report.platforms:
        facts = [joined(report.counts(name)), report.starts(name)]
        yield f"- **{name}**: {'; '.join(map(str, filter(None, facts)))}"
        if cause := report.cause(name):
            yield f"  - cannot be used: {code(cause)}"
    if len(report.platforms) > 1 or len(report.hosts) > 1:
        yield f"- tests that differ between {report.sides}: {len(report.differing)}"
    yield f"- leaks removed: {report.reaped}" + (f", left: {report.left}" if report.left else "")
    if lacking := missing(report):
        yield f"- **missing**: {', '.join(lacking)}"
    if report.uncollected:
        yield f"- **not collected**: {report.uncollected} files or folders of tests"
    for number, leg in enumerate(report.legs, 1):
        yield f"- run {number}: {_leg(leg)}"
    for note in report.notes:
        yield f"- {code(note)}"
    for row in report.differing[:20]:
        for cell in row.cells:
            if cell.state in {State.FAILED, State.ERROR} and cell.command:
                yield f"- again: {code(cell.command)}"


def _leg(leg: Leg) -> str:
    each = [(one, f", {code(one.origin)}" if one.origin else "") for one in leg.runsc]
    runsc = ", ".join(f"runsc {code(one.version)} ({code(one.path)}{why})" for one, why in each)
    host = f"{leg.named or leg.host}, " if leg.named or leg.host else ""
    facts = f"{host}{leg.kernel} {leg.machine}, pytest {leg.pytest}, {leg.date}"
    where = f"already inside {code(leg.inside)}, " if leg.inside else ""
    return f"{where}{runsc or 'no runsc'}, {code(facts)}"


def _line(report: Report, row: Row, names: tuple[str, ...]) -> str:
    cells = [_cell(report, row.on(name)) for name in names]
    return f"| {code(row.test)} | {' | '.join(cells)} |"


def _cell(report: Report, cell: Cell | None) -> str:
    if cell is None:
        return "-"
    also = "".join(
        f"; run {other.leg + 1}: {other.state.word}{_place(report, cell, other.leg)}"
        for other in cell.others
    )
    return f"{_MARKS[cell.state]} {cell.state.word}{_place(report, cell, cell.leg)}{also}"


def _place(report: Report, cell: Cell, leg: int) -> str:
    place = report.place(cell, leg)
    return f" on {code(place.removeprefix(' on '))}" if place else ""


def code(text: str) -> str:
    """Format untrusted text as a code span, safe in a table's cell."""
    text = re.sub(r"\s+", " ", escape(text)).strip()[:_MAX_WORDS].replace("|", "\\x7c") or " "
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"
