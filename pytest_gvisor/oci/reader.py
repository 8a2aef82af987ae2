"""Frozen dataclasses to and from JSON, as a closed world.

The engine knows nothing of OCI: it reads a class's own annotations. Every problem is collected with
the place where it is. A key that the class does not have, and a second key of the same name, are
problems. So are a NUL byte and a lone surrogate, wherever they stand. Nothing here touches the file
system.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import enum
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple, TypeGuard

from pytest_gvisor.errors import InvalidBundle
from pytest_gvisor.escape import shown
from pytest_gvisor.guest.checked_json import loads, without_strings

MAX_BYTES: Final = 4 << 20
MAX_DEPTH: Final = 64
MAX_CONTAINERS: Final = 100_000
MAX_PROBLEMS: Final = 100
_MORE: Final = "... and more"


@dataclass(frozen=True, kw_only=True)
class Range:
    """The whole numbers that a field takes, both ends included."""

    low: int
    """The smallest."""
    high: int
    """The largest."""


class Words:
    """The strings that a field takes; the noun names them in a problem."""

    def __init__(self, noun: str, words: str) -> None:
        self.noun = noun
        self.words = words.split()


U16 = Annotated[int, Range(low=0, high=2**16 - 1)]
U32 = Annotated[int, Range(low=0, high=2**32 - 1)]
U64 = Annotated[int, Range(low=0, high=2**64 - 1)]
I32 = Annotated[int, Range(low=-(2**31), high=2**31 - 1)]
I64 = Annotated[int, Range(low=-(2**63), high=2**63 - 1)]
# 2**32 - 1 is (uid_t)-1: the kernel reads it as "leave it as it is".
Id = Annotated[int, Range(low=0, high=2**32 - 2)]

_BAD: Final = dataclasses.MISSING
"""The result for a bad value, which is no better than one that is not there."""

_Codec = Callable[[object, str, "_Report"], object]


def key(name: str) -> dict[str, str]:
    """The metadata of a field whose JSON key is not its name in camel case."""
    return {"json": name}


def at(path: str, name: str | int) -> str:
    """The place of an entry under ``path``, safe to print."""
    if isinstance(name, int):
        return f"{path}[{name}]"
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
        return f"{path}.{name}" if path else name
    return f"{path}[{shown(name)}]"


def whole(value: object) -> bool:
    """Whether a value is a whole number; True is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def nearest(word: str, words: Sequence[str]) -> str:
    """Return ``; did you mean X``, or nothing."""
    if len(word) > 64:
        return ""
    lowered = {known.lower(): known for known in words}
    found = difflib.get_close_matches(word.replace("_", "").lower(), lowered, n=1, cutoff=0.7)
    return f"; did you mean {lowered[found[0]]}" if found else ""


def bounded(found: Sequence[str]) -> list[str]:
    """Shorten a list of problems to a readable number."""
    return list(found) if len(found) <= MAX_PROBLEMS else [*found[:MAX_PROBLEMS], _MORE]


class Keys:
    """The keys of an object that stays JSON, each with its annotation; ``!`` at the end: required.

    For `Annotated`, in the place of a class that nothing would read.
    """

    def __init__(self, annotations: Mapping[str, object]) -> None:
        self.hints = {name.rstrip("!"): hint for name, hint in annotations.items()}
        self.required = {name[:-1] for name in annotations if name.endswith("!")}


class _EnoughError(Exception):
    """Ends the reading when there are too many problems."""


