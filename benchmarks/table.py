"""The table: as Markdown, which can be read as it is, and as JSON with every single value."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.grid import Table
from benchmarks.results import Figure, Missing, Phase, Result
from benchmarks.timing import Series
from pytest_gvisor.programs.proc import mounts

SCHEMA = 1
_OF_TIMES = (Figure.RATIO, Figure.DIFFERENCE, Figure.TIME)
_HEAD = (
    "row", "work", "ours (least)", "against", "peer (least)", "figure (95 %)", "target", "",
)  # fmt: skip


def versions(runsc: str, sandbox_platform: str, session: str) -> dict[str, str]:
    """The date, the versions and the machine of the figures."""
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "pytest-gvisor": importlib.metadata.version("pytest-gvisor"),
        "Python": platform.python_version(),
        "pytest": importlib.metadata.version("pytest"),
        "runsc": f"{runsc} ({sandbox_platform})",
        "kernel": re.split(r"[^\d.]", platform.release())[0],
        "session folder": _file_system(session),
        "processors": str(len(os.sched_getaffinity(0))),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def _file_system(path: str) -> str:
    """The type of the file system that holds ``path``: making files costs more on some."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    kinds = (mount.kind for mount in mounts() if mount.device == number)
    return next(kinds, "an unknown file system")


def of_results(results: Sequence[Result]) -> Table:
    """The results, a row each."""
    return Table(_HEAD, tuple(map(_cells, results)))


def of_steps(row: str, steps: Sequence[Phase]) -> Table:
    """The steps of a run with their median times."""
    rows = tuple((row, step.name, _seconds(step.seconds.median)) for step in steps)
    return Table(("row", "step of a run", "median"), rows)


def _cells(result: Result) -> tuple[str, ...]:
    peer = _amounts(result, result.peer) if result.peer else "-"
    ours = _amounts(result, result.ours)
    target = _figure(result, result.target)
    verdict = "met" if result.met else "missed"
    figure = _figure(result, result.value)
    if result.interval is not None:
        figure += " ({} to {})".format(*(_figure(result, bound) for bound in result.interval))
    return result.row, result.what, ours, result.against, peer, figure, target, verdict


def _amounts(result: Result, series: Series) -> str:
    """The median, and the minimum of more than one value."""
    if result.figure is Figure.LARGEST or len(series.values) == 1:
        return _amount(result, series.median)
    return f"{_amount(result, series.median)} ({_amount(result, series.least)})"


def _amount(result: Result, value: float) -> str:
    return _seconds(value) if result.figure in _OF_TIMES else _figure(result, value)


def _figure(result: Result, value: float) -> str:
    match result.figure:
        case Figure.RATIO:
            return f"{value:.3f}" if value < 10 else f"{value:.0f}"
        case Figure.DIFFERENCE:
            return f"{value * 1000:+.1f} ms"
        case Figure.TIME:
            return _seconds(value)
        case Figure.LARGEST:
            return f"{value:.0f} MiB"
        case Figure.COUNT:
            return f"{value:.1f}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def verdicts(results: Sequence[Result], missing: Sequence[Missing]) -> Iterator[str]:
    """The lines that name the rows with a missed target and the rows without a figure."""
    missed = [
        f"{result.row} ({_figure(result, result.value)})" for result in results if not result.met
    ]
    if missed:
        yield "target missed: " + ", ".join(missed)
    for entry in missing:
        yield f"{entry.row}: {'FAILED' if entry.failed else 'not measured'}: {entry.why}"


def as_json(
    about: Mapping[str, str],
    results: Sequence[Result],
    phases: Sequence[Phase],
    missing: Sequence[Missing],
) -> dict[str, object]:
    """Everything, every single value included."""
    return {
        "schema": SCHEMA,
        "versions": dict(about),
        "results": [
            {
                "row": result.row,
                "what": result.what,
                "against": result.against,
                "figure": result.figure.value,
                "value": result.value,
                "interval": result.interval,
                "target": result.target,
                "met": result.met,
                "ours": result.ours.values,
                "peer": result.peer.values if result.peer else None,
            }
            for result in results
        ],
        "phases": {phase.name: phase.seconds.values for phase in phases},
        "missing": {entry.row: {"why": entry.why, "failed": entry.failed} for entry in missing},
    }
