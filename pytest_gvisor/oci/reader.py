"""Frozen dataclasses to and from JSON, as a closed world.

The engine knows nothing of OCI: it reads a class's own annotations. Every problem is collected with
the place where it is. A key that the class does not have is a problem. So are a NUL byte and a lone
surrogate, wherever they stand. A text with the same key twice in an object is not read at all.
Nothing here touches the file system.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, TypeGuard

from pytest_gvisor.base.errors import InvalidBundle
from pytest_gvisor.base.escape import shown
from pytest_gvisor.base.setting_table import nearest
from pytest_gvisor.guest.wire.checked_json import has_more_values, loads, unique

MAX_BYTES: Final = 4 << 20
MAX_VALUES: Final = 500_000
MAX_PROBLEMS: Final = 100
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Range(NamedTuple):
    """The whole numbers that a field takes, both ends included."""

    low: int
    """The smallest."""
    high: int
    """The largest."""


class Words:
    """The strings that a field takes; the noun names them in a problem, the kind makes values."""

    def __init__(self, noun: str, words: str, kind: Callable[[Any], object] = str) -> None:
        self.noun = noun
        self.words = words.split()
        self.kind = kind


U32 = Annotated[int, Range(low=0, high=2**32 - 1)]
U64 = Annotated[int, Range(low=0, high=2**64 - 1)]
I32 = Annotated[int, Range(low=-(2**31), high=2**31 - 1)]
I64 = Annotated[int, Range(low=-(2**63), high=2**63 - 1)]
# 2**32 - 1 is (uid_t)-1: the kernel reads it as "leave it as it is".
Id = Annotated[int, Range(low=0, high=2**32 - 2)]

_Place = tuple[str | int, ...]
_Way = tuple[Callable[..., object], Any]
_PLAIN: Final = frozenset({str, int, bool})

_BAD: Final = dataclasses.MISSING
"""The result for a bad value, which is no better than one that is not there."""


def key(name: str) -> dict[str, str]:
    """The metadata of a field whose JSON key is not its name in camel case."""
    return {"json": name}


def at(path: str, name: str) -> str:
    """The place of an entry under ``path``, safe to print."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
        return f"{path}.{name}" if path else name
    return f"{path}[{shown(name)}]"


def whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number; True is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def bounded(found: Sequence[str]) -> list[str]:
    """Shorten a list of problems to a readable number."""
    return list(found) if len(found) <= MAX_PROBLEMS else [*found[:MAX_PROBLEMS], "... and more"]


def load(data: bytes, *, where: str) -> object:
    """Read JSON text within the limits above. Raises `InvalidBundle`."""
    if len(data) > MAX_BYTES:
        raise InvalidBundle([f"larger than {MAX_BYTES} bytes"], where=where)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidBundle([f"not UTF-8 at byte {error.start}"], where=where) from None
    if has_more_values(data, MAX_VALUES):
        raise InvalidBundle([f"more than {MAX_VALUES} values"], where=where)
    try:
        return loads(text, pairs=unique)
    except ValueError as error:
        raise InvalidBundle([f"not JSON: {error}"], where=where) from None


class _Field(NamedTuple):
    """A key of a JSON object: the attribute for it, and how it is read."""

    attribute: str
    default: object
    way: _Way


@functools.cache
def _shape(cls: type) -> dict[str, _Field]:
    hints = typing.get_type_hints(cls, include_extras=True)
    made = {}
    for field in dataclasses.fields(cls):
        head, *rest = field.name.split("_")
        name = field.metadata.get("json") or head + "".join(part.capitalize() for part in rest)
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        made[name] = _Field(field.name, default, _way(hints[field.name]))
    return made


