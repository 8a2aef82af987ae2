"""Entries that programs read differently: each is refused, or all programs read it alike."""

import io
import tarfile

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images.tar import Kind, Tar
from tests.unit.images.conftest import header, item

EVIL = item("evil")[0].tobuf()
OLD = tarfile.AREGTYPE


def entries(*blocks: bytes) -> list[tuple[bytes, Kind]]:
    """The names and kinds of the entries in an archive of these blocks."""
    found = Tar(io.BytesIO(b"".join([*blocks, bytes(1024)])))
    return [(entry.name, entry.kind) for entry in found]


def named(name: str, kind: bytes, data: bytes = b"") -> bytes:
    """An entry, whose name keeps its slash, and its content."""
    info = item("", data, type=kind)[0]
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[: len(name)] = name.encode()
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.CONTTYPE, OLD])
def test_content_is_never_taken_for_entries(kind: bytes) -> None:
    """The content of a file with a folder's name could be read as the next entry."""
    with pytest.raises(ImageError, match="folder's name"):
        entries(named("x/", kind, EVIL))


def test_a_folder_from_before_there_was_a_type_for_it_is_one() -> None:
    """An empty entry without a type is a folder if its own header's name ends with a slash."""
    assert entries(named("x/", OLD), EVIL) == [(b"x/", Kind.FOLDER), (b"evil", Kind.FILE)]
    for own, other in (("x", b"11 path=y/\n"), ("x/", b"10 path=y\n")):
        with pytest.raises(ImageError, match="folder's name"):
            entries(header(b"x", other), named(own, OLD))


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x", b"10 path=a\n"), (b"L", b"b\0")],
        [(b"K", b"b\0"), (b"x", b"14 linkpath=a\n")],
        [(b"x", b"10 path=a\n"), (b"x", b"10 path=b\n")],
        [(b"L", b"a\0"), (b"L", b"b\0")],
        [(b"x", b"10 path=a\n10 path=b\n")],
    ],
    ids=["path", "target", "pax twice", "gnu twice", "one pax"],
)
def test_what_is_said_twice_of_an_entry_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    """Some programs take the first, and others the last."""
    with pytest.raises(ImageError, match="twice"):
        entries(*(header(*each) for each in headers), EVIL)


@pytest.mark.parametrize("record", [b"10 path=a\n", b"14 linkpath=a\n", b"12 size=512\n"])
def test_no_header_for_all_entries_says_what_each_is(record: bytes) -> None:
    """Go's reader, and with it docker, leaves these out; a comment or a time does no harm."""
    with pytest.raises(ImageError, match="for all entries"):
        entries(header(b"g", record), EVIL)
    assert entries(header(b"g", b"13 comment=a\n"), EVIL) == [(b"evil", Kind.FILE)]
