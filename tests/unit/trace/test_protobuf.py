"""The reader of protobuf: strict, and of bytes of any kind."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.trace import protobuf
from tests.fakes.events import field

numbers = st.integers(0, 2**64 - 1)
values = st.dictionaries(st.integers(1, 2**20), st.one_of(numbers, st.binary(max_size=40)))


@given(values=values)
def test_fields_are_what_was_encoded(values: dict[int, int | bytes]) -> None:
    """Numbers as numbers, bytes as bytes."""
    assert protobuf.fields(b"".join(field(*one) for one in values.items())) == values


@given(data=st.binary(max_size=200))
def test_any_bytes_are_fields_or_a_value_error(data: bytes) -> None:
    """Hostile bytes give fields or a `ValueError`."""
    with contextlib.suppress(ValueError):
        found = protobuf.fields(data)
        assert all(isinstance(value, int | bytes) for value in found.values())


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x80", "varint without"), (b"\x08", "varint without"), (b"\x12\x05abc", "longer"),
        (b"\x09" + bytes(8), "wire type 1"), (b"\x0d" + bytes(4), "wire type 5"),
        (b"\x0b", "wire type 3"), (b"\x0c", "wire type 4"), (b"\xff" * 11, "more than ten bytes"),
        (b"\x08" + b"\xff" * 10, "more than ten bytes"),
    ],
)  # fmt: skip
def test_what_is_cut_short_or_of_another_type_is_refused(data: bytes, told: str) -> None:
    """A varint without an end, a field longer than its message, fixed-size types."""
    with pytest.raises(ValueError, match=told):
        protobuf.fields(data)


def test_the_last_field_of_a_number_counts() -> None:
    """Up to the last byte, in ten bytes too."""
    assert protobuf.fields(b"\x08\x01\x08\x02\x12\x00") == {1: 2, 2: b""}
    assert protobuf.fields(b"\x08" + b"\xff" * 9 + b"\x01") == {1: 2**64 - 1}
    assert protobuf.fields(b"\x08\x7f\x10\x80\x01") == {1: 127, 2: 128}


@pytest.mark.parametrize(
    ("encoded", "number"),
    [(0, 0), (5, 5), (2**64 - 100, -100), (2**62, 2**62), (2**63, -(2**63)), (2**70 - 1, -1)],
)
def test_a_signed_number_is_in_two_s_complement(encoded: int, number: int) -> None:
    """AT_FDCWD, which is -100, comes as a number of 64 bits."""
    assert protobuf.signed(encoded) == number


def test_texts_are_those_of_one_field_in_their_order() -> None:
    """Bytes that are no UTF-8 become escape sequences."""
    data = field(3, b"a") + field(4, b"x") + field(3, b"b\xff") + field(3, b"")
    assert protobuf.texts(data, 3) == ("a", "b\\xff", "")
    assert protobuf.texts(data, 9) == ()


def test_a_field_of_another_kind_is_a_value_error() -> None:
    """A number is no text, and a text no number."""
    with pytest.raises(ValueError, match="in place of a text"):
        protobuf.text(1)
    with pytest.raises(ValueError, match="in place of a text"):
        protobuf.texts(b"\x08\x01", 1)
    with pytest.raises(ValueError, match="in place of a number"):
        protobuf.signed(b"x")
