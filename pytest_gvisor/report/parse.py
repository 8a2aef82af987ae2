"""The reader of report files: every field is checked, for the texts are shown to people."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_gvisor.base.errors import ReportError
from pytest_gvisor.guest.wire.checked_json import loads, unique
from pytest_gvisor.report.merging import refuse_strangers
from pytest_gvisor.report.model import (
    MAX_NUMBER,
    MAX_SHARDS,
    SCHEMA,
    Leg,
    PlatformName,
    Report,
    Row,
    State,
)

MAX_BYTES = 256 * 1024 * 1024
MAX_TEXT = 1024 * 1024
MAX_LIST = 1_000_000
_SHORT = 32
MAX_PLATFORMS = 256
"""Columns: each row has a place for each of them in every form."""

_PLATFORM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,64}")

_STATES = {state.value: state for state in State}


class _Wrong(Exception):
    """A value breaks a rule; the names that lead to it are put in front on the way up."""

    def __init__(self, complaint: str) -> None:
        super().__init__(complaint)
        self.path: list[str] = []

    def within(self, name: str) -> _Wrong:
        """Put the name of a field, or an index in brackets, in front of the path."""
        if self.path and self.path[0].startswith("["):
            name += self.path.pop(0)
        self.path.insert(0, name)
        return self

    def __str__(self) -> str:
        """Return the path and the complaint."""
        return ": ".join(self.path) + str(self.args[0])


def _kind(
    is_right: Callable[[Any], bool], complaint: str, convert: Callable[[Any], Any] | None = None
) -> Callable[[Any], Any]:
    """Return the reader of a value that is not made of others."""

    def read(value: Any) -> Any:
        if not is_right(value):
            raise _Wrong(f" {complaint}")
        return value if convert is None else convert(value)

    return read


@functools.lru_cache(MAX_PLATFORMS)
def _is_platform(text: str) -> bool:
    return _PLATFORM.fullmatch(text) is not None


def _read_text(value: Any) -> str:
    if type(value) is not str or len(value) > MAX_TEXT:
        raise _Wrong(f" is not a text of at most {MAX_TEXT} characters")
    return sys.intern(value) if len(value) <= _SHORT else value  # as the same version in each cell


_KINDS: Mapping[Any, Callable[[Any], Any]] = {
    str: _read_text,
    PlatformName: _kind(
        lambda value: isinstance(value, str) and _is_platform(value),
        "is not the name of a platform",
        sys.intern,
    ),
    State: _kind(
        lambda value: isinstance(value, str) and value in _STATES,
        f"is none of {', '.join(State)}",
        _STATES.__getitem__,
    ),
    bool: _kind(lambda value: isinstance(value, bool), "is neither true nor false"),
    int: _kind(
        lambda value: type(value) is int and 0 <= value < 2**63,  # no cgroup counts further
        "is not a whole number below 2**63",
    ),
    float: _kind(
        lambda value: type(value) in (int, float) and 0 <= value <= MAX_NUMBER,
        f"is not a number from 0 to {MAX_NUMBER:g}",
        float,
    ),
}
"""The reader for each annotation of a field of the model."""


def parse(data: bytes | str, *, where: str = "report", first_leg: int = 0) -> Report:
    """Read a report. Raises `ReportError` that names ``where`` and the place in it.

    ``first_leg`` is the index of its first leg in a merge: the cells count from there.
    """
    if len(data) > MAX_BYTES:
        raise ReportError(f"{where}: larger than {MAX_BYTES} bytes")
    try:
        content = loads(data, pairs=unique)
    except ValueError as error:
        raise ReportError(f"{where}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ReportError(f"{where}: not an object")
    try:
        schema = _KINDS[int](content.get("schema"))
    except _Wrong as wrong:
        raise ReportError(f"{where}: {wrong.within('schema')}") from None
    if schema != SCHEMA:
        raise ReportError(
            f"{where}: schema {schema}, and this version reads {SCHEMA}",
            next_step="Use the version of pytest-gvisor that has written it.",
        )
    kinds = {"legs": tuple[Leg, ...], "tests": tuple[Row, ...], "notes": tuple[str, ...]}
    found = {}
    for name, hint in kinds.items():
        try:
            found[name] = _reader(hint, first_leg)(content.pop(name, []))
        except _Wrong as wrong:
            raise ReportError(f"{where}: {wrong.within(name)}") from None
    report = Report(legs=found["legs"], rows=found["tests"], notes=found["notes"])
    _check(report, where, first_leg + len(report.legs))
    return report


def _check(report: Report, where: str, legs: int) -> None:
    """Raise `ReportError` for parts that are right by themselves, and do not fit together."""
    for number, leg in enumerate(report.legs):
        if not (0 < leg.shard <= leg.shards <= MAX_SHARDS or leg.shard == leg.shards == 0):
            raise ReportError(f"{where}: legs[{number}]: shard is not from 1 to shards")
    refuse_strangers(report.legs)
    _once([row.test for row in report.rows], f"{where}: tests has a test twice")
    for number, row in enumerate(report.rows):
        if len(row.cells) == 1 and not row.cells[0].others and row.cells[0].leg < legs:
            continue
        place = f"{where}: tests[{number}]"
        _once([cell.platform for cell in row.cells], f"{place}: cells has a platform twice")
        used = [cell.leg for cell in row.cells]
        used += [one.leg for cell in row.cells for one in cell.others]
        if max(used, default=-1) >= legs:
            raise ReportError(f"{place}: a leg is not below {legs}, the number of legs")
        if any(one.state.rank < cell.state.rank for cell in row.cells for one in cell.others):
            raise ReportError(f"{place}: a cell has a better state than one of its others")
    if len(report.platforms) > MAX_PLATFORMS:
        raise ReportError(f"{where}: more than {MAX_PLATFORMS} platforms")


def _once(names: Sequence[str], complaint: str) -> None:
    if len(set(names)) != len(names):
        raise ReportError(complaint)


@functools.lru_cache(maxsize=16)
def _reader(hint: Any, first_leg: int) -> Callable[[Any], Any]:
    """Return the function that checks and reads a value; ``hint`` is an annotation of the model.

    It raises `_Wrong`. It is made once for a file: a million tests are read in seconds.
    """
    if hint in _KINDS:
        return _KINDS[hint]
    if typing.get_origin(hint) is tuple:
        return functools.partial(_read_list, _reader(typing.get_args(hint)[0], first_leg))
    hints = typing.get_type_hints(hint, include_extras=True)
    fields = dataclasses.fields(hint)
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    readers = {field.name: _reader(hints[field.name], first_leg) for field in fields}
    start = {}
    if first_leg and "leg" in readers:
        readers["leg"] = lambda value: first_leg + _KINDS[int](value)
        start = {} if "leg" in needed else {"leg": first_leg}
    return functools.partial(_read_object, hint, readers, needed, start)


def _read_list(read: Callable[[Any], Any], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) > MAX_LIST:
        raise _Wrong(f" is not a list of at most {MAX_LIST} entries")
    made: list[Any] = []
    try:
        made.extend(map(read, value))
    except _Wrong as wrong:
        raise wrong.within(f"[{len(made)}]") from None
    return tuple(made)


def _read_object(
    kind: Any,
    readers: Mapping[str, Callable[[Any], Any]],
    needed: Sequence[str],
    start: Mapping[str, int],
    value: Any,
) -> Any:
    if not isinstance(value, dict):
        raise _Wrong(": not an object")
    made: dict[str, Any] = {**start}
    name = ""
    try:
        for name, part in value.items():
            read = readers.get(name)
            if read is _read_text and type(part) is str and len(part) <= MAX_TEXT:
                # Most are texts, and a call for each would take a third of the time.
                made[name] = part if len(part) > _SHORT else sys.intern(part)
            elif read is not None:
                made[name] = read(part)
        for name in needed:
            if name not in made:
                readers[name](None)
    except _Wrong as wrong:
        raise wrong.within(name) from None
    return kind(**made)
