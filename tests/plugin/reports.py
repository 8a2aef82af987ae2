"""The report that a project has written."""

from pathlib import Path

from pytest_gvisor.report.model import Cell, Report
from pytest_gvisor.report.parse import parse


def read(folder: Path, name: str = "r.json") -> Report:
    """The report that a run has written."""
    return parse((folder / name).read_bytes())


def cells(report: Report, platform: str) -> dict[str, Cell]:
    """The cells of a column, by the test's name."""
    return {
        row.test.partition("::")[2]: cell
        for row in report.rows
        if (cell := row.on(platform)) is not None
    }