class _Report:
    """The problems found so far."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.is_whole = True
        """Whether no value of the object that is being read is bad so far."""

    def add(self, path: str, text: str, *, spoils: bool = True) -> object:
        if len(self.problems) >= MAX_PROBLEMS:
            self.problems.append(_MORE)
            raise _EnoughError
        self.problems.append(f"{path}: {text}" if path else text)
        self.is_whole = self.is_whole and not spoils
        return _BAD


class _Object(dict[str, object]):
    """A JSON object that remembers its repeated keys."""

    twice: tuple[str, ...] = ()


def _pairs(pairs: list[tuple[str, object]]) -> _Object:
    made = _Object(pairs)
    if len(made) != len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        made.twice = tuple(name for name, count in counts.items() if count > 1)
    return made


_INNERMOST: Final = re.compile(rb"\[\]|\{\}")
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")


def _too_much(data: bytes) -> str:
    """Name the limit that brackets outside of strings exceed, or nothing."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return ""
    # There are fewer strings than bytes.
    brackets = (without_strings(data, len(data)) or b"").translate(None, _NO_BRACKETS)
    if len(brackets) > 2 * MAX_CONTAINERS:
        return f"more than {MAX_CONTAINERS} lists and objects"
    for _ in range(MAX_DEPTH):
        # Each round takes one level away.
        rest = _INNERMOST.sub(b"", brackets)
        if len(rest) == len(brackets):
            # Nothing, or brackets that do not match, which the parser reports.
            return ""
        brackets = rest
    return f"nested deeper than {MAX_DEPTH} levels" if brackets else ""


def load(data: bytes, *, where: str) -> object:
    """Read JSON text within the limits above. Raises `InvalidBundle`."""
    if len(data) > MAX_BYTES:
        raise InvalidBundle([f"larger than {MAX_BYTES} bytes"], where=where)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidBundle([f"not UTF-8 at byte {error.start}"], where=where) from None
    if wrong := _too_much(data):
        raise InvalidBundle([wrong], where=where)
    try:
        return loads(text, pairs=_pairs)
    except ValueError as error:
        raise InvalidBundle([f"not JSON: {error}"], where=where) from None


def _text(value: object, path: str, report: _Report) -> object:
    if not isinstance(value, str):
        return report.add(path, f"must be a string, not {shown(value)}")
    if "\0" in value:
        return report.add(path, "has a NUL byte")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return report.add(path, "has a lone surrogate, which is not text")
    return value


def _flag(value: object, path: str, report: _Report) -> object:
    if not isinstance(value, bool):
        return report.add(path, f"must be true or false, not {shown(value)}")
    return value


def _number(limits: Range) -> _Codec:
    def read(value: object, path: str, report: _Report) -> object:
        if not isinstance(value, int) or isinstance(value, bool):
            return report.add(path, f"must be a whole number, not {shown(value)}")
        if not limits.low <= value <= limits.high:
            return report.add(path, f"{shown(value)} is not in {limits.low}..{limits.high}")
        return value

    return read


def _word(noun: str, words: Mapping[str, object]) -> _Codec:
    def read(value: object, path: str, report: _Report) -> object:
        if (text := _text(value, path, report)) is _BAD:
            return _BAD
        if str(text) in words:
            return words[str(text)]
        hint = nearest(str(text), list(words))
        plain = str(text) if re.fullmatch(r"\w{1,40}", str(text), re.ASCII) else shown(text)
        return report.add(path, f"unknown {noun} {plain}{hint}")

    return read


def _many(item: _Codec) -> _Codec:
    def read(value: object, path: str, report: _Report) -> object:
        if not isinstance(value, list | tuple):
            return report.add(path, f"must be a list, not {shown(value)}")
        made = [item(entry, f"{path}[{index}]", report) for index, entry in enumerate(value)]
        return tuple(entry for entry in made if entry is not _BAD)

    return read


def _table(item: _Codec) -> _Codec:
    def read(value: object, path: str, report: _Report) -> object:
        if not _is_object(value, path, report):
            return _BAD
        made: dict[str, object] = {}
        for name, entry in value.items():
            where = at(path, str(name))
            is_text = _text(name, f"{where} (the key)", report) is not _BAD
            if is_text and (found := item(entry, where, report)) is not _BAD:
                made[name] = found
        return made

    return read


def _is_object(value: object, path: str, report: _Report) -> TypeGuard[Mapping[str, object]]:
    """Whether this is an object; reports one that is not, and repeated keys."""
    if not isinstance(value, Mapping):
        report.add(path, f"must be an object, not {shown(value)}")
        return False
    for name in repeated(value):
        report.add(at(path, name), "this key is there twice")
    return True


