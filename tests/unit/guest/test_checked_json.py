"""Untrusted JSON: a value, or one kind of error with a short text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.guest.checked_json import has_more_values, loads, unique, without_strings


@pytest.mark.parametrize(
    "text",
    ["", "{", "nul", "[1,]", "NaN", "[-Infinity]", "[" * 100_000, '{"a":' * 100_000, "1" * 5000,
     b'"\xff"', "é" * 300, b"\xef\xbb\xbf"],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_json_is_one_error(text: str | bytes) -> None:
    """The error's text is printable and short, whatever the parser says of the input."""
    with pytest.raises(ValueError, match=r"^[ -~]{1,200}$") as caught:
        loads(text)
    assert type(caught.value) is ValueError


def test_a_value_is_as_the_parser_makes_it() -> None:
    """The last one of equal keys counts, unless keys have to be unique."""
    assert loads(b'{"a": [1, 2.5, null, "\\ud800"], "a": 1}') == {"a": 1}
    assert loads('{"a": {"b": 1}}', pairs=unique) == {"a": {"b": 1}}
    with pytest.raises(ValueError, match="a key twice in one object"):
        loads('[{"a": {"b": 1, "b": 2}}]', pairs=unique)


VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a,:[{"\\', max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
)


def count(value: object) -> int:
    """The values in a value, keys included."""
    if isinstance(value, dict):
        return 1 + sum(1 + count(inner) for inner in value.values())
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


@given(VALUES, st.booleans())
def test_values_are_counted_by_what_is_between_them(value: object, ascii_only: bool) -> None:
    """The count bounds the values that the parser makes; a text counts once, whatever is in it."""
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert not has_more_values(text, 2 * count(value))
    assert count(value) <= 1 or has_more_values(text, count(value) // 3)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        (rb'{"a": ["[", "\"{", "\\"]}', b"{: [, , ]}"),
        (rb'["\\\"[", 1, "[[[[', b"[, 1, "),
        (b'""""', None),
    ],
)
def test_what_stands_in_strings_is_left_out(text: bytes, bare: bytes | None) -> None:
    """A string ends where JSON says, or with the text; more strings than allowed are not read."""
    assert without_strings(text, 4 if bare else 1) == bare
