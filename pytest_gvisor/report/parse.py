"""The reader of report files: every field is checked, for the texts are shown to people."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from pytest_gvisor.errors import ReportError
from pytest_gvisor.guest.checked_json import loads
from pytest_gvisor.report.model import (
    MAX_NUMBER,
    SCHEMA,
    Binary,
    Cell,
    Column,
    Leg,
    Other,
    Report,
    Row,
    Run,
    State,
)

MAX_BYTES = 256 * 1024 * 1024
MAX_TEXT = 1024 * 1024
MAX_LIST = 1_000_000
_MOST_BYTES = 2**63
"""More than a cgroup counts."""
_PLATFORM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,64}")
_Made = TypeVar("_Made")


def parse(data: bytes | str, *, where: str = "report") -> Report:
    """Read a report. Raises `ReportError` that names ``where`` and the place in it."""
    if len(data) > MAX_BYTES:
        raise ReportError(f"{where}: larger than {MAX_BYTES} bytes")
    try:
        content = loads(data)
    except ValueError as error:
        raise ReportError(f"{where}: not JSON: {error}") from None
    top = _Object(content, where)
    schema = top.whole("schema")
    if schema != SCHEMA:
        raise ReportError(
            f"{where}: schema {schema}, and this version reads {SCHEMA}",
            next_step="Use the version of pytest-gvisor that has written it.",
        )
    legs = top.each("legs", _leg)
    rows = top.each("tests", lambda entry: _row(entry, len(legs)))
    names = [row.test for row in rows]
    if len(set(names)) != len(names):
        raise top.wrong("tests", "has a test twice")
    return Report(legs=legs, rows=rows, notes=top.texts("notes"))


class _Object:
    """One JSON object, with its place in the report."""

    def __init__(self, value: object, where: str) -> None:
        self.where = where
        if not isinstance(value, dict):
            raise ReportError(f"{where}: not an object")
        self._value: dict[str, Any] = value

    def wrong(self, name: str, text: str) -> ReportError:
        return ReportError(f"{self.where}: {name} {text}")

    def text(self, name: str, default: str | None = "") -> str:
        value = self._value.get(name, default)
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise self.wrong(name, f"is not a text of at most {MAX_TEXT} characters")
        return value

    def name(self, name: str) -> str:
        value = self.text(name, None)
        if not _PLATFORM.fullmatch(value):
            raise self.wrong(name, "is not the name of a platform")
        return value

    def state(self, name: str) -> State:
        value = self.text(name, None)
        try:
            return State(value)
        except ValueError:
            raise self.wrong(name, f"is none of {', '.join(State)}") from None

    def whole(self, name: str, below: int = 1_000_000_000) -> int:
        value = self._value.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < below:
            raise self.wrong(name, f"is not a whole number below {below}")
        return value

    def number(self, name: str) -> float:
        return self._number(name, self._value.get(name, 0.0))

    def _number(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "is not a number")
        if not 0 <= value <= MAX_NUMBER:
            raise self.wrong(name, f"is not a number from 0 to {MAX_NUMBER:g}")
        return float(value)

    def _list(self, name: str) -> list[object]:
        value = self._value.get(name, [])
        if not isinstance(value, list) or len(value) > MAX_LIST:
            raise self.wrong(name, f"is not a list of at most {MAX_LIST} entries")
        return value

    def numbers(self, name: str) -> tuple[float, ...]:
        return tuple(self._number(name, entry) for entry in self._list(name))

    def texts(self, name: str) -> tuple[str, ...]:
        found = [entry for entry in self._list(name) if isinstance(entry, str)]
        if len(found) != len(self._list(name)) or any(len(entry) > MAX_TEXT for entry in found):
            raise self.wrong(name, "is not a list of texts")
        return tuple(found)

    def each(self, name: str, make: Callable[[_Object], _Made]) -> tuple[_Made, ...]:
        entries = enumerate(self._list(name))
        return tuple(make(_Object(e, f"{self.where}: {name}[{n}]")) for n, e in entries)


def _leg(entry: _Object) -> Leg:
    return Leg(
        project=entry.text("project"),
        date=entry.text("date"),
        kernel=entry.text("kernel"),
        machine=entry.text("machine"),
        python=entry.text("python"),
        pytest=entry.text("pytest"),
        plugin=entry.text("plugin"),
        runsc=entry.each("runsc", lambda e: Binary(version=e.text("version"), path=e.text("path"))),
        platforms=entry.each(
            "platforms", lambda e: Column(name=e.name("name"), cause=e.text("cause"))
        ),
        reaped=entry.whole("reaped"),
        left=entry.whole("left"),
    )


def _row(entry: _Object, legs: int) -> Row:
    cells = entry.each("cells", lambda cell: _cell(cell, legs))
    names = [cell.platform for cell in cells]
    if len(set(names)) != len(names):
        raise entry.wrong("cells", "has a platform twice")
    return Row(test=entry.text("test", None), cells=cells)


def _cell(entry: _Object, legs: int) -> Cell:
    return Cell(
        platform=entry.name("platform"),
        state=entry.state("state"),
        leg=entry.whole("leg", legs),
        nodeid=entry.text("nodeid"),
        runsc=entry.text("runsc"),
        release=entry.text("release"),
        network=entry.text("network"),
        duration=entry.number("duration"),
        starts_ms=entry.numbers("starts_ms"),
        cpu_time=entry.number("cpu_time"),
        peak_memory=entry.whole("peak_memory", _MOST_BYTES),
        peak_tasks=entry.whole("peak_tasks"),
        message=entry.text("message"),
        output=entry.text("output"),
        runs=entry.each("runs", _run),
        command=entry.text("command"),
        others=entry.each("others", lambda other: _other(other, legs)),
    )


def _other(entry: _Object, legs: int) -> Other:
    return Other(
        leg=entry.whole("leg", legs),
        state=entry.state("state"),
        starts_ms=entry.numbers("starts_ms"),
    )


def _run(entry: _Object) -> Run:
    names = ("args", "command", "ended", "stdout", "stderr", "config", "log")
    return Run(**{name: entry.text(name) for name in names})
