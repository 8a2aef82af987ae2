"""What is kept of a stream: all of it, or its head and tail and the count."""

from __future__ import annotations

import itertools
import os
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.launch.capture import CHUNK, Capture, Drain


def captured(limit: int, chunks: list[bytes]) -> Capture:
    """A capture that was fed these chunks."""
    capture = Capture(limit)
    for chunk in chunks:
        capture.feed(memoryview(chunk))
    return capture


@given(limit=st.integers(0, 40), chunks=st.lists(st.binary(max_size=60), max_size=12))
def test_head_tail_and_count_are_exact_for_any_chunking(limit: int, chunks: list[bytes]) -> None:
    """However the stream is cut: the first half, the last half, and how much there was between."""
    stream = b"".join(chunks)
    capture = captured(limit, chunks)
    assert capture.total == len(stream)
    if len(stream) <= limit:
        assert (capture.head(), capture.tail()) == (stream, b"")
        assert not capture.truncated
        assert capture.left_out == 0
    else:
        head, tail = limit - limit // 2, limit // 2
        assert capture.head() == stream[:head]
        assert capture.tail() == stream[len(stream) - tail :]
        assert capture.truncated
        assert capture.left_out == len(stream) - limit
    assert len(capture.head()) + len(capture.tail()) + capture.left_out == len(stream)


@given(
    limit=st.integers(0, 40), chunks=st.lists(st.binary(max_size=60), max_size=8), data=st.data()
)
def test_the_chunking_does_not_matter(limit: int, chunks: list[bytes], data: st.DataObject) -> None:
    """The same stream cut in another way is kept the same."""
    stream = b"".join(chunks)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    edges = [0, *cuts, len(stream)]
    others = [stream[a:b] for a, b in itertools.pairwise(edges)]
    one, other = captured(limit, chunks), captured(limit, others)
    assert (one.head(), one.tail(), one.total) == (other.head(), other.tail(), other.total)


def test_memory_does_not_grow_with_the_stream() -> None:
    """A hundred times the limit takes no more than the limit and one chunk."""
    limit = 256 * 1024
    chunk = memoryview(bytes(64 * 1024))
    tracemalloc.start()
    capture = Capture(limit)
    for _ in range(400):
        capture.feed(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert capture.total == 400 * len(chunk)
    assert peak < 3 * limit


@pytest.fixture
def pipe() -> Iterator[tuple[int, Callable[[], None]]]:
    """The two ends of a pipe; the second can be closed earlier."""
    reader, writer = os.pipe()
    ends = {reader, writer}

    def close_writer() -> None:
        ends.discard(writer)
        os.close(writer)

    os.write(writer, b"first")
    yield reader, close_writer
    for fd in ends:
        os.close(fd)


def test_a_drain_takes_what_is_there_and_knows_the_end(
    pipe: tuple[int, Callable[[], None]],
) -> None:
    """It never waits: there may be nothing for now, and that is not the end."""
    reader, close_writer = pipe
    capture = Capture(100)
    drain = Drain(reader, capture, bytearray(CHUNK))
    assert drain.read()
    assert drain.read()
    assert capture.head() == b"first"
    close_writer()
    assert not drain.read()
    assert capture.total == 5
