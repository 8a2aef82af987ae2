"""Rules for plain data from inside: each checks a value, and returns what may be kept of it.

A value of another shape raises one of `WRONG`. Does no input or output.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from pytest_gvisor.base.errors import ProtocolError
from pytest_gvisor.base.escape import safe

Rule = Callable[[Any], Any]


class Sender(NamedTuple):
    """The test that runs inside while data are sent."""

    item: pytest.Item
    inner: str
    """Its node id inside."""

    over: bool
    """Whether its last report has come."""


Take = Callable[[Any, Sender | None], None]
"""The host's end of a bridge: takes data, and raises one of `WRONG` for data of another shape.
Without a sender, they were sent while no test ran."""

# pytest and json raise RuntimeError, and pytest AssertionError, for data of another shape.
WRONG = (
    LookupError, TypeError, ValueError, AttributeError, OverflowError, AssertionError, RuntimeError
)  # fmt: skip
"""The errors of rules, and of what makes reports of data that follow them."""

_LONGEST_CAUSE = 300

LONGEST_TIME = 253_402_387_200  # seconds: a duration, or a time up to the year 9999 of each zone
_DEEPEST = 100
_HIGHEST_NUMBER = 2**31
_HIGHEST_WHOLE = 2**53


@contextlib.contextmanager
def reading(what: str, wrong: tuple[type[Exception], ...] = WRONG) -> Iterator[None]:
    """Turn an error of a rule, or a ``wrong`` one, into a `ProtocolError` on ``what`` was read."""
    try:
        yield
    except wrong as error:
        raise ProtocolError(f"{what}: {safe(repr(error))[:_LONGEST_CAUSE]}") from error


def utf8(text: str) -> str:
    """Escape characters that UTF-8 cannot encode: neither xdist nor a plugin could pass them on."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def plain(value: Any, text: Callable[[str], str] = safe, *, depth: int = 0) -> Any:
    """Return JSON data, with ``text`` applied to each text in it.

    Raises `ValueError` for data nested deeper than what xdist and plugins can pass on.
    """
    if depth > _DEEPEST:
        raise ValueError(f"data nested more than {_DEEPEST} deep")
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return [plain(part, text, depth=depth + 1) for part in value]
    if isinstance(value, dict):
        return {text(name): plain(part, text, depth=depth + 1) for name, part in value.items()}
    return value


def exact_text(value: Any) -> str:
    """Check a text, and leave it as it is."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in the place of a text")
    return value


def text(value: Any) -> str:
    """Check a text."""
    return utf8(exact_text(value))


def any_text(value: Any) -> str:
    """Turn any value into a text."""
    return utf8(str(value))


def shown(value: Any) -> str:
    """Turn any value into a text that is safe to print."""
    return safe(str(value))


def number(value: Any) -> int:
    """Check a whole number of at most 31 bits."""
    if not isinstance(value, int) or not abs(value) < _HIGHEST_NUMBER:
        raise ValueError(f"{value!r:.50} in the place of a number")
    return int(value)


def whole(value: Any) -> int:
    """Check a whole number of at most 53 bits that is not negative."""
    if type(value) is not int or not 0 <= value < _HIGHEST_WHOLE:
        raise ValueError(f"{value!r:.50} in the place of a whole number")
    return value


def seconds(value: Any) -> float:
    """Check a finite time."""
    if not isinstance(value, int | float) or not abs(value) < LONGEST_TIME:
        raise TypeError(f"{value!r:.50} in the place of seconds")
    return float(value)


def past(value: Any) -> float:
    """Check a time, and return 0 in the place of one before 1970: clocks are turned back."""
    return max(0.0, seconds(value))


def matching(pattern: str) -> Rule:
    """Return a rule for a text that is as a whole of this pattern."""
    whole = re.compile(pattern)

    def rule(value: Any) -> str:
        if not whole.fullmatch(exact_text(value)):
            raise ValueError(f"{value!r:.50} in the place of {pattern}")
        return str(value)

    return rule


def one_of(*words: str) -> Rule:
    """Return a rule for one of these texts."""

    def rule(value: Any) -> str:
        if value not in words:
            raise ValueError(f"{value!r:.50} is none of {', '.join(words)}")
        return str(value)

    return rule


def or_none(rule: Rule) -> Rule:
    """Return a rule for None, or for what another rule takes."""
    return lambda value: None if value is None else rule(value)


def list_of(rule: Rule, most: float = math.inf) -> Rule:
    """Return a rule for a list whose parts follow a rule, ``most`` at most."""

    def check(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise TypeError(f"{type(value).__name__} in the place of a list of {most} at most")
        return [rule(part) for part in value]

    return check


def tuple_of(*rules: Rule) -> Rule:
    """Return a rule for a list of exactly these parts: JSON has no tuples."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise TypeError(f"{type(value).__name__} in the place of a list")
        return tuple(rule(part) for rule, part in zip(rules, value, strict=True))

    return check


def object_of(**rules: Rule) -> Rule:
    """Return a rule for an object of exactly these fields."""

    def check(value: Any) -> dict[str, Any]:
        return {name: rule(value[name]) for name, rule in rules.items()}

    return check


def each(rule: Rule, most: float = math.inf) -> Rule:
    """Return a rule for an object of any names, ``most`` at most."""

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > most:
            raise TypeError(f"{type(value).__name__} in the place of an object of {most} at most")
        return {utf8(name): rule(part) for name, part in value.items()}

    return check
