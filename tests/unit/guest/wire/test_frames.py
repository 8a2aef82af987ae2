"""Frames: a written frame is read, and other bytes are refused."""

import contextlib
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.guest.wire.frames import (
    HEADER,
    MAX_JSON,
    MAX_PAYLOAD,
    Decoder,
    Encoder,
    FrameError,
    Outbox,
    parse,
    receive,
)
from tests.fakes.frames import fed

TAG = b"12345678"


def taken(decoder: Decoder, data: bytes, step: int) -> list[tuple[dict[str, Any], bytes]]:
    """The frames in ``data``, handed over in pieces."""
    return list(fed(decoder, data, step))


MESSAGES = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20), max_size=5)


@given(
    st.lists(st.tuples(MESSAGES, st.binary(max_size=5000)), max_size=8),
    st.integers(min_value=1, max_value=7000),
)
def test_frames_come_out_as_they_went_in(
    sent: list[tuple[dict[str, Any], bytes]], step: int
) -> None:
    """Messages and payloads survive, in their order, however the stream is cut into pieces."""
    encoder = Encoder(TAG)
    data = b"".join(encoder.head(message, len(p)) + p for message, p in sent)
    decoder = Decoder(TAG)
    assert taken(decoder, data, step) == sent


def test_an_outbox_gives_a_pipe_what_it_takes() -> None:
    """Parts of any size arrive in their order; the next write takes the rest of the last one."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    outbox, sent, received = Outbox(), [os.urandom(n * 997) for n in range(40)], b""
    outbox.add(*sent[:20])
    outbox.add(memoryview(b"".join(sent[20:])))
    assert outbox.size == sum(map(len, sent))
    while outbox.size:
        with contextlib.suppress(BlockingIOError):
            outbox.write(writer)
        received += os.read(reader, 30_000)
    os.close(writer)
    while more := os.read(reader, 30_000):
        received += more
    os.close(reader)
    assert received == b"".join(sent)


def test_an_outbox_that_nobody_reads_is_cleared() -> None:
    """The error of the write reaches the caller, and the outbox can be cleared."""
    reader, writer = os.pipe()
    os.close(reader)
    outbox = Outbox()
    outbox.add(b"abc", b"")
    with pytest.raises(BrokenPipeError):
        outbox.write(writer)
    outbox.clear()
    outbox.write(writer)
    assert outbox.size == 0
    os.close(writer)


def test_the_largest_frame_fits() -> None:
    """The limits are limits that can be reached, by frame after frame."""
    encoder, decoder = Encoder(), Decoder()
    message = {"a": "x" * (MAX_JSON - len('{"a":""}'))}
    for _ in range(10):
        data = encoder.head(message, MAX_PAYLOAD) + b"p" * MAX_PAYLOAD
        assert taken(decoder, data, 100_000) == [(message, b"p" * MAX_PAYLOAD)]


@pytest.mark.parametrize(
    ("message", "payload"), [({"a": "x" * MAX_JSON}, 0), ({}, MAX_PAYLOAD + 1)]
)
def test_a_frame_above_the_limits_is_not_sent(message: dict[str, Any], payload: int) -> None:
    """The encoder refuses a message that the decoder would refuse."""
    with pytest.raises(FrameError, match="too large"):
        Encoder().head(message, payload)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (HEADER.pack(b"87654321", 0, 2, 0), "another tag"),
        (HEADER.pack(TAG, 1, 2, 0), "frame 1, where 0 was due"),
        (HEADER.pack(TAG, 0, MAX_JSON + 1, 0), "a frame of"),
        (HEADER.pack(TAG, 0, 2, MAX_PAYLOAD + 1), "a frame of"),
        (HEADER.pack(TAG, 0, 2**32 - 1, 2**32 - 1), "a frame of"),
    ],
    ids=["tag", "number", "json", "payload", "both"],
)
def test_a_header_is_judged_before_anything_is_kept(header: bytes, reason: str) -> None:
    """Another tag, a gap in the numbers or a length above the limit ends it with the header."""
    with pytest.raises(FrameError, match=reason):
        taken(Decoder(TAG), header, 100)


def test_a_frame_that_was_lost_or_comes_twice_is_seen() -> None:
    """The numbers count up, so that a lost or repeated frame is an error."""
    encoder = Encoder(TAG)
    first, second, third = (encoder.head({"n": n}) for n in range(3))
    with pytest.raises(FrameError, match="frame 2, where 1 was due"):
        taken(Decoder(TAG), first + third, 100)
    with pytest.raises(FrameError, match="frame 1, where 2 was due"):
        taken(Decoder(TAG), first + second + second, 100)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"1", b"null", b'"a"', b"{", b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":Infinity}',
        b"\xff\xfe{\x00}\x00", b'{"a":"\xff"}', b"[" * 60_000, b'{"a":' * 10_000,
        b'{"a":' + b"1" * 6000 + b"}",
    ],
    ids=range(14),
)  # fmt: skip
def test_what_is_no_plain_json_object_is_refused(data: bytes) -> None:
    """Arrays, duplicate keys, NaN, other encodings, deep nesting or endless numbers are refused."""
    with pytest.raises(FrameError):
        parse(data)


def test_one_frame_is_taken_and_no_byte_after_it() -> None:
    """The rest is for another reader."""
    reader, writer = os.pipe()
    os.write(writer, Encoder(b"x" * 8).head({"op": "wake", "id": 0}) + b"rest")
    assert receive(reader, b"x" * 8) == {"op": "wake", "id": 0}
    os.close(writer)
    assert os.read(reader, 10) == b"rest"
    with pytest.raises(EOFError):
        receive(reader, b"x" * 8)
    os.close(reader)


@pytest.mark.parametrize(
    "data",
    [
        Encoder(b"y" * 8).head({"op": "wake"}),
        Encoder(b"x" * 8).head({"op": "wake"}, 5),
        HEADER.pack(b"x" * 8, 1, 2, 0) + b"{}",
        HEADER.pack(b"x" * 8, 0, MAX_JSON + 1, 0),
        HEADER.pack(b"x" * 8, 0, 2, 0) + b"[]",
    ],
)
def test_another_frame_than_the_one_that_is_due_is_an_error(data: bytes) -> None:
    """The tag, the number, the sizes and the form are checked."""
    reader, writer = os.pipe()
    os.write(writer, data)
    with pytest.raises(FrameError):
        receive(reader, b"x" * 8)
    os.close(reader)
    os.close(writer)
