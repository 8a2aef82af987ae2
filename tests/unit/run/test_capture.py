"""The kept bytes of a stream: all, or its head and tail with the count."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.run.capture import CHUNK, Capture


def captured(limit: int, chunks: list[bytes]) -> Capture:
    """A capture that was fed these chunks."""
    capture = Capture(limit)
    for chunk in chunks:
        capture.feed(memoryview(chunk))
    return capture


@given(limit=st.integers(0, 40), chunks=st.lists(st.binary(max_size=60), max_size=12))
def test_head_tail_and_count_are_exact_for_any_chunking(limit: int, chunks: list[bytes]) -> None:
    """Each chunking gives the first half, the last half, and the number of bytes between."""
    stream = b"".join(chunks)
    capture = captured(limit, chunks)
    assert capture.total == len(stream)
    if len(stream) <= limit:
        assert capture.data() == stream
        assert not capture.truncated
    else:
        head, tail = limit - limit // 2, limit // 2
        assert capture.data() == stream[:head] + stream[len(stream) - tail :]
        assert capture.truncated
    for count in (0, 1, limit // 2, limit, 100):
        assert capture.last(count) == capture.data()[max(0, len(capture.data()) - count) :]


@pytest.mark.parametrize("limit", [0, 10, 3 * CHUNK, 16 * CHUNK + 1])
def test_a_ring_that_wraps_keeps_the_last_bytes(limit: int) -> None:
    """The buffer's seam falls on each place: pieces divide neither the buffer nor the limit."""
    pieces = [bytes([number % 251]) * 300_007 for number in range(120)]
    stream = b"".join(pieces)
    capture = captured(limit, pieces)
    head, tail = limit - limit // 2, limit // 2
    assert capture.data() == stream[:head] + stream[len(stream) - tail :]
    assert capture.total == len(stream)


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_memory_does_not_grow_with_the_stream() -> None:
    """A hundred times the limit takes no more than the limit; little output takes next to none."""
    before = resident()
    captures = [captured(256 * CHUNK, [b"x"]) for _ in range(4)]
    assert resident() - before < 4 * 2 * CHUNK + CHUNK, "at most a large page each"
    capture = Capture(8 * CHUNK)
    chunk = memoryview(bytes(CHUNK))
    before = resident()
    for _ in range(800):
        capture.feed(chunk)
    assert capture.total == 800 * CHUNK
    assert resident() - before < 12 * CHUNK
    assert [capture.data() for capture in captures] == [b"x"] * 4
