"""Decompression of layers and archives: whole, bounded, and by four libraries in one way."""

import io
import lzma
import sys
import tracemalloc

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images import streams
from pytest_gvisor.images.streams import CHUNK, Budget, Inflated, Limits
from tests.unit.images.conftest import PACKED

MIB = 1024 * 1024
FRAME = b"\x28\xb5\x2f\xfd"
SKIPPED = b"\x5f\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
each_kind = pytest.mark.parametrize("kind", PACKED)


class Pieces(io.BytesIO):
    """A source whose reads return a few bytes each, as a file in an archive may."""

    def read(self, count: int | None = -1, /) -> bytes:
        """See `streams.Reader`."""
        return super().read(min(count or 0, 7))


def inflated(data: bytes | io.BytesIO, limits: Limits | None = None) -> bytes:
    """The decompressed bytes."""
    source = data if isinstance(data, io.BytesIO) else io.BytesIO(data)
    reader = Inflated(source, Budget(limits=limits or Limits()))
    assert reader.is_compressed
    return b"".join(iter(lambda: reader.read(CHUNK), b""))


@each_kind
def test_streams_one_after_the_other_are_one(kind: str) -> None:
    """Zeros may follow each of them, and reads may be small."""
    pack = PACKED[kind]
    for data in (
        pack(b"one") + pack(b"") + pack(b"two"),
        pack(b"one") + bytes(CHUNK + 3) + pack(b"two") + bytes(CHUNK + 3),
    ):
        assert inflated(data) == b"onetwo"
        assert inflated(Pieces(data[: 2 * CHUNK])).startswith(b"one")


@each_kind
def test_a_stream_that_stops_early_is_truncated(kind: str) -> None:
    """No length of it passes for the whole; nor does a second stream's."""
    whole = PACKED[kind](bytes(range(256)) * 40)
    for data in (whole, PACKED[kind](b"x") + whole):
        for end in range(len(data) - len(whole) + 6, len(data), max(1, len(whole) // 50)):
            with pytest.raises(ImageError, match="truncated"):
                inflated(data[:end])


@each_kind
@pytest.mark.parametrize("where", ["inside", "behind"])
def test_damage_is_an_error_and_no_end(kind: str, where: str) -> None:
    """Neither changed bytes nor a rest of another kind are passed over."""
    whole = PACKED[kind](b"some text, of some length")
    data = whole + b"rest" if where == "behind" else whole[:6] + b"\xff" * 9 + whole[15:]
    with pytest.raises(ImageError, match="compressed data is damaged: "):
        inflated(data)


@each_kind
def test_a_bomb_is_refused_in_little_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decompressed bytes are counted while they come, and no read returns more than asked for."""
    bomb = PACKED[kind](bytes(40 * MIB))
    monkeypatch.setattr(streams, "FREE_BYTES", MIB)
    reader = Inflated(io.BytesIO(bomb), Budget(limits=Limits()))
    sizes: list[int] = []
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="more than 200 times"):
            sizes.extend(iter(lambda: len(reader.read(CHUNK)), 0))
        assert max(sizes) <= CHUNK
        assert tracemalloc.get_traced_memory()[1] < 10 * MIB
    finally:
        tracemalloc.stop()


def test_what_needs_much_memory_to_unpack_is_refused() -> None:
    """A few bytes of zstd or xz may ask for 2 GiB: their headers say how much they need."""

    def frame(log: int) -> bytes:
        # A descriptor without a size, the window's size, and one last raw block of three bytes.
        return FRAME + bytes([0, (log - 10) << 3]) + (1 | 3 << 3).to_bytes(3, "little") + b"abc"

    assert inflated(frame(28)) == b"abc"
    for log in (29, 31):
        with pytest.raises(ImageError, match=r"damaged: .*too much memory"):
            inflated(frame(log))
    small, large = (
        lzma.compress(b"abc", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << log}])
        for log in (27, 28)
    )
    assert inflated(small) == b"abc"
    with pytest.raises(ImageError, match="damaged: Memory usage limit exceeded"):
        inflated(large)


def test_frames_to_be_skipped_are_skipped() -> None:
    """Some programs write notes of their own before a frame, or after the last one."""
    data = PACKED["zstd"](b"one")
    assert inflated(SKIPPED + data + SKIPPED + data + SKIPPED) == b"oneone"


def test_zstd_that_cannot_be_imported_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names a remedy."""
    data = PACKED["zstd"](b"x")
    for name in ("backports.zstd", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImageError, match=r"zstd, which this Python cannot read(.|\n)*docker save"):
        inflated(data)
