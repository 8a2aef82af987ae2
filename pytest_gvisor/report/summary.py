"""The part of pytest's summary that is about platforms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from pytest_gvisor.base.escape import safe
from pytest_gvisor.report.merging import missing
from pytest_gvisor.report.model import Cell, Leg, Report, Row, State, joined

_LONGEST = 1000
MAX_ROWS = 50


class Terminal(Protocol):
    """The used methods of pytest's terminal reporter."""

    @property
    def verbosity(self) -> int:
        """The verbosity, below 0 with ``-q``."""

    def section(self, title: str, sep: str = "=", **kw: bool) -> None:
        """Write a title between lines of ``sep``."""

    def write_line(self, line: str | bytes, **markup: bool) -> None:
        """Write a line."""


def show(
    terminal: Terminal, report: Report, written: Sequence[str], problems: Sequence[str]
) -> None:
    """Show the rows that differ, with commands that repeat them, then the figures."""
    if report.differing:
        terminal.section(f"gVisor: {report.sides} differ", "=")
        for line in differing(report):
            terminal.write_line(safe(line))
        for note in report.notes:
            terminal.write_line(safe(one_line(note)))
        for line in figures(report):
            terminal.write_line(safe(line))
    elif report.rows and terminal.verbosity >= 0:
        terminal.write_line(safe("gVisor: " + "; ".join(figures(report))))
    if terminal.verbosity >= 0:
        for leg in report.legs if len(report.hosts) > 1 else ():
            terminal.write_line(safe(one_line(f"gVisor: on {_facts(leg)}")))
        for path in written:
            terminal.write_line(safe(f"gVisor: report written to {path}"))
    for problem in problems:
        terminal.write_line(safe(f"gVisor: {problem}"), red=True)


def differing(report: Report) -> Iterator[str]:
    """Yield each row that differs: its test, its cells, a command."""
    rows = report.differing
    for row in rows[:MAX_ROWS]:
        cells = ", ".join(_cell(report, cell) for cell in row.cells)
        yield f"{one_line(row.test)}: {cells}"
        cell = _telling(row)
        if cell.message:
            # The reason of an expected failure begins with its platform.
            platform = cell.platform.removesuffix(f"-{cell.release}")
            message = one_line(cell.message).removeprefix(f"{platform}: ")
            yield f"  {cell.platform}: {message[:200]}"
        if cell.command:
            yield f"  again: {one_line(cell.command)}"
    if len(rows) > MAX_ROWS:
        yield f"... and {len(rows) - MAX_ROWS} more tests that differ"


def one_line(text: str) -> str:
    """Escape line breaks and cursor movements in a text."""
    return text.replace("\n", "\\n").replace("\t", "\\t")


def _facts(leg: Leg) -> str:
    found = ", ".join(f"runsc {one.version} ({one.path})" for one in leg.runsc) or "no runsc"
    return f"{leg.host}: {found}, kernel {leg.kernel}, Python {leg.python}"


def _cell(report: Report, cell: Cell) -> str:
    """Return ``systrap FAILED``, and the machines and their states if there are several."""
    parts = [f"{_word(cell.state)}{report.place(cell)}"]
    if report.place(cell):
        parts += [f"{_word(o.state)}{report.place(cell, o.leg)}" for o in cell.others]
    return f"{cell.platform} {', '.join(parts)}"


def _word(state: State) -> str:
    return state.word.upper() if state in {State.FAILED, State.ERROR} else state.word


def _telling(row: Row) -> Cell:
    """Choose the cell that explains a difference: the worst, and a pass only after a skip."""
    return min(row.verdicts, key=lambda cell: (cell.state is State.PASSED, cell.state.rank))


def figures(report: Report) -> Iterator[str]:
    """Yield counts and start times, one line a platform, and one line for leaks."""
    for name in report.platforms:
        starts = report.starts(name)
        times = f", {starts}" if starts else ""
        yield f"{name}: {joined(report.counts(name))}{times}"
        if cause := report.cause(name):
            yield f"{name} cannot be used: {one_line(cause)[:_LONGEST]}"
    if lacking := missing(report):
        yield f"MISSING: {', '.join(lacking)}"
    if report.uncollected:
        yield f"NOT COLLECTED: {report.uncollected} files or folders of tests"
    if report.reaped or report.left:
        left = f", {report.left} LEFT" if report.left else ""
        yield f"leaks removed: {report.reaped}{left}"
