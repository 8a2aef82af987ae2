"""The reader of report files: every field is checked, for the texts are shown to people."""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pytest_gvisor.errors import ReportError
from pytest_gvisor.guest.checked_json import loads
from pytest_gvisor.report.model import MAX_NUMBER, SCHEMA, Leg, PlatformName, Report, Row, State

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
    below = {"peak_memory": _MOST_BYTES}
    top = _Object(content, where, below)
    schema = top.whole("schema")
    if schema != SCHEMA:
        raise ReportError(
            f"{where}: schema {schema}, and this version reads {SCHEMA}",
            next_step="Use the version of pytest-gvisor that has written it.",
        )
    legs = top.each("legs", lambda entry: entry.made(Leg))
    below["leg"] = len(legs)
    rows = top.each("tests", _row)
    names = [row.test for row in rows]
    if len(set(names)) != len(names):
        raise top.wrong("tests", "has a test twice")
    return Report(legs=legs, rows=rows, notes=top.texts("notes"))


class _Object:
    """One JSON object, with its place in the report.

    ``below`` has the bounds of whole numbers that are not the usual one.
    """

    def __init__(self, value: object, where: str, below: Mapping[str, int]) -> None:
        self.where = where
        self._below = below
        if not isinstance(value, dict):
            raise ReportError(f"{where}: not an object")
        self._value: dict[str, Any] = value

    def wrong(self, name: str, text: str) -> ReportError:
        return ReportError(f"{self.where}: {name} {text}")

    def made(self, cls: type[_Made]) -> _Made:
        """Return a value of the model; its annotations tell how each field is read."""
        make: Any = cls
        fields = {name: self._field(name, hint, must) for name, hint, must in _fields(make)}
        made: _Made = make(**fields)
        return made

    def _field(self, name: str, hint: Any, must: bool) -> object:
        if typing.get_origin(hint) is tuple:
            item: Any = typing.get_args(hint)[0]
            if item not in (float, str):
                return self.each(name, lambda entry: entry.made(item))
            return self.numbers(name) if item is float else self.texts(name)
        if hint is str:
            return self.text(name, None if must else "")
        read = {PlatformName: self.name, State: self.state, int: self.whole, float: self.number}
        return read[hint](name)

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

    def whole(self, name: str) -> int:
        value, below = self._value.get(name, 0), self._below.get(name, 1_000_000_000)
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
        return tuple(
            make(_Object(entry, f"{self.where}: {name}[{number}]", self._below))
            for number, entry in entries
        )


def _row(entry: _Object) -> Row:
    row = entry.made(Row)
    names = [cell.platform for cell in row.cells]
    if len(set(names)) != len(names):
        raise entry.wrong("cells", "has a platform twice")
    return row


@functools.cache
def _fields(cls: Any) -> list[tuple[str, Any, bool]]:
    """Return each field of a class of the model: its name, its annotation, and if it must be."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = dataclasses.fields(cls)
    return [(field.name, hints[field.name], field.default is dataclasses.MISSING)
            for field in fields]  # fmt: skip
