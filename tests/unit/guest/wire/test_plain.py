"""Values as JSON and back: of fixed types alone, bounded, and whatever else is an error."""

import collections
import dataclasses
import datetime as dt
import enum
import json
import math
import sys
import time
import types
from typing import Any, NamedTuple

import pytest

from pytest_gvisor.guest.wire import plain


def keep(value: object) -> list[Any]:
    """The JSON of a handle."""
    return ["h", 1, type(value).__name__]


def again(value: object) -> Any:
    """A value that was sent and received."""
    return plain.decoded(plain.encoded(value, keep, arrays=False), lambda *found: found)


def read(raw: object, deadline: float = math.inf) -> Any:
    """The value of a message that is not an honest one's."""
    return plain.decoded(json.dumps(raw).encode(), lambda *found: found, deadline)


class Four(int):
    """A number that says that it is 4."""

    __eq__ = __ne__ = lambda *_: True
    __hash__ = int.__hash__
    __int__ = __index__ = __pos__ = __format__ = lambda *_: 4  # type: ignore[assignment]


class Color(enum.StrEnum):
    """A text with a name."""

    RED = "red"


@dataclasses.dataclass(frozen=True)
class Point:
    """Two numbers."""

    x: int
    y: object


class Pair(NamedTuple):
    """Two values."""

    one: int
    two: object


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 255, -(2**70), 10**5000, 0.1, -0.0, 1e308, math.inf, "",
        "ä\ud800",
        "\ud83c\udf84", b"", b"\0\xff" * 20, [], [1, [2]], (), (1, "a"), set(), {1, "a"},
        frozenset(), frozenset({b"x"}), {}, {1: 2, "a": [None]}, {(1, frozenset({2})): {3}},
        dt.datetime(2026, 11, 30, 5, 6, 7, 8, dt.UTC), dt.date(2026, 11, 30), dt.time(1, 2, 3),
        dt.timedelta(-1, 2, 3),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_data_come_back_as_they_were(value: object) -> None:
    """With their type, also within others."""
    for sent in (value, [value], {"key": (value,)}):
        back = again(sent)
        assert (type(back), back) == (type(sent), sent)
    assert type(again(value)) is type(value)


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Four(5), 5), (Color.RED, "red"), (collections.Counter("aab"), {"a": 2, "b": 1}),
        (Pair(1, [2]), (1, [2])), (Point(1, Point(2, "z")), {"x": 1, "y": {"x": 2, "y": "z"}}),
        (collections.OrderedDict(a=1), {"a": 1}), (type("Odd", (float,), {})(0.5), 0.5),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_of_a_subclass_is_that_of_its_base(value: object, base: object) -> None:
    """Methods of the base read it; a dataclass is a dict of its fields."""
    back = again(value)
    assert (type(back), repr(back)) == (type(base), repr(base))


def test_a_key_stays_what_it_is() -> None:
    """A dict is no key: so a dataclass that is one is a handle, also in a tuple that is one."""
    point = Point(1, 2)
    handle = (1, "Point")
    assert again({point: point}) == {handle: {"x": 1, "y": 2}}
    assert again({(point,): 1, (1, (point,)): 2}) == {(handle,): 1, (1, (handle,)): 2}
    assert again({point}) == {handle}
    assert again(frozenset({(point,)})) == {(handle,)}
    assert again([point, {1: (point,)}]) == [{"x": 1, "y": 2}, {1: ({"x": 1, "y": 2},)}]


def test_anything_else_is_a_handle() -> None:
    """So is an object that says that it is data."""
    lie = type("Lie", (), {"__class__": property(lambda _self: int)})()
    assert again([object, lie, 1j, object()]) == [
        (1, "type"), (1, "Lie"), (1, "complex"), (1, "object"),
    ]  # fmt: skip
    with pytest.raises(KeyError):
        plain.encoded(1j, {}.__getitem__, arrays=False)


