"""The reader of report files: every field is checked, for the texts are shown to people."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pytest_gvisor.base.errors import ReportError
from pytest_gvisor.guest.wire.checked_json import has_more_values, loads, unique
from pytest_gvisor.report import model
from pytest_gvisor.report.merging import refuse_strangers

MAX_VALUES = 64 * 1024 * 1024
"""The shortest values take twenty times their bytes as objects. A test has some thirty."""

MAX_TEXT = 1024 * 1024
MAX_PLATFORMS = 256
"""Columns: each row has a place for each of them in every form."""

Reader = Callable[[Sequence[Any]], Sequence[Any]]
"""Checks and reads the values of one field, those of many tests at once: a call for each value
would take most of the time.
"""

_PLATFORM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,64}")

_STATES = {state.value: state for state in model.State}


@dataclasses.dataclass
class _File:
    schema: int
    legs: tuple[model.Leg, ...] = ()
    tests: tuple[model.Row, ...] = ()
    notes: tuple[str, ...] = ()
    joined: bool = False


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
    types: Collection[type],
    complaint: str,
    are_right: Callable[[Sequence[Any]], bool],
    convert: Callable[[Sequence[Any]], Sequence[Any]] = lambda values: values,
) -> Reader:
    """Return the reader of values that are not made of others."""

    def read(values: Sequence[Any]) -> Sequence[Any]:
        if values and not (set(map(type, values)) <= {*types} and are_right(values)):
            raise _Wrong(f" {complaint}")
        return convert(values)

    return read


def _shared(texts: Sequence[str]) -> Sequence[str]:
    """Return the same texts; those that are in many cells, as a version is, share their memory."""
    once = dict(zip(texts, texts, strict=True))
    return texts if len(once) * 2 > len(texts) else [*map(once.__getitem__, texts)]


_KINDS: Mapping[Any, Reader] = {
    str: _kind({str}, f"is not a text of at most {MAX_TEXT} characters",
               lambda values: max(map(len, values)) <= MAX_TEXT, _shared),
    model.PlatformName: _kind({str}, "is not the name of a platform",
                        lambda values: all(map(_PLATFORM.fullmatch, set(values))), _shared),
    model.State: _kind({str}, f"is none of {', '.join(model.State)}",
                 lambda values: _STATES.keys() >= set(values),
                 lambda values: [*map(_STATES.__getitem__, values)]),
    bool: _kind({bool}, "is neither true nor false", lambda _: True),
    # Other readers of JSON may know no larger number.
    int: _kind({int}, "is not a whole number below 2**63",
               lambda values: min(values) >= 0 and max(values) < 2**63),
    float: _kind({int, float}, f"is not a number from 0 to {model.MAX_NUMBER:g}",
                 lambda values: min(values) >= 0 and max(values) <= model.MAX_NUMBER,
                 lambda values: [*map(float, values)]),
}  # fmt: skip
"""The reader for each annotation of a field of the model."""


def parse(data: bytes, *, where: str = "report") -> model.Report:
    """Read a report. Raises `ReportError` that names ``where`` and the place in it."""
    if len(data) > model.MAX_BYTES:
        raise ReportError(f"{where}: larger than {model.MAX_BYTES} bytes")
    if has_more_values(data, MAX_VALUES):
        raise ReportError(f"{where}: more than {MAX_VALUES} values")
    try:
        content = loads(data, pairs=unique)
    except ValueError as error:
        raise ReportError(f"{where}: not JSON: {error}") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is int and schema != model.SCHEMA:
        raise ReportError(
            f"{where}: schema {schema}, and this version reads {model.SCHEMA}",
            next_step="Use the version of pytest-gvisor that has written it.",
        )
    try:
        [found] = _reader(_File)([content])
    except _Wrong as wrong:
        raise ReportError(f"{wrong.within(where)}") from None
    report = model.Report(legs=found.legs, rows=found.tests, notes=found.notes, joined=found.joined)
    _check(report, where)
    return report


def _check(report: model.Report, where: str) -> None:
    """Raise `ReportError` for parts that are right by themselves, and do not fit together."""
    for number, leg in enumerate(report.legs):
        if not (0 < leg.shard <= leg.shards <= model.MAX_SHARDS or leg.shard == leg.shards == 0):
            raise ReportError(f"{where}: legs[{number}]: shard is not from 1 to shards")
    refuse_strangers(report.legs)
    legs = len(report.legs)
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


@functools.cache
def _reader(hint: Any) -> Reader:
    """Return a reader, which raises `_Wrong`; ``hint`` is an annotation of the model."""
    if hint in _KINDS:
        return _KINDS[hint]
    if typing.get_origin(hint) is tuple:
        return functools.partial(_read_lists, _reader(typing.get_args(hint)[0]))
    hints = typing.get_type_hints(hint, include_extras=True)
    # No reader takes None: it complains of a field that has to be there.
    defaults: Mapping[Any, Any] = {(): [], dataclasses.MISSING: None}
    fields = {
        field.name: (_reader(hints[field.name]), defaults.get(field.default, field.default))
        for field in dataclasses.fields(hint)
    }
    return functools.partial(_read_objects, hint, fields)


def _read_lists(read: Reader, values: Sequence[Any]) -> Sequence[tuple[Any, ...]]:
    are_lists = set(map(type, values)) <= {list}
    sizes = set(map(len, values)) if are_lists else {model.MAX_LIST + 1}
    if max(sizes, default=0) > model.MAX_LIST:
        raise _Wrong(f" is not a list of at most {model.MAX_LIST} entries")
    try:
        made = iter(read([*itertools.chain.from_iterable(values)]))
    except _Wrong:
        for number, value in enumerate(values[0] if len(values) == 1 else ()):
            try:
                read([value])
            except _Wrong as wrong:
                raise wrong.within(f"[{number}]") from None
        raise
    if len(sizes) == 1:
        return [*zip(*[made] * sizes.pop(), strict=True)] or [()] * len(values)
    return [tuple(itertools.islice(made, len(value))) for value in values]


def _read_objects(
    kind: Any, fields: Mapping[str, tuple[Reader, Any]], values: Sequence[Any]
) -> Sequence[Any]:
    if not values:
        return []
    if set(map(type, values)) != {dict}:
        raise _Wrong(": not an object")
    given: set[str] = set().union(*values)
    columns = []
    for name, (read, default) in fields.items():
        try:
            if name in given:
                columns.append(read([value.get(name, default) for value in values]))
            else:
                columns.append([*read([default])] * len(values))
        except _Wrong as wrong:
            raise wrong.within(name) from None
    return [*map(kind, *columns)]
