"""The limits of an image: bytes, entries and depth, with never more on the disk."""

import errno
import gzip
import io
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images import archive, extract, streams
from pytest_gvisor.images.archive import Layer
from pytest_gvisor.images.streams import DEFAULT_LIMITS, Limits, Reader
from tests.unit.images.conftest import Unpack, folder, header, item, link, tar

MIB = 1024 * 1024


def on_disk(root: Path) -> int:
    """Bytes that a tree takes on its disk."""
    return sum(path.lstat().st_blocks * 512 for path in root.rglob("*"))


def unpack_stored(
    source: Callable[[], Reader], root: Path, limits: Limits = DEFAULT_LIMITS
) -> None:
    """Unpack one layer that is never in memory as a whole."""
    root.mkdir()
    content: Any = SimpleNamespace(layers=[Layer(source=source)], limits=limits)
    extract.unpack(content, str(root))


class Repeated:
    """A stream that says the same so many times."""

    def __init__(self, piece: bytes, times: int) -> None:
        self.piece = piece
        self.size = len(piece) * times
        self.at = 0

    def read(self, count: int) -> bytes:
        """See `streams.Reader`."""
        start = self.at % len(self.piece)
        data = self.piece[start : start + min(count, self.size - self.at)]
        self.at += len(data)
        return data


@pytest.mark.fault("C10")
def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    """The reader stops at the limit, although ten million empty entries follow."""
    layer = Repeated(item("f")[0].tobuf(), 10**7)
    started = time.monotonic()
    with pytest.raises(ImageError, match="more than 1000 entries"):
        unpack_stored(lambda: layer, tmp_path / "root", Limits(max_entries=1000))
    assert time.monotonic() - started < 10
    assert layer.at == 512 * 1001
    assert os.listdir(tmp_path / "root") == ["f"]


@pytest.mark.fault("C10")
def test_too_many_bytes_are_refused(unpack: Unpack, tmp_path: Path) -> None:
    """Never more than that are written, of one file or of many."""
    limits = Limits(max_bytes=10**6)
    for items in (
        [item("f", b"x" * 600_000), item("g", b"x" * 600_000)],
        [item("h", b"x" * 1_600_000)],
    ):
        with pytest.raises(ImageError, match="more than 1000000 bytes"):
            unpack(items, limits=limits)
        root = tmp_path / "outside/within/root"
        assert on_disk(root) <= 10**6
        for path in root.iterdir():
            path.unlink()


@pytest.mark.fault("C10")
def test_folders_that_are_too_deep_are_refused(unpack: Unpack) -> None:
    """Depth is limited for long names and for links that each lead deeper."""
    with pytest.raises(ImageError, match="deeper than 128"):
        unpack([item("a/" * 2000 + "f")])
    items = []
    for step in range(5):
        items += [folder(f"s{step}/" + "a/" * 60), link(f"s{step + 1}", f"s{step}/" + "a/" * 60)]
    with pytest.raises(ImageError, match="deeper than 128"):
        unpack(items)


@pytest.mark.fault("C10")
def test_a_folder_may_be_as_deep_as_the_limit(unpack: Unpack) -> None:
    """The depth of a folder is that of its place, and not of its name."""
    limits = Limits(max_depth=3)
    unpack([item("a/b/c/f"), link("l", "a/b"), folder("l/d")], limits=limits)
    for name in ("a/b/c/d", "l/c/d"):
        with pytest.raises(ImageError, match="deeper than 3"):
            unpack([folder(name)], limits=limits)


