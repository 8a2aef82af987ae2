"""A guest's messages: each has exactly its fields, in their ranges."""

import os
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.guest.wire.frames import FrameError
from pytest_gvisor.sandbox.messages import SHAPES, Message, Outgoing, read

GOOD: dict[str, tuple[dict[str, Any], bytes]] = {
    "hello": ({"op": "hello", "id": 0, "version": 1}, b""),
    "started": ({"op": "started", "id": 3, "pid": 2}, b""),
    "failed": ({"op": "failed", "id": 3, "errno": 2}, b""),
    "data": ({"op": "data", "id": 3, "s": 1}, b"x" * 10),
    "eof": ({"op": "eof", "id": 3, "s": 0}, b""),
    "credit": ({"op": "credit", "id": 3, "n": 4096}, b""),
    "exit": ({"op": "exit", "id": 3, "status": 0x8B}, b""),
    "killed": ({"op": "killed", "id": 3, "left": 0}, b""),
    "answer": ({"op": "answer", "id": 3, "n": 1}, b""),
    "closed": ({"op": "closed", "id": 3, "errno": 0}, b""),
}


def parse(raw: dict[str, Any], payload: bytes = b"") -> Message:
    """Parse the message of a frame."""
    return read(raw, memoryview(payload))


def test_there_is_an_example_of_every_message() -> None:
    """The tests below cover each message of a guest."""
    assert GOOD.keys() == SHAPES.keys()


@pytest.mark.parametrize("op", GOOD)
def test_a_good_message_is_read(op: str) -> None:
    """A valid message is read."""
    raw, payload = GOOD[op]
    message = parse(raw, payload)
    assert (message.op, message.id) == (op, raw["id"])
    assert message.numbers == {
        name: value for name, value in raw.items() if name not in {"op", "id"}
    }


@pytest.mark.parametrize("op", GOOD)
def test_every_field_is_needed_and_no_other_is_allowed(op: str) -> None:
    """One field fewer or more is refused, and so is a payload in the wrong message."""
    raw, payload = GOOD[op]
    for name in raw:
        with pytest.raises(FrameError):
            parse({key: value for key, value in raw.items() if key != name}, payload)
    with pytest.raises(FrameError):
        parse({**raw, "more": 1}, payload)
    with pytest.raises(FrameError):
        parse(raw, b"" if payload else b"x")


@pytest.mark.parametrize("value", [-1, 2**62, 1.0, "1", True, None, [], {}, 2**70])
@pytest.mark.parametrize("op", GOOD)
def test_every_number_is_an_integer_in_its_range(op: str, value: object) -> None:
    """A negative, huge, fractional or boolean number is refused, as is another type."""
    raw, payload = GOOD[op]
    for name in raw:
        if name != "op":
            with pytest.raises(FrameError):
                parse({**raw, name: value}, payload)


@pytest.mark.parametrize("op", [None, 1, [], {}, "", "exec", "HELLO", "x" * 10_000])
def test_an_unknown_word_is_refused(op: object) -> None:
    """A message of the host's, or with no text as its name, is refused too."""
    with pytest.raises(FrameError, match="unknown message"):
        parse({"op": op, "id": 1})


@given(
    st.dictionaries(
        st.sampled_from(["op", "id", "s", "n", "errno", "status", "left", "x"]),
        st.sampled_from(sorted(GOOD)) | st.integers() | st.none() | st.lists(st.integers()),
    ),
    st.binary(max_size=3),
)
def test_any_object_is_a_message_or_an_error(raw: dict[str, Any], payload: bytes) -> None:
    """An object of any shape raises nothing but `FrameError`."""
    try:
        message = parse(raw, payload)
    except FrameError:
        return
    assert message.op in SHAPES


def test_a_descriptor_is_passed_with_the_next_bytes_that_the_socket_takes() -> None:
    """A copy is passed once, not while there is no room, and is closed then."""
    ours, theirs = socket.socketpair()
    outgoing = Outgoing()
    with ours, theirs, open(os.devnull) as null:
        ours.setblocking(False)
        outgoing.frame({"op": "a", "id": 1}, b"x" * 250_000)
        outgoing.frame({"op": "a", "id": 1}, b"x" * 250_000)
        with pytest.raises(BlockingIOError):
            outgoing.write(ours.fileno())
        outgoing.passed.append(os.dup(null.fileno()))
        with pytest.raises(BlockingIOError):
            outgoing.write(ours.fileno())
        assert len(outgoing.passed) == 1
        theirs.setblocking(False)
        passed = list[int]()
        while outgoing.size:
            passed += socket.recv_fds(theirs, 1 << 20, 9)[1]
            try:
                outgoing.write(ours.fileno())
            except BlockingIOError:
                continue
        assert outgoing.passed == []
        passed += socket.recv_fds(theirs, 1 << 20, 9)[1]
        (found,) = passed
        assert os.path.samestat(os.fstat(found), os.fstat(null.fileno()))
        os.close(found)


def test_what_is_dropped_passes_no_descriptor() -> None:
    """The copy is closed when the sandbox is gone."""
    reader, writer = os.pipe()
    outgoing = Outgoing()
    outgoing.frame({"op": "a", "id": 1})
    outgoing.passed.append(writer)
    outgoing.clear()
    assert outgoing.passed == []
    assert os.read(reader, 1) == b""
    os.close(reader)
