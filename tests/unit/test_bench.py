"""The benchmarks' own parts: rounds within a limit, the tables in their page, and the plot."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path

import pytest

from benchmarks import document, table
from benchmarks.grid import Table
from benchmarks.results import Figure, Result
from benchmarks.soak import Sample, growth, is_steady
from benchmarks.timing import Series, interleaved

DOCS = Path(__file__).parents[2] / "docs"
ORDER = ("fresh", "exec", "idle")
HEAD = ("row", "figure")


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
    (row,) = table.of_results([result]).rows
    assert row[2:5] == ("2.00 s (1.00 s)", "theirs", "4.00 s (4.00 s)")


def test_a_table_is_read_as_it_was_written() -> None:
    """Padding goes, and an escaped bar is part of its cell."""
    written = Table(("row", "work"), (("output", "`runsc … \\| cat`"), ("exec", "")))
    assert Table.parse(f"text\n\n{written.markdown()}\n\nmore text\n") == written


def test_rows_of_the_same_name_are_replaced() -> None:
    """Two old rows may become one, other rows stay, and all have the order of their names."""
    old = Table(HEAD, (("idle", "1"), ("exec", "2"), ("exec", "3"), ("other", "4")))
    newer = Table(HEAD, (("exec", "5"), ("fresh", "6")))
    rows = old.updated(newer, ORDER).rows
    assert rows == (("fresh", "6"), ("exec", "5"), ("idle", "1"), ("other", "4"))


def page_of(*measured: tuple[dict[str, Table], str]) -> str:
    """A page of only its marks, after these measurements and their dates."""
    kinds = (*document.KINDS, document.MEASUREMENTS)
    page = "\n\n".join(f"Text.\n\n{''.join(document.marks(kind))}" for kind in kinds)
    for tables, date in measured:
        page = document.updated(page, tables, {"date": date}, ORDER)
    return page


def test_each_row_of_the_page_names_its_measurement() -> None:
    """Rows that a later run did not measure keep the date of theirs."""
    both = {"results": Table(HEAD, (("fresh", "1"), ("idle", "2"))), "steps": Table(HEAD)}
    one = {"results": Table(HEAD, (("idle", "3"),)), "steps": Table(HEAD, (("exec", "4"),))}
    page = page_of((both, "Monday"), (one, "Tuesday"))
    assert re.findall(r"\| (\w+) +\| (\w+) +\| (\w) +\|", page) == [
        ("fresh", "1", "A"), ("idle", "3", "B"), ("exec", "4", "B"),
    ]  # fmt: skip
    assert re.findall(r"\| (\w)  \| (\w+day) +\|", page) == [("A", "Monday"), ("B", "Tuesday")]


def test_only_the_tables_of_the_page_are_replaced(tmp_path: Path) -> None:
    """The text around stays, and the plot lies beside the page."""
    page = tmp_path / document.PAGE
    original = (DOCS / document.PAGE).read_text()
    page.write_text(original)
    tables = {"results": Table(HEAD, (("fresh", "one of now"),))}
    document.write(str(tmp_path), tables, {"date": "today"}, ORDER, "<svg/>")
    changed = page.read_text()
    assert "| fresh | one of now | A  |" in changed
    lines = [line for line in changed.splitlines() if line not in original.splitlines()]
    assert all(line.startswith("|") for line in lines)
    assert (tmp_path / document.PLOT).read_text() == "<svg/>"


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    """Nothing is guessed about a page without the marks."""
    with pytest.raises(ValueError, match="has no place for a table"):
        document.updated("# Benchmarks\n", {"results": Table(HEAD)}, {}, ORDER)


STILL = Sample(
    memory=40.0, descriptors=20, threads=4, entries=30, sandboxes=6, blocks=10**5, done=0
)


def grown(a_sandbox: float, count: int = 300, **rates: float) -> dict[str, float]:
    """`growth` of ten minutes in which so many blocks are kept of each sandbox.

    ``rates`` is what else grows with each measurement.
    """
    samples = [
        dataclasses.replace(
            STILL,
            done=26 * number,
            blocks=10**5 + int(a_sandbox * 26 * number) + number % 7 * 30,
            **{name: getattr(STILL, name) + rate * number for name, rate in rates.items()},
        )
        for number in range(count)
    ]
    return {field.name: growth(samples, field.name) for field in dataclasses.fields(Sample)}


def test_what_differs_from_one_moment_to_the_next_is_no_growth() -> None:
    """Varying counts of sandboxes in progress are no growth."""
    assert is_steady(grown(0))


@pytest.mark.parametrize("name", ["descriptors", "threads", "entries", "sandboxes"])
def test_more_that_is_under_way_when_it_is_counted_is_no_growth(name: str) -> None:
    """In a short run most measurements of the last quarter may meet a burst of eight."""
    samples = [
        dataclasses.replace(STILL, **{name: getattr(STILL, name) + (0 if number % 4 else 8)})
        for number in range(30)
    ]
    samples += [
        dataclasses.replace(STILL, **{name: getattr(STILL, name) + (8 if number % 4 else 0)})
        for number in range(10)
    ]
    assert growth(samples, name) == 0


@pytest.mark.parametrize("kept", [1, 4, 20])
def test_an_object_that_is_kept_of_each_sandbox_is_growth(kept: int) -> None:
    """A small object is counted, since its memory is less than an allocator's variation."""
    assert not is_steady(grown(kept))


@pytest.mark.parametrize("name", ["memory", "descriptors", "threads", "entries", "sandboxes"])
def test_whatever_else_becomes_more_is_growth(name: str) -> None:
    """One for each two seconds."""
    assert is_steady(grown(0, **{name: 0}))
    assert not is_steady(grown(0, **{name: 1}))
