"""The report as GitHub-flavoured Markdown: the figures, and a table of tests and platforms."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_gvisor.base.escape import escape
from pytest_gvisor.report.merging import missing
from pytest_gvisor.report.model import Cell, Leg, Report, Row, State, failures_first, joined

_MARKS = {
    State.PASSED: "✅", State.FAILED: "❌", State.ERROR: "💥", State.SKIPPED: "⏭️",
    State.XFAILED: "☑️", State.XPASSED: "❗", State.UNAVAILABLE: "🚫", State.NOT_RUN: "⬜",
}  # fmt: skip
_MAX_WORDS = 300


def render(report: Report, budget: int | None = None) -> str:
    """Render the report; with a budget in bytes of UTF-8, only the rows that fit, and their number.

    With a budget the failures come first, then the rows that differ.
    """
    top = "\n".join(_top(report)) + "\n"
    numbered = enumerate(report.rows)
    ordered = numbered if budget is None else failures_first(numbered)
    rows = [row for _number, row in ordered]
    if not rows:
        return top
    names = report.platforms
    heads = [f"| test | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines = [*heads]
    room = None if budget is None else budget - len(f"{top}\n{heads}\n".encode()) - 200
    shown = 0
    for row in rows:
        line = _line(report, row, names)
        if room is not None:
            room -= len(line.encode()) + 1
            if room < 0:
                break
        lines.append(line)
        shown += 1
    if shown < len(rows):
        left = len(rows) - shown
        lines += ["", f"{left} of {len(rows)} tests are left out: the summary is full."]
    return f"{top}\n" + "\n".join(lines) + "\n"


def _top(report: Report) -> Iterator[str]:
    yield "## gVisor"
    yield ""
    if not report.rows:
        yield "No test belongs to a platform."
    for name in report.platforms:
        facts = [joined(report.counts(name)), report.starts(name), report.used(name)]
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
