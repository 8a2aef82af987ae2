"""Untrusted JSON: a value, or one kind of error with a short text."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.guest.wire import encoding
from pytest_gvisor.guest.wire.checked_json import has_more_values, loads, unique, without_strings
from pytest_gvisor.guest.wire.frames import UNBOUNDED, Encoder
from pytest_gvisor.inside.wire.link import decoder
from tests.fakes.frames import fed


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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be", "utf-8-sig"])
def test_no_encoding_hides_values_from_the_count(encoding: str) -> None:
    """A byte of the first character looks like a quote, and all that follows like a string."""
    text = f'["\u2200",{"{}," * 1000}0]'.encode(encoding)
    with pytest.raises(ValueError, match=r"UTF-8|utf-8|Expecting"):
        loads(text)


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


def received(kind: str, most: int = 64 * 2**20, **fields: Any) -> dict[str, Any]:
    """The message that the host receives."""
    data = Encoder(max_json=UNBOUNDED).framed(encoding.encoded(kind, fields, most))
    ((message, _payload),) = fed(decoder(), data)
    return message


def test_a_character_takes_no_more_than_it_must() -> None:
    """Six million of any kind are a message."""
    text = "🎉" * 1000 + "ü\udcff\0"
    assert len(encoding.encoded("report", {"text": text})) < 4100
    assert received("report", text=text)["text"] == text


def test_what_is_too_long_is_shortened_and_sent() -> None:
    """A long part of a report is shortened to its beginning and end."""
    data = {"longrepr": "a" * 300_000 + "b", "sections": [["out", "c" * 300_000]], "when": "call"}
    message = received("report", 200_000, data=data)
    assert message["data"]["when"] == "call"
    for text in (message["data"]["longrepr"], message["data"]["sections"][0][1]):
        assert len(text) < 70_000
        assert "characters left out" in text
    assert message["data"]["longrepr"].endswith("b")


def test_so_are_lists_of_more_values_than_a_message_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first and the last values stay; a text of commas counts as one value."""
    monkeypatch.setattr(encoding, "_MAX_VALUES", 100_000)
    message = received("report", values=list(range(150_000)), text="," * 150_000)
    assert message["values"][:1] + message["values"][-1:] == [0, 149_999]
    assert len(message["values"]) == 64 * 1024
    assert received("report", text="," * 150_000)["text"] == "," * 150_000


def test_a_number_that_json_has_not_becomes_text() -> None:
    """A test may record it, and a whole one of more digits than Python writes."""
    large = 2**20_000
    data = [[1, float("nan"), 1e308, -large], {"x": float("-inf"), large: large}]
    assert received("report", data=data)["data"] == [
        [1, "nan", 1e308, hex(-large)], {"x": "-inf", hex(large): hex(large)},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"id": 'test_it.py::test_it[größe\udcff\0"\\]', "when": "call"},
        {"id": "a", "passed": {"times": (0.1 + 0.2, 1.7e9, -0.0), "location": ("a", None, "b")}},
        {"id": "a", "times": (float("nan"), float("-inf"))},
        {"id": object, "keywords": {1: 2}},
    ],
)
def test_a_short_message_is_encoded_as_any_other(fields: dict[str, Any]) -> None:
    """The encoder gives the same bytes, and looks at no size."""
    assert encoding.short("phase", fields) == encoding.encoded("phase", fields)
