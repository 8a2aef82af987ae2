"""The model of docs/scale.md: what is fitted, and that the page has the rows' own."""

from pathlib import Path

import pytest

from benchmarks import document, scale
from benchmarks.grid import Table

DOCS = Path(__file__).parents[2] / "docs"


def test_the_model_finds_what_the_rows_were_made_of() -> None:
    """Sessions of 2 s and 3 ms a test, 40 MiB and 32 KiB a test; 128 ms of processor a run."""
    rows = []
    for n in (100, 1000, 10_000, 100_000):
        told = f"{n:,} trivial tests, `pytest --in-gvisor`"
        rows += [
            ("grows", f"{told}: time of each", f"{2000 / n + 3} ms"),
            ("grows", f"{told}: memory of pytest", f"{40 + n / 32} MiB"),
            ("grows", f"{told}: memory of the sandbox", f"{100 + n / 64} MiB"),
        ]
    for n, each in ((4, "1.00 s"), (256, "32.0 ms (30.0 ms)")):
        rows.append(("full", f"{n} at once of `gvisor.run`: time of all by their number", each))
        rows.append(("full", f"{n} open warm sandboxes: memory of each", "30 MiB"))
    figures, curve = scale.model(Table(("row", "work", "ours (least)"), tuple(rows)), 4)
    found = [value for _, value, _ in figures.rows]
    assert found[:6] == ["2.0 s", "3.0 ms", "40 MiB", "32 KiB", "100 MiB", "16 KiB"]
    assert found[6:] == ["128 ms", "30 MiB", "1.5", "2,700 million"]
    assert curve["model"] == pytest.approx(curve["measured"])


def test_the_page_has_the_model_of_its_rows(tmp_path: Path) -> None:
    """`make bench` with --write makes both; nobody writes a figure by hand."""
    for name in (document.PAGE, scale.PAGE):
        (tmp_path / name).write_text((DOCS / name).read_text())
    scale.write(str(tmp_path))
    for name in (scale.PAGE, scale.PLOT):
        assert (tmp_path / name).read_text() == (DOCS / name).read_text()
