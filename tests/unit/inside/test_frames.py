"""Messages from inside: any cut gives the same ones, and invalid ones are a typed error."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.guest.wire.frames import HEADER, NO_TAG, UNBOUNDED, Encoder, FrameError
from pytest_gvisor.inside.wire import link
from pytest_gvisor.inside.wire.link import decoder
from tests.fakes.frames import fed

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
messages = st.dictionaries(st.text(max_size=6), values, max_size=4).map(
    lambda found: {**found, "type": "report"}
)


@given(sent=st.lists(messages, max_size=5), data=st.data())
def test_messages_arrive_however_they_are_cut(
    sent: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Byte by byte, or several at once."""
    stream = b"".join(map(Encoder(max_json=UNBOUNDED).head, sent))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=9).map(sorted))
    inner = decoder()
    found: list[dict[str, Any]] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += (message for message, _payload in fed(inner, stream[begin:end]))
    assert found == sent


def received(stream: bytes, limit: int = link.MAX_MESSAGE) -> list[dict[str, Any]]:
    """The messages in these bytes."""
    return [message for message, _payload in fed(decoder(limit), stream)]


def framed(text: bytes) -> bytes:
    """Frame these bytes as one message."""
    return announced(len(text)) + text


def announced(size: int, *, payload: int = 0, number: int = 0, tag: bytes = NO_TAG) -> bytes:
    """The head of a message."""
    return HEADER.pack(tag, number, size, payload)


@pytest.mark.parametrize(
    "stream",
    [
        framed(b"{"), framed(b"[]"), framed(b"{}"), framed(b'{"type": 1}'), framed(b"\xff\xfe"),
        framed(b"[" * 100_000), announced(2**31), announced(2, payload=1), announced(2, number=1),
        announced(2, tag=b"guessed!"), b"\xff" * 20,
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(stream: bytes) -> None:
    """A message of another type, another head than is due and deep nesting are refused."""
    with pytest.raises(FrameError):
        received(stream)


def test_a_long_message_is_refused_before_it_is_held() -> None:
    """A message is refused by its length alone."""
    with pytest.raises(FrameError, match="a frame of 11 and 0 bytes"):
        received(announced(11), limit=10)


def test_lone_surrogates_survive() -> None:
    """A test's output may hold them."""
    text = b'{"type": "report", "text": "\xed\xb3\xbf"}'
    (message,) = received(framed(text))
    assert message["text"] == "\udcff"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_python_alone_takes_for_a_number_is_refused(number: str) -> None:
    """A number that only Python accepts is no JSON."""
    with pytest.raises(FrameError, match="is no JSON"):
        received(framed(f'{{"type": "report", "n": {number}}}'.encode()))


@pytest.mark.parametrize(
    "many",
    [b"[%s]" % b",".join([b"{}"] * 500), b"[%s]" % b",".join([b'""'] * 1500), b"[" * 999,
     b"{%s}" % b",".join([b'"":0'] * 600), b'"\\\\",[%s]' % b",".join([b"0"] * 1200)],
)  # fmt: skip
def test_the_values_of_a_message_are_counted_before_they_are_made(
    many: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest take many times more memory here than on their way."""
    monkeypatch.setattr(link, "MAX_VALUES", 1000)
    with pytest.raises(FrameError, match="more than 1000 values"):
        received(framed(b'{"type": "report", "many": [' + many))


def test_what_a_test_prints_counts_as_one_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text counts as one value, whatever commas, braces, quotes and backslashes are in it."""
    monkeypatch.setattr(link, "MAX_VALUES", 1000)
    text = '{[,:"\\' * 900 + ',"\\\\"'
    sent = {"type": "report", "text": text, "next": [text]}
    (message,) = received(framed(json.dumps(sent).encode()))
    assert message == sent


def test_a_message_may_be_as_long_as_the_limit() -> None:
    """A long message arrives between short ones, and its buffer is given back."""
    encoder = Encoder(max_json=UNBOUNDED)
    texts = ["x", "y" * 3_000_000, "z" * 40_000_000, "a"]
    sent = [{"type": "report", "text": text} for text in texts]
    stream = memoryview(b"".join(map(encoder.head, sent)))
    inner = decoder()
    assert [message for message, _payload in fed(inner, stream, 700_001)] == sent
    assert len(inner.room()) <= 2**20
