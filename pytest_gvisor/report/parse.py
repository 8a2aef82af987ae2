"""The reader of report files: every field is checked, for the texts are shown to people."""

from __future__ import annotations

import dataclasses
import functools
import re
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
MAX_PLATFORMS = 256
"""Columns: each row has a place for each of them in every form."""

_PLATFORM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,64}")

_KINDS: Mapping[Any, tuple[Callable[[Any], bool], str]] = {
    str: (
        lambda value: isinstance(value, str) and len(value) <= MAX_TEXT,
        f"is not a text of at most {MAX_TEXT} characters",
    ),
    PlatformName: (
        lambda value: isinstance(value, str) and _PLATFORM.fullmatch(value) is not None,
        "is not the name of a platform",
    ),
    State: (
        lambda value: isinstance(value, str) and value in {*State},
        f"is none of {', '.join(State)}",
    ),
    bool: (lambda value: isinstance(value, bool), "is neither true nor false"),
    int: (
        lambda value: type(value) is int and 0 <= value < 2**63,  # no cgroup counts further
        "is not a whole number below 2**63",
    ),
    float: (
        lambda value: type(value) in (int, float) and 0 <= value <= MAX_NUMBER,
        f"is not a number from 0 to {MAX_NUMBER:g}",
    ),
}
"""The rule for each annotation of a field of the model, and the complaint about another value."""


def parse(data: bytes | str, *, where: str = "report") -> Report:
    """Read a report. Raises `ReportError` that names ``where`` and the place in it."""
    if len(data) > MAX_BYTES:
        raise ReportError(f"{where}: larger than {MAX_BYTES} bytes")
    try:
        content = loads(data, pairs=unique)
    except ValueError as error:
        raise ReportError(f"{where}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ReportError(f"{where}: not an object")
    schema = _value(content.get("schema"), int, where, "schema")
    if schema != SCHEMA:
        raise ReportError(
            f"{where}: schema {schema}, and this version reads {SCHEMA}",
            next_step="Use the version of pytest-gvisor that has written it.",
        )
    legs = _value(content.get("legs", []), tuple[Leg, ...], where, "legs")
    rows = _value(content.get("tests", []), tuple[Row, ...], where, "tests")
    notes = _value(content.get("notes", []), tuple[str, ...], where, "notes")
    for number, leg in enumerate(legs):
        if not (0 < leg.shard <= leg.shards <= MAX_SHARDS or leg.shard == leg.shards == 0):
            raise ReportError(f"{where}: legs[{number}]: shard is not from 1 to shards")
    refuse_strangers(legs)
    _once([row.test for row in rows], f"{where}: tests has a test twice")
    for number, row in enumerate(rows):
        place = f"{where}: tests[{number}]"
        _once([cell.platform for cell in row.cells], f"{place}: cells has a platform twice")
        used = [one.leg for cell in row.cells for one in (cell, *cell.others)]
        if max(used, default=-1) >= len(legs):
            raise ReportError(f"{place}: a leg is not below {len(legs)}, the number of legs")
        if any(one.state.rank < cell.state.rank for cell in row.cells for one in cell.others):
            raise ReportError(f"{place}: a cell has a better state than one of its others")
    report = Report(legs=legs, rows=rows, notes=notes)
    if len(report.platforms) > MAX_PLATFORMS:
        raise ReportError(f"{where}: more than {MAX_PLATFORMS} platforms")
    return report


def _once(names: Sequence[str], complaint: str) -> None:
    if len(set(names)) != len(names):
        raise ReportError(complaint)


_hints = functools.cache(functools.partial(typing.get_type_hints, include_extras=True))


def _value(value: Any, hint: Any, where: str, name: str) -> Any:
    """Return a checked value; ``hint``, an annotation of the model, tells how it is read."""
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list) or len(value) > MAX_LIST:
            raise ReportError(f"{where}: {name} is not a list of at most {MAX_LIST} entries")
        item = typing.get_args(hint)[0]
        return tuple(_value(one, item, where, f"{name}[{at}]") for at, one in enumerate(value))
    if hint in _KINDS:
        is_right, complaint = _KINDS[hint]
        if not is_right(value):
            raise ReportError(f"{where}: {name} {complaint}")
        return value if hint is PlatformName else hint(value)
    place = f"{where}: {name}"
    if not isinstance(value, dict):
        raise ReportError(f"{place}: not an object")
    hints = _hints(hint)
    return hint(**{
        field.name: _value(value.get(field.name), hints[field.name], place, field.name)
        for field in dataclasses.fields(hint)
        if field.name in value or field.default is dataclasses.MISSING
    })  # fmt: skip