def test_a_message_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, depth and bytes are bounded, each to the last one."""
    monkeypatch.setattr(plain, "MAX_DEPTH", 3)
    assert again([[[1]]]) == [[[1]]]
    assert again({1: {2: {3: 4}}}) == {1: {2: {3: 4}}}
    for deep in ([[[[1]]]], {1: {2: {3: [4]}}}):
        with pytest.raises(plain.TooMuch, match="deeper than 3"):
            plain.encoded(deep, keep, arrays=False)
    monkeypatch.setattr(plain, "MAX_BYTES", 20)
    assert again("x" * 18) == "x" * 18
    with pytest.raises(plain.TooMuch, match="more than 20 bytes"):
        plain.encoded("x" * 19, keep, arrays=False)
    monkeypatch.setattr(plain, "MAX_BYTES", 1000)
    monkeypatch.setattr(plain, "MAX_VALUES", 10)
    assert again([None] * 9) == [None] * 9
    with pytest.raises(plain.TooMuch, match="10 values of JSON"):
        plain.encoded([None] * 10, keep, arrays=False)  # its tag is the eleventh
    with pytest.raises(plain.TooMuch, match="more than 10 values, or"):
        plain.encoded([None] * 11, keep, arrays=False)


def test_the_bounds_are_those_of_the_page() -> None:
    """docs/grading.md has them."""
    assert (plain.MAX_BYTES, plain.MAX_VALUES) == (67_108_864, 3_000_000)
    assert (plain.MAX_DEPTH, plain.MAX_HANDLES) == (100, 10_000)


def test_no_method_of_a_list_is_called() -> None:
    """Nor is one that holds itself read without an end."""

    class Odd(list[int]):
        def __iter__(self) -> Any:
            raise AssertionError("a method of the object was called")

    assert again(Odd([1])) == [1]
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(plain.TooMuch):
        plain.encoded(loop, keep, arrays=False)


@pytest.mark.parametrize(
    "raw",
    [
        1, 1.5, {}, [], ["?"], ["?", 1], ["h"], ["h", 1], ["h", 1, "x", 2], ["h", "1", "x"],
        ["h", True, "x"], ["h", 1, 2], ["x", 1, "x"], ["l", 1], ["i"], ["i", "x"], ["i", 1],
        ["i", "1", "2"], ["f", "x"], ["D", "tomorrow"], ["e", 1], ["e", 10**10, 0, 0], ["b", 1],
        ["S", ["l"]], ["m", ["l"], None], [1], [None], [["l"]],
        ["n", "|O8", [1], "AAAAAAAAAAA="], ["n", "x", [1], ""], ["n", "<U1", [1], "AAAA"],
        ["n", "<i8x", [1], ""], ["n", "x<i8", [1], ""],
    ],
    ids=str,
)  # fmt: skip
def test_a_text_that_is_no_value_is_an_error(monkeypatch: pytest.MonkeyPatch, raw: object) -> None:
    """Whatever reads it may raise, and nothing is imported for it."""
    monkeypatch.setitem(sys.modules, "numpy", types.ModuleType("numpy"))
    with pytest.raises((ValueError, TypeError, OverflowError)) as found:
        read(raw)
    assert "numpy" not in str(found.value)


def test_what_is_read_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count is before anything is made of a text."""
    monkeypatch.setattr(plain, "MAX_DEPTH", 3)
    assert read(["l", ["l", ["l", ["l"]]]]) == [[[[]]]]
    with pytest.raises(ValueError, match="no value"):
        read(["l", ["l", ["l", ["l", ["l"]]]]])
    monkeypatch.setattr(plain, "MAX_VALUES", 4)
    assert read(["l", None, None]) == [None, None]
    with pytest.raises(plain.TooMuch, match="more than 4"):
        read(["l", None, None, None, None])


def test_reading_ends_at_its_deadline() -> None:
    """Keys may be chosen so that each takes long to add: all have one hash here."""
    now = time.monotonic()
    keys = [["i", format(number * (2**61 - 1), "x")] for number in range(100_000)]
    with pytest.raises(TimeoutError, match="too long"):
        read(["S", *keys], now + 1)
    assert time.monotonic() - now < 20
    with pytest.raises(TimeoutError):
        read(None, now)
    assert read(None, time.monotonic() + 60) is None


class Numbers:
    """The parts of numpy that are asked for: numbers that know their kind, and arrays of bytes."""

    class Generic:
        """A number."""

        def __init__(self, kind: str, value: object) -> None:
            self.dtype, self._value = types.SimpleNamespace(kind=kind, str="<i8"), value

        def item(self) -> object:
            """Python's own."""
            return self._value

    class Array:
        """An array, which compares and has a shape."""

        def __init__(self, data: bytes, dtype: str, shape: list[int] | None = None) -> None:
            self.data, self.dtype = data, types.SimpleNamespace(str=dtype, kind=dtype[1])
            self.shape = tuple(shape or ())

        def tobytes(self) -> bytes:
            """Its bytes."""
            return self.data

        def reshape(self, shape: list[int]) -> "Numbers.Array":
            """Another shape."""
            return Numbers.Array(self.data, self.dtype.str, shape)

        def copy(self) -> str:
            """A text, by which a test knows the array."""
            return f"copy of {self.data!r} as {self.dtype.str} {self.shape}"

        def __ne__(self, other: object) -> Any:
            return f"{self.data!r} != {other} as {self.dtype.str} {self.shape}"

        __hash__ = None  # type: ignore[assignment]


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A numpy in this process."""
    module = types.ModuleType("numpy")
    vars(module).update(generic=Numbers.Generic, ndarray=Numbers.Array)
    vars(module)["frombuffer"] = Numbers.Array
    monkeypatch.setitem(sys.modules, "numpy", module)


@pytest.mark.usefixtures("numbers")
def test_numbers_of_numpy_are_python_s_and_arrays_are_bytes_with_a_shape() -> None:
    """Where the other side has numpy; else, an array is a handle, as one of objects always is."""
    assert again([Numbers.Generic(kind, 4) for kind in "biuf"]) == [4] * 4
    assert again(Numbers.Generic("c", 4)) == (1, "Generic")
    array = Numbers.Array(b"\2\0", "|i1", [1, 2])
    assert again(array) == (1, "Array")
    for dtype in ("|i1", "<f8", ">c16", "|b1", "<M8[D]", ">m8", "<u2"):
        sent = plain.encoded(Numbers.Array(b"\2\0", dtype, [1, 2]), keep, arrays=True)
        assert json.loads(sent) == ["n", dtype, [1, 2], "AgA="]
    for dtype in ("|O", "<U1", "|S3", "|V8", "|M8", "<i8a"):
        assert json.loads(plain.encoded(Numbers.Array(b"", dtype), keep, arrays=True)) == [
            "h", 1, "Array",
        ]  # fmt: skip
    assert json.loads(plain.encoded(1j, keep, arrays=True)) == ["h", 1, "complex"]


@pytest.mark.usefixtures("numbers")
def test_an_array_that_is_read_is_a_copy_and_its_bools_are_0_or_1() -> None:
    """A bool of another value is undefined in numpy, whatever its byte order is."""
    assert read(["n", "<i2", [1, 1], "AgA="]) == "copy of b'\\x02\\x00' as <i2 (1, 1)"
    for dtype in ("|b1", "<b1", ">b1"):
        assert read(["n", dtype, [2], "AgA="]) == "b'\\x02\\x00' != 0 as u1 (2,)"
