"""The progress of a daemon's work on a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest

from pytest_gvisor.images import progress
from pytest_gvisor.images.progress import Meter


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The list of progress lines, without a pause between two lines."""
    monkeypatch.setattr(progress, "_PAUSE", 0)
    return []


def layer(status: str, name: str = "a", **detail: object) -> dict[str, Any]:
    """An event of a pull."""
    return {"id": name, "status": status, "progressDetail": detail}


def test_layers_and_bytes_of_a_pull_add_up(lines: list[str]) -> None:
    """Layers that exist already count as done."""
    with Meter(lines.append, "pulling x") as meter:
        meter.pulled({"status": "Pulling from x", "id": "latest"})
        meter.pulled(layer("Pulling fs layer"))
        meter.pulled(layer("Downloading", current=500_000, total=2_000_000))
        meter.pulled(layer("Already exists", "b"))
        meter.pulled(layer("Pull complete"))
    assert lines == [
        "pulling x: …",
        "pulling x: 0 of 1 layers, 0.0 MB of 0.0 MB",
        "pulling x: 0 of 1 layers, 0.5 MB of 2.0 MB",
        "pulling x: 1 of 2 layers, 0.5 MB of 2.0 MB",
        "pulling x: 2 of 2 layers, 2.0 MB of 2.0 MB",
        "pulling x: done, 2.0 MB",
        "",
    ]


def test_steps_of_a_build_and_bytes_of_an_export_are_shown(lines: list[str]) -> None:
    """The output of a build's programs is not shown, and shown text is escaped."""
    with Meter(lines.append, "building a\x1b[2Jb") as meter:
        meter.built({"stream": "Step 1/2 : FROM \x1b]0;x\x07scratch\n"})
        meter.built({"stream": "rubbish"})
        meter.built({"aux": {"ID": "sha256:x"}})
    with Meter(lines.append, "exporting") as meter:
        meter.moved(1_500_000)
    assert lines == [
        r"building a\x1b[2Jb: …",
        r"building a\x1b[2Jb: Step 1/2 : FROM \x1b]0;x\x07scratch",
        r"building a\x1b[2Jb: done",
        "",
        "exporting: …",
        "exporting: 1.5 MB",
        "exporting: done, 1.5 MB",
        "",
    ]


@pytest.mark.fault("H6")
def test_a_failure_is_the_last_line(lines: list[str]) -> None:
    """A failure's line follows any progress."""
    with pytest.raises(KeyError), Meter(lines.append, "pulling x"):
        raise KeyError
    assert lines[-2:] == ["pulling x: failed", ""]


@pytest.mark.fault("H6")
@pytest.mark.parametrize(
    "event",
    [
        {},
        {"status": None, "id": 3},
        {"status": "Downloading", "id": "a", "progressDetail": "much"},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": -1, "total": "x"}},
        {"stream": 7},
    ],
)
def test_events_of_no_known_shape_do_no_harm(lines: list[str], event: dict[str, Any]) -> None:
    """A daemon's events may have any shape."""
    with Meter(lines.append, "x") as meter:
        meter.pulled(event)
        meter.built(event)
    assert lines[-2:] == ["x: done", ""]


def test_not_every_event_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pull has thousands of events; and the monotonic clock of a machine may have just begun."""
    monkeypatch.setattr(progress, "_PAUSE", 1000)
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    lines: list[str] = []
    with Meter(lines.append, "x") as meter:
        for _ in range(1000):
            meter.moved(1_000)
    assert lines == ["x: …", "x: done, 1.0 MB", ""]


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


def test_nobody_watches_and_nothing_is_told() -> None:
    """Progress without a listener is ignored."""
    with Meter(None, "x") as meter:
        meter.moved(1)
        meter.built({})
        meter.pulled({})


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "…é"), ("latin-1", "?é"), ("ascii", "??")]
)
def test_a_terminal_gets_the_characters_that_it_has(encoding: str, shown: str) -> None:
    """A terminal shows a question mark for a character that its encoding lacks."""
    data = io.BytesIO()
    tell = progress.on(io.TextIOWrapper(data, encoding=encoding))
    tell("…é")
    assert data.getvalue().decode(encoding) == f"\r\x1b[K{shown}"
