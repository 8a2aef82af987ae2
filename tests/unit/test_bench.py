"""The benchmarks' own parts: rounds within a limit, the table in its page, and the plot."""

from __future__ import annotations

import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import document, plot, table
from benchmarks.results import Figure, Result
from benchmarks.timing import Series, interleaved

DOCS = Path(__file__).parents[2] / "docs"


def test_no_round_begins_after_the_limit() -> None:
    """A row ends after the round in which its time is over, and has one value at least."""
    calls: list[str] = []

    def slow() -> None:
        calls.append("slow")
        time.sleep(0.02)

    series = interleaved({"slow": slow}, 50, limit=0.01, is_warm=True)
    assert len(series["slow"].values) == len(calls) == 1


def test_a_cold_row_has_a_round_that_is_not_counted() -> None:
    """The first call of each contender is not among its values, and the limit begins after it."""
    calls: list[str] = []
    series = interleaved({"one": lambda: calls.append("one")}, 3)
    assert (len(series["one"].values), len(calls)) == (3, 4)


def test_a_value_is_shown_with_the_least_one() -> None:
    """The table has the median, and the least value in brackets."""
    result = Result(
        row="fresh", what="ours", against="theirs", figure=Figure.RATIO, target=1.0,
        ours=Series((1.0, 3.0, 2.0)), peer=Series((4.0, 4.0, 5.0)),
    )  # fmt: skip
    line = table.markdown([result]).splitlines()[-1]
    assert "| 2.00 s (1.00 s) |" in line
    assert "| 4.00 s (4.00 s) |" in line


def test_only_the_table_of_the_page_is_replaced(tmp_path: Path) -> None:
    """The text around stays, and a second table takes the place of the first one."""
    page = tmp_path / document.PAGE
    page.write_text((DOCS / document.PAGE).read_text())
    document.write(str(tmp_path), "| first |", None)
    document.write(str(tmp_path), "| second |", "<svg/>")
    before, _, after = page.read_text().partition("| second |")
    original = (DOCS / document.PAGE).read_text()
    assert original.startswith(before.rstrip())
    assert original.endswith(after.lstrip())
    assert "| first |" not in before + after
    assert (tmp_path / document.PLOT).read_text() == "<svg/>"


def test_a_page_without_a_place_for_the_table_is_refused() -> None:
    """Nothing is guessed about a page without the marks."""
    with pytest.raises(ValueError, match="has no place for a table"):
        document.replaced("# Benchmarks\n", "| table |")


def test_the_plot_has_a_line_and_a_name_for_each_way() -> None:
    """The plot is well-formed XML, and more milliseconds a test are higher up."""
    curve = {"host": {1: 0.1, 100: 0.2}, "inside": {1: 0.5, 100: 0.7}}
    root = ET.fromstring(plot.svg(curve))
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in root.iter(f"{space}text")]
    assert {"host", "inside", "1", "100"} <= set(texts)
    heights = [float(circle.attrib["cy"]) for circle in root.iter(f"{space}circle")]
    host_of_one, host_of_all, inside_of_one, _ = heights
    assert inside_of_one < host_of_one < host_of_all
