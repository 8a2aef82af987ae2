"""``pytest-gvisor report``: joins the reports of several runs, and shows one."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from pytest_gvisor.base.errors import ReportError
from pytest_gvisor.base.escape import escape, safe
from pytest_gvisor.cli import parsers
from pytest_gvisor.report import outputs, summary
from pytest_gvisor.report.merging import merge, missing
from pytest_gvisor.report.model import MAX_BYTES, Report
from pytest_gvisor.report.parse import parse as parse_report

_EXAMPLES = (
    "pytest-gvisor report merge systrap.json kvm.json -o matrix.html",
    "pytest-gvisor report show matrix.json",
)


def parser() -> parsers.Parser:
    """The subcommand's options."""
    done = {"0": "done", "125": "a file is no report, or a file cannot be written"}
    all_there = {"0": "done, and no shard is missing", "1": "done, and shards are missing"}
    made = parsers.Parser(
        "report",
        description="Reads reports of pytest's --gvisor-report FILE.json.",
        statuses=done,
        examples=_EXAMPLES,
    )
    actions = made.add_subparsers(dest="action", required=True, metavar="ACTION")
    joins = actions.add_parser(
        "merge",
        help="join reports, such as those of a CI matrix",
        description="Joins reports: the same test on another platform becomes a column. If two "
        "have the same test on the same platform, the worse result is shown and the other named. "
        "Shards of pytest-split have each test once, and those that are missing are named.",
        statuses={**done, **all_there},
        examples=_EXAMPLES[:1],
    )
    joins.add_argument("reports", nargs="+", metavar="FILE.json")
    joins.add_argument(
        "-o", "--output", action="append", required=True, metavar="FILE",
        help="the file to write: .html, .md or .json; may be repeated",
    )  # fmt: skip
    shows = actions.add_parser(
        "show",
        help="print a report as text",
        description="Prints a report as text.",
        statuses=done,
        examples=_EXAMPLES[1:],
    )
    shows.add_argument("reports", nargs=1, metavar="FILE.json")
    return made


def main(arguments: Sequence[str]) -> int:
    """Merge or show reports. Raises `ReportError`, and `OSError` for a file that cannot be read."""
    given = parser().parse_args(arguments)
    if given.action == "show":
        sys.stdout.write("\n".join(text(read(given.reports[0]))) + "\n")
        return 0
    paths = list(map(outputs.check, given.output))
    gc.disable()  # of a million tests, which are no garbage, it would take most of the time
    merged = merge(map(read, given.reports))
    for path in paths:
        if problem := outputs.write(merged, path):
            raise ReportError(f"{escape(path)} could not be written: {problem}")
    lacking = missing(merged)
    for name in lacking:
        print(escape(f"pytest-gvisor report: missing: {name}"), file=sys.stderr)
    return 1 if lacking else 0


def read(path: str) -> Report:
    """Read the report in a file. Raises `ReportError` and `OSError`.

    It may be a pipe that has a writer, as of ``<(…)``. One without is empty, and not waited for.
    """
    with open(path, "rb", opener=outputs.at_once) as file:
        os.set_blocking(file.fileno(), True)
        text = file.read(MAX_BYTES + 1)
    return parse_report(text, where=escape(path))


def text(report: Report) -> list[str]:
    """Return the lines of pytest's summary, and each row."""
    lines = [*summary.differing(report), *summary.figures(report), ""]
    for row in report.rows:
        cells = ", ".join(f"{cell.platform} {cell.state.word}" for cell in row.cells)
        lines.append(f"{summary.one_line(row.test)}: {cells}")
    return [safe(line) for line in lines]