def repeated(value: Mapping[str, object]) -> tuple[str, ...]:
    """Return the keys that occur twice in an object from `load`."""
    return value.twice if isinstance(value, _Object) else ()


def without(value: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Return a copy of an object without this key; the other keys stay `repeated`."""
    left = _Object((key, entry) for key, entry in value.items() if key != name)
    left.twice = repeated(value)
    return left


class _Field(NamedTuple):
    """A key of a JSON object: the attribute for it, and how its value is read."""

    attribute: str
    default: object
    codec: _Codec


@functools.cache
def _shape(cls: type | Keys) -> dict[str, _Field]:
    if isinstance(cls, Keys):
        # None, which no JSON value becomes, stands for a key that is not there.
        defaults = {name: _BAD if name in cls.required else None for name in cls.hints}
        return {name: _Field(name, defaults[name], _codec(cls.hints[name])) for name in cls.hints}
    hints = typing.get_type_hints(cls, include_extras=True)
    made = {}
    for field in dataclasses.fields(cls):
        head, *rest = field.name.split("_")
        name = field.metadata.get("json") or head + "".join(part.capitalize() for part in rest)
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        made[name] = _Field(field.name, default, _codec(hints[field.name]))
    return made


@functools.cache
def _codec(hint: Any) -> _Codec:
    """Return the codec for an annotation."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        if isinstance(args[1], Range):
            return _number(args[1])
        if isinstance(args[1], Words):
            return _word(args[1].noun, {word: word for word in args[1].words})
        return functools.partial(_instance, args[1])
    if origin in {typing.Union, types.UnionType}:
        # Absent is None; a JSON null is not a value of any key.
        return _codec(next(arg for arg in args if arg is not types.NoneType))
    if origin is tuple:
        return _many(_codec(args[0]))
    if origin is Mapping:
        return _table(_codec(args[1]))
    if dataclasses.is_dataclass(hint):
        return functools.partial(_instance, hint)
    if issubclass(hint, enum.StrEnum):
        noun = re.sub(r"(?<!^)([A-Z])", r" \1", hint.__name__).lower()
        return _word(noun, {member.value: member for member in hint})
    return {str: _text, bool: _flag}[hint]


def _instance(cls: Any, value: object, path: str, report: _Report) -> object:
    """Read an object. The problems in it leave the object around it whole, if it can be made."""
    outer, report.is_whole = report.is_whole, True
    if not _is_object(value, path, report):
        return _BAD
    shape = _shape(cls)
    made: dict[str, object] = {}
    for name, entry in value.items():
        field = shape.get(name)
        if field is None:
            refused = getattr(cls, "REFUSED", {}).get(name)
            hint = "" if refused else nearest(str(name), list(shape))
            report.add(at(path, str(name)), refused or f"unknown key{hint}", spoils=False)
            continue
        found = field.codec(entry, at(path, name), report)
        made[field.attribute] = field.default if found is _BAD else found
    for name, field in shape.items():
        if field.attribute not in made and field.default is _BAD:
            made[field.attribute] = report.add(at(path, name), "missing")
    if any(entry is _BAD for entry in made.values()):
        return _BAD
    is_whole, report.is_whole = report.is_whole, outer
    if isinstance(cls, Keys):
        return {name: entry for name, entry in made.items() if entry is not None}
    instance = cls(**made)
    if is_whole and hasattr(instance, "problems"):
        for where, text in instance.problems():
            report.add((path + where).removeprefix("."), text, spoils=False)
    return instance


def read(cls: type, value: object) -> tuple[Any, list[str]]:
    """Read an object of ``cls`` (None where that is impossible) and every problem.

    A class may have rules, as a method ``problems`` that yields where in the object something is
    wrong, and what. It is called only if the object's own values are all good: it sees no wrong
    type.
    """
    report = _Report()
    try:
        made = _instance(cls, value, "", report)
    except _EnoughError:
        made = _BAD
    return (None if made is _BAD else made), report.problems


def write(value: object) -> Any:
    """Return the value as plain JSON types, without fields that have their default."""
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
