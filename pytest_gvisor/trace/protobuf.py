"""The one reader of protobuf messages, for those of the sentry.

The sender may have been taken over by untrusted code: anything that is no message is a ValueError.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator


def fields(data: bytes) -> dict[int, int | bytes]:
    """Parse a message: varints as int, length-delimited fields as bytes; the last one counts.

    Raises ValueError for anything else.
    """
    return dict(_pairs(data))


def texts(data: bytes, number: int) -> tuple[str, ...]:
    """Return the texts of a repeated field. Raises ValueError like `fields`."""
    return tuple(text(value) for key, value in _pairs(data) if key == number)


def text(value: int | bytes) -> str:
    """Return a field's text; bytes that are no UTF-8 become escape sequences."""
    if not isinstance(value, bytes):
        raise ValueError("a number in place of a text")  # noqa: TRY004 -- one error for all
    return value.decode("utf-8", "backslashreplace")


def signed(value: int | bytes) -> int:
    """Return a field's number, which int32 and int64 have in two's complement."""
    if not isinstance(value, int):
        raise ValueError("a text in place of a number")  # noqa: TRY004 -- one error for all
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _pairs(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield key >> 3, value
        elif kind == 2:
            size, position = _varint(data, position)
            if position + size > len(data):
                raise ValueError("a field that is longer than its message")
            yield key >> 3, data[position : position + size]
            position += size
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("a varint without an end")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a varint of more than ten bytes")