@pytest.mark.fault("C10")
def test_a_compressed_layer_may_not_grow_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten megabytes that would be ten gigabytes are refused after some megabytes of them."""
    monkeypatch.setattr(streams, "FREE_BYTES", MIB)
    zeros = item("zeros", size=10 * 1024 * MIB)[0].tobuf()
    # One compressed stream behind the other is a compressed stream too.
    bomb = gzip.compress(zeros) + gzip.compress(bytes(16 * MIB)) * 640
    assert len(bomb) < 11 * MIB
    started = time.monotonic()
    with pytest.raises(ImageError, match="more than 200 times"):
        unpack_stored(lambda: io.BytesIO(bomb), tmp_path / "root")
    assert time.monotonic() - started < 30
    assert on_disk(tmp_path / "root") <= streams.CHUNK * 200
    (tmp_path / "root/zeros").unlink()


@pytest.mark.fault("C10")
@pytest.mark.parametrize("size", [1 << 40, 1 << 62])
def test_a_sparse_entry_is_refused(unpack: Unpack, tmp_path: Path, size: int) -> None:
    """A terabyte of nothing takes a kilobyte to say, in pax as in GNU's older way."""
    with pytest.raises(ImageError, match="sparse"):
        unpack([item("f", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": str(size)})])
    with pytest.raises(ImageError, match="sparse"):
        unpack(tar([item("f", type=tarfile.GNUTYPE_SPARSE)], format=tarfile.GNU_FORMAT))
    with pytest.raises(ImageError, match=r"truncated|has the size"):
        unpack(item("f", size=size)[0].tobuf(tarfile.GNU_FORMAT))
    assert on_disk(tmp_path / "outside/within/root") <= 4096


@pytest.mark.fault("C10")
@pytest.mark.parametrize(
    ("limits", "match"),
    [(Limits(), "holds more than"), (Limits(max_bytes=1 << 50, max_seconds=0.2), "longer than")],
    ids=["size", "time"],
)
def test_a_sparse_file_is_no_work_without_end(tmp_path: Path, limits: Limits, match: str) -> None:
    """A tarball is hashed: a terabyte of nothing is refused by its size, or at the deadline."""
    path = tmp_path / "sparse.tar"
    path.touch()
    os.truncate(path, 1 << 40)
    started = time.monotonic()
    with pytest.raises(ImageError, match=match), archive.opened(str(path), limits=limits):
        pass
    assert time.monotonic() - started < 10


def image_like(*blocks: bytes) -> bytes:
    """An archive whose entries are all looked at for the parts of an image."""
    return b"".join([item("oci-layout")[0].tobuf(), *blocks, bytes(1024)])


@pytest.mark.fault("C10")
def test_the_deadline_holds_while_entries_are_looked_for(tmp_path: Path) -> None:
    """A header for all entries makes each of them slow: there may be a hundred thousand."""
    records = b"".join(b"12 k%05d=v\n" % n for n in range(5000))
    (tmp_path / "i").write_bytes(image_like(header(b"g", records), item("f")[0].tobuf() * 20_000))
    started = time.monotonic()
    with (
        pytest.raises(ImageError, match="longer than"),
        archive.opened(str(tmp_path / "i"), limits=Limits(max_seconds=0.2)),
    ):
        pass
    assert time.monotonic() - started < 10


@pytest.mark.fault("C10")
def test_headers_for_all_entries_do_not_add_up(unpack: Unpack) -> None:
    """Headers for all entries have one limit together, since they stay in memory."""
    one = b"".join(b"12 k%05d=v\n" % n for n in range(2000))
    other = b"".join(b"12 l%05d=v\n" % n for n in range(2000))
    file = item("f")[0].tobuf()
    assert (unpack(header(b"g", one) + header(b"g", one) + file + bytes(1024)) / "f").exists()
    many = b"".join(header(b"g", other.replace(b"l", b"%c" % (97 + n))) for n in range(8))
    with pytest.raises(ImageError, match="headers for all entries"):
        unpack(many + file + bytes(1024))


@pytest.mark.fault("C10")
def test_names_that_no_file_can_have_are_not_kept(tmp_path: Path, unpack: Unpack) -> None:
    """A name or target is at most as long as the kernel takes one; so are all of an archive."""
    for kind in (b"L", b"K"):
        with pytest.raises(ImageError, match="longer than 4096 bytes"):
            unpack(header(kind, b"n" * 4097) + item("f")[0].tobuf() + bytes(1024))
    named = [
        header(b"L", b"%d/" % n + b"n" * 4000) + item("f")[0].tobuf(tarfile.GNU_FORMAT)
        for n in range(5000)
    ]
    (tmp_path / "image.tar").write_bytes(image_like(*named))
    with pytest.raises(ImageError, match="names"), archive.opened(str(tmp_path / "image.tar")):
        pass


@pytest.mark.fault("G5")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_an_error_that_says_what_to_do(
    unpack: Unpack, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The message has the kernel's error and a remedy, also for an exhausted quota."""

    class Full(io.FileIO):
        def write(self, _data: object) -> int:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(extract, "open", Full, raising=False)
    with pytest.raises(ImageError, match=rf"{os.strerror(number)}(.|\n)*XDG_CACHE_HOME"):
        unpack([item("f", b"x")])
