"""The line on a daemon's work on a terminal."""

from __future__ import annotations

import io

import pytest

from pytest_gvisor.images import progress


def test_work_is_named_and_its_end_is_told() -> None:
    """The line has an escaped name, and says whether the work failed."""
    lines: list[str] = []
    with progress.announced(lines.append, "building a\x1b[2Jb"):
        assert lines == [r"building a\x1b[2Jb: …"]
    with pytest.raises(KeyError), progress.announced(lines.append, "pulling x"):
        raise KeyError
    assert lines[1:] == [
        r"building a\x1b[2Jb: done", "", "pulling x: …", "pulling x: failed", "",
    ]  # fmt: skip
    with progress.announced(None, "x"):
        pass


def test_a_line_takes_the_place_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is cut at the terminal's width, because a longer one would stay on the screen."""
    monkeypatch.setenv("COLUMNS", "11")
    stream = io.StringIO()
    tell = progress.on(stream)
    tell("0123456789x")
    tell("")
    assert stream.getvalue() == "\r\x1b[K0123456789\n"


@pytest.mark.parametrize(("ci", "wanted"), [("", True), ("true", False)])
def test_only_a_terminal_outside_of_ci_is_watched(
    monkeypatch: pytest.MonkeyPatch, ci: str, wanted: bool
) -> None:
    """A log has events, and no progress."""
    monkeypatch.setenv("CI", ci)
    assert progress.is_wanted(terminal=True) is wanted
    assert not progress.is_wanted(terminal=False)


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "…é"), ("latin-1", "?é"), ("ascii", "??")]
)
def test_a_terminal_gets_the_characters_that_it_has(encoding: str, shown: str) -> None:
    """A terminal shows a question mark for a character that its encoding lacks."""
    data = io.BytesIO()
    tell = progress.on(io.TextIOWrapper(data, encoding=encoding))
    tell("…é")
    assert data.getvalue().decode(encoding) == f"\r\x1b[K{shown}"
