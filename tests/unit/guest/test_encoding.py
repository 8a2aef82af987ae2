"""The messages of a pytest inside fit the host's limits, however much a test prints."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_gvisor.guest import encoding
from pytest_gvisor.guest.frames import UNBOUNDED, Encoder
from pytest_gvisor.inside.link import decoder
from tests.fakes.frames import fed


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
    """A test may record it."""
    assert received("report", data=[[1, float("nan")], {"x": float("-inf")}])["data"] == [
        [1, "nan"], {"x": "-inf"},
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
