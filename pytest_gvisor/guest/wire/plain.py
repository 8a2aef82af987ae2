"""Plain data as JSON, and JSON as plain data: the values of `Sandbox.load`, on both sides.

Nothing is unpickled, and no name is looked up: a tag stands for one of a fixed list of types. A
value of a subclass is sent as its base's, by methods of the base, so that an ``int`` that is equal
to all numbers arrives as the number that it holds. Standard library only, Python 3.8.
"""

from __future__ import annotations

import base64
import datetime as dt
import importlib
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from pytest_gvisor.guest.wire import checked_json

MAX_BYTES = 64 * 1024 * 1024
"""Bytes of JSON in a message."""

MAX_VALUES = 3_000_000
"""Values of JSON in a message, as `checked_json.has_more_values` counts them."""

MAX_DEPTH = 100
MAX_HANDLES = 10_000
"""Objects that one process keeps for its host at once."""

_ARRAY = re.compile(r"[<>|][biufc]\d{1,2}|[<>][mM]8(\[\w+\])?")
"""The types of numpy that hold numbers and times: no objects, no records, no texts."""

_SCALARS: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    # In hexadecimal, because Python takes quadratic time for decimal digits, and refuses many.
    int: ("i", lambda value: format(int.__pos__(value), "x"), lambda digits: int(digits, 16)),
    float: ("f", lambda value: repr(float.__pos__(value)), float),
    bytes: ("b", lambda value: base64.b64encode(value).decode(), base64.b64decode),
    dt.datetime: ("D", dt.datetime.isoformat, dt.datetime.fromisoformat),
    dt.date: ("d", dt.date.isoformat, dt.date.fromisoformat),
    dt.time: ("T", dt.time.isoformat, dt.time.fromisoformat),
    dt.timedelta: ("e", lambda d: [d.days, d.seconds, d.microseconds], lambda d: dt.timedelta(*d)),
}
"""The tag of each type, the JSON of a value, and the value of JSON."""

_ITEMS: dict[Any, str] = {list: "l", tuple: "t", set: "S", frozenset: "F"}
EXACT = {type(None), bool, str, dict, *_ITEMS, *_SCALARS}
"""The types whose values are data alone. A subclass may have methods of its own."""


class TooMuch(ValueError):
    """A message is larger than a bound."""


class Whole:
    """A value that is to stay inside, whatever its type."""

    def __init__(self, value: Any) -> None:
        self.value = value


def encoded(value: Any, keep: Callable[[Any], Any], *, arrays: bool) -> bytes:
    """Return the JSON of a message. ``keep`` makes that of a value which is no data.

    Numpy's arrays are data with ``arrays``. Raises `TooMuch`, and what ``keep`` raises.
    """
    numpy: Any = sys.modules.get("numpy")
    count = itertools.count()

    def of(value: Any, depth: int, *, is_key: bool = False) -> Any:
        if next(count) > MAX_VALUES or depth > MAX_DEPTH:
            raise TooMuch(f"more than {MAX_VALUES} values, or nested deeper than {MAX_DEPTH}")
        if numpy is not None and isinstance(value, numpy.generic) and value.dtype.kind in "biuf":
            value = value.item()
        if value is None or value is True or value is False:
            return value
        kind: Any  # not isinstance: an object may say that it is of another class
        for kind in type(value).__mro__:
            if kind is str:
                return str.__str__(value)
            if kind in _SCALARS:
                return [_SCALARS[kind][0], _SCALARS[kind][1](value)]
            if kind in _ITEMS:
                keys = is_key or kind in (set, frozenset)
                items = (of(item, depth + 1, is_key=keys) for item in kind.__iter__(value))
                return [_ITEMS[kind], *items]
            if kind is dict:
                flat = ((n == 0, part) for pair in dict.items(value) for n, part in enumerate(pair))
                return ["m", *(of(part, depth + 1, is_key=first) for first, part in flat)]
        # A dict is no key, so a dataclass that is one stays as it is.
        if hasattr(type(value), "__dataclass_fields__") and not is_key:
            fields = sys.modules["dataclasses"].fields(value)
            return of({field.name: getattr(value, field.name) for field in fields}, depth)
        is_array = arrays and numpy is not None and isinstance(value, numpy.ndarray)
        if not is_array or not _ARRAY.fullmatch(value.dtype.str):
            return keep(value)
        raw = base64.b64encode(value.tobytes()).decode()
        return ["n", value.dtype.str, list(value.shape), raw]

    # Not as escapes: JSON would join two surrogates to one character.
    text = json.dumps(of(value, 0), ensure_ascii=False, separators=(",", ":"))
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > MAX_BYTES or checked_json.has_more_values(data, MAX_VALUES):
        raise TooMuch(f"more than {MAX_BYTES} bytes or {MAX_VALUES} values of JSON")
    return data


def _array(dtype: str, shape: list[int], raw: str) -> Any:
    if not _ARRAY.fullmatch(dtype):
        raise ValueError("an array of another type")
    # A bool that is neither 0 nor 1 is undefined in numpy.
    of_bools, numpy = dtype[1:] == "b1", importlib.import_module("numpy")
    array = numpy.frombuffer(base64.b64decode(raw), "u1" if of_bools else dtype).reshape(shape)
    return array != 0 if of_bools else array.copy()


_READERS: dict[str, Any] = {"n": _array, **{tag: read for tag, _, read in _SCALARS.values()}}
_MAKERS: dict[str, Any] = {tag: kind for kind, tag in _ITEMS.items()}
_MAKERS["m"] = lambda items: dict(zip(items, items))  # noqa: B905 -- Python 3.8


def decoded(text: bytes, handle: Callable[[int, str], Any], deadline: float = math.inf) -> Any:
    """Return the value of a message. ``handle`` makes that of an object's number and type name.

    Raises TimeoutError at the deadline (monotonic), and any other exception for a text that no
    `encoded` makes.
    """

    def of(raw: Any, depth: int) -> Any:
        # The keys of a dict may be chosen so that each takes long to add.
        if time.clock_gettime(time.CLOCK_MONOTONIC) > deadline:
            raise TimeoutError("the values take too long to read")
        if raw is None or type(raw) in (bool, str):
            return raw
        if type(raw) is not list or depth > MAX_DEPTH:
            raise ValueError("JSON that is no value")
        tag, *rest = raw
        if tag in _MAKERS:
            # Each item is made when its container takes it, so the deadline is for that too.
            return _MAKERS[tag](of(item, depth + 1) for item in rest)
        if tag in _READERS:
            return _READERS[tag](*rest)
        number, name = rest
        if tag != "h" or type(number) is not int or type(name) is not str:
            raise ValueError("JSON that is no value")
        return handle(number, name)

    if checked_json.has_more_values(text, MAX_VALUES):
        raise TooMuch(f"more than {MAX_VALUES} values")
    return of(checked_json.loads(text), 0)