def _way(hint: Any) -> _Way:
    """Return the method that reads values of this annotation, and its first argument."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return (_Reader.number if isinstance(args[1], Range) else _Reader.word), args[1]
    if origin in {typing.Union, types.UnionType}:
        # Absent is None; a JSON null is not a value of any key.
        return _way(args[0])
    if origin is tuple:
        return _Reader.list, _way(args[0])
    if origin is Mapping:
        return _Reader.table, _way(args[1])
    if dataclasses.is_dataclass(hint):
        return _Reader.instance, hint
    if hint is bool:
        return _Reader.boolean, None
    if hint is str:
        return _Reader.text, None
    noun = re.sub(r"(?<!^)([A-Z])", r" \1", hint.__name__).lower()
    return _Reader.word, Words(noun, " ".join(hint), hint)


class _Reader:
    """Reads values, each by the method of its annotation, and collects the problems.

    A place is a tuple of keys and indexes. It becomes text where there is a problem.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._is_whole = True
        """Whether no value of the object that is being read is bad so far."""

    def _add(self, place: _Place, text: str, *, within: str = "", spoils: bool = True) -> object:
        # One more than are shown, so that it shows that there are more.
        if len(self.problems) <= MAX_PROBLEMS:
            path = ""
            for part in place:
                path = f"{path}[{part}]" if isinstance(part, int) else at(path, part)
            path = (path + within).removeprefix(".")
            self.problems.append(f"{path}: {text}" if path else text)
        self._is_whole = self._is_whole and not spoils
        return _BAD

    def boolean(self, _: None, value: object, place: _Place) -> object:
        if isinstance(value, bool):
            return value
        return self._add(place, f"must be true or false, not {shown(value)}")

    def text(self, _: None, value: object, place: _Place, within: str = "") -> object:
        problem = ""
        if not isinstance(value, str):
            problem = f"must be a string, not {shown(value)}"
        elif "\0" in value:
            problem = "has a NUL byte"
        elif _SURROGATE.search(value):
            problem = "has a lone surrogate, which is not text"
        return self._add(place, problem, within=within) if problem else value

    def number(self, limits: Range, value: object, place: _Place) -> object:
        if not whole(value):
            return self._add(place, f"must be a whole number, not {shown(value)}")
        if not limits.low <= value <= limits.high:
            return self._add(place, f"{shown(value)} is not in {limits.low}..{limits.high}")
        return value

    def word(self, known: Words, value: object, place: _Place) -> object:
        text = self.text(None, value, place)
        if text is _BAD:
            return _BAD
        if text in known.words:
            return known.kind(text)
        plain = text if re.fullmatch(r"\w{1,40}", str(text), re.ASCII) else shown(text)
        hint = nearest(str(text), known.words)
        return self._add(place, f"unknown {known.noun} {plain}{hint}")

    def list(self, way: _Way, value: object, place: _Place) -> object:
        if not isinstance(value, list | tuple):
            return self._add(place, f"must be a list, not {shown(value)}")
        read, about = way
        made = [read(self, about, entry, (*place, index)) for index, entry in enumerate(value)]
        return tuple(entry for entry in made if entry is not _BAD)

    def table(self, way: _Way, value: object, place: _Place) -> object:
        if not isinstance(value, Mapping):
            return self._add(place, f"must be an object, not {shown(value)}")
        read, about = way
        made: dict[str, object] = {}
        for name, entry in value.items():
            where = (*place, str(name))
            is_text = self.text(None, name, where, " (the key)") is not _BAD
            if is_text and (found := read(self, about, entry, where)) is not _BAD:
                made[name] = found
        return made

    def instance(self, cls: Any, value: object, place: _Place) -> Any:
        """Read an object. Problems in it leave the object around it whole, if it can be made."""
        outer, self._is_whole = self._is_whole, True
        if not isinstance(value, Mapping):
            return self._add(place, f"must be an object, not {shown(value)}")
        shape = _shape(cls)
        made: dict[str, object] = {}
        for name, entry in value.items():
            field = shape.get(name)
            if field is None:
                refused = getattr(cls, "REFUSED", {}).get(name)
                hint = "" if refused else nearest(str(name), list(shape))
                self._add((*place, str(name)), refused or f"unknown key{hint}", spoils=False)
                continue
            read, about = field.way
            found = read(self, about, entry, (*place, name))
            made[field.attribute] = field.default if found is _BAD else found
        for name, field in shape.items():
            if field.default is _BAD and field.attribute not in made:
                made[field.attribute] = self._add((*place, name), "missing")
        if _BAD in made.values():
            return _BAD
        is_whole, self._is_whole = self._is_whole, outer
        instance = cls(**made)
        if is_whole and hasattr(instance, "problems"):
            for where, text in instance.problems():
                self._add(place, text, within=where, spoils=False)
        return instance


def read(cls: type, value: object) -> tuple[Any, list[str]]:
    """Read an object of ``cls`` (None where that is impossible) and every problem.

    A class may have rules, as a method ``problems`` that yields where in the object something is
    wrong, and what. It is called only if the object's own values are all good: it sees no wrong
    type.
    """
    reader = _Reader()
    made = reader.instance(cls, value, ())
    return (None if made is _BAD else made), bounded(reader.problems)


def write(value: object) -> Any:
    """Return the value as plain JSON types, without fields that have their default."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [write(entry) for entry in value]
    if isinstance(value, Mapping):
        return {name: write(entry) for name, entry in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = _shape(type(value)).items()
        pairs = ((name, getattr(value, field.attribute), field.default) for name, field in fields)
        return {name: write(entry) for name, entry, default in pairs if entry != default}
    return value
