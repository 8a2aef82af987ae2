import time

import pytest

from pytest_gvisor.base.errors import InvalidBundle
from pytest_gvisor.oci import reader

HOSTILE = {
    "deep lists": b"[" * 10_000 + b"]" * 10_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "too large": b'"' + b"a" * (4 << 20) + b'"',
    "huge": b" " * 100_000_000,
    "not a number": b'{"a": NaN}',
    "infinite": b"[Infinity, -Infinity]",
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "invalid utf-8": b'"\xff"',
    "surrogate bytes": b'"\xed\xa0\x80"',
    "a number of a million digits": b"1" * 1_000_000,
    "cut off": b'{"a": ',
    "nothing": b"",
    "wide": b"[" + b"{}," * 1_390_000 + b"{}]",
    "wide and unfinished": b"[[]," * 1_000_000,
    "a string that is not closed": b"[" * 65 + b'"' + b'\\"' * 2_000_000,
    "a string that ends in its escape": b"[" * 65 + b'"' + b'\\"' * 2_000_000 + b"\\",
}


@pytest.mark.fault("B14")
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_a_typed_error_in_no_time(data: bytes) -> None:
    """Text that is not JSON, or is too much of it, is an InvalidBundle and takes no time."""
    start = time.thread_time()
    with pytest.raises(InvalidBundle):
        reader.load(data, where="x")
    assert time.thread_time() - start < 5


def test_brackets_in_text_are_read() -> None:
    """A string counts as one value, whatever is in it."""
    assert reader.load(b'["' + b"[" * 500 + b'\\"[", 1]', where="x") == ["[" * 500 + '"[', 1]


def test_a_place_is_printed_without_control_characters() -> None:
    """A key with an escape sequence in it does not reach the terminal raw."""
    assert reader.at("a", "\x1b[2J\n") == 'a["\\u001b[2J\\n"]'
    assert len(reader.at("a", "k" * 10_000)) < 100
