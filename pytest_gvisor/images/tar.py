"""A reader of tar streams: ustar, pax and GNU, names as bytes, in constant memory.

It lists the entries of an archive and touches no file system. Unknown types are refused, because
two programs that read such an archive may build two different root file systems.

The standard library's `tarfile` bounds no memory of a hostile archive. It reads the headers in
front of an entry as a whole. An archive may have gigabytes of them (python/cpython issue 155633).
It keeps each entry that it has read (issue 102120), but with an option of Python 3.13.

Source: https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html and GNU tar's manual.
"""

from __future__ import annotations

import dataclasses
import decimal
import enum
import re
from collections.abc import Iterator, Mapping
from typing import Final

from pytest_gvisor.base.errors import ImageError
from pytest_gvisor.base.escape import shown
from pytest_gvisor.images.streams import CHUNK, Reader, drain, read_all

BLOCK: Final = 512
_MAX_HEADER: Final = 1024 * 1024
_MAX_GLOBAL: Final = 64 * 1024
"""Bytes of the keys and values for all entries, which each further entry is searched for."""
_MAX_NAME: Final = 4096
"""PATH_MAX, of names and of targets."""
_MAX_ID: Final = 2**32 - 2
_STRUCTURE: Final = {b"path", b"linkpath", b"size"}
_ATTRIBUTES: Final = (b"SCHILY.xattr.", b"SCHILY.acl.", b"RHT.security.")
_NUMBER: Final = re.compile(rb"-?[0-9]{1,19}")
_TIME: Final = re.compile(rb"-?[0-9]{1,12}(\.[0-9]{0,30})?")


class Kind(enum.Enum):
    """The type of an entry."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symbolic link"
    HARDLINK = "hard link"
    DEVICE = "device"
    FIFO = "FIFO"


_KINDS: Final = {
    b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"1": Kind.HARDLINK, b"2": Kind.SYMLINK,
    b"3": Kind.DEVICE, b"4": Kind.DEVICE, b"5": Kind.FOLDER, b"6": Kind.FIFO,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry."""

    name: bytes
    """As it is written, slashes and dots included."""
    kind: Kind
    mode: int
    """Permissions with set-uid, set-gid and sticky bit."""
    uid: int
    gid: int
    size: int
    """Bytes of content; 0 for all but files."""
    mtime_ns: int
    link: bytes
    """A link's target."""
    xattrs: int
    """The number of extended attributes and ACLs."""


class Tar:
    """The entries of a stream, in order. Raises `ImageError` for a damaged archive."""

    def __init__(self, stream: Reader, *, whole: bool = False) -> None:
        self._stream = stream
        # A digest shows that nothing is missing: the zeros at the end may be. umoci writes none.
        self._whole = whole
        self._left = 0
        self._padding = 0
        self._global: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        """Yield entries. Read an entry's content before taking the next one."""
        while (entry := self._next()) is not None:
            yield entry

    def read(self, count: int) -> bytes:
        """Read at most ``count`` bytes of the entry's content; an empty read is its end."""
        wanted = min(count, self._left)
        if not wanted:
            return b""
        data = self._stream.read(wanted)
        if not data:
            raise ImageError("the archive ends in the middle of a file: it is truncated")
        self._left -= len(data)
        return data

    def pass_by(self) -> int:
        """Skip the rest of the entry and return its size: the caller moves the stream alone."""
        count, self._left, self._padding = self._left + self._padding, 0, 0
        return count

    def _exactly(self, count: int) -> bytes:
        made = b""
        while (left := count - len(made)) and (data := self._stream.read(min(left, CHUNK))):
            made += data
        if left and (made or not self._whole):
            raise ImageError("the archive ends in the middle: it is truncated")
        return made

    def _finish(self) -> None:
        drain(self)
        self._exactly(self._padding)
        self._padding = 0

    def _begin(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def _next(self) -> Entry | None:
        pax = dict(self._global)
        name = link = b""
        extensions = b""
        while True:
            self._finish()
            block = self._exactly(BLOCK)
            if not block.strip(b"\0"):
                if extensions:
                    raise ImageError("the archive ends after the header of an entry's long name")
                return None
            _check_sum(block)
            kind = block[156:157]
            if kind not in b"xgLK" or not kind:
                return self._entry(block, pax, name, link)
            if kind in extensions and kind != b"g":
                raise ImageError(f"an entry has twice a header of the type {kind.decode()}")
            extensions += kind
            if len(extensions) > 8:
                raise ImageError("an entry has more than 8 headers in front of it")
            data = self._extension(block)
            if kind == b"x":
                pax |= _records(data)
            elif kind == b"g":
                self._for_all(_records(data))
                pax = {**self._global, **pax}
            elif kind == b"L":
                name = data.rstrip(b"\0")
            else:
                link = data.rstrip(b"\0")

    def _for_all(self, records: dict[bytes, bytes]) -> None:
        if said := _STRUCTURE & records.keys():
            what = ", ".join(sorted(map(shown_bytes, said)))
            raise ImageError(f"a header for all entries has their {what}")
        self._global |= records
        if sum(len(key) + len(value) for key, value in self._global.items()) > _MAX_GLOBAL:
            raise ImageError(f"its headers for all entries have more than {_MAX_GLOBAL} bytes")

    def _extension(self, block: bytes) -> bytes:
        size = _number(block[124:136], "size")
        if not 0 <= size <= _MAX_HEADER:
            raise ImageError(f"a header of {size} bytes; the limit is {_MAX_HEADER}")
        self._begin(size)
        return read_all(self)

    def _entry(self, block: bytes, pax: dict[bytes, bytes], name: bytes, link: bytes) -> Entry:
        if (name and b"path" in pax) or (link and b"linkpath" in pax):
            raise ImageError(f"{shown_bytes(name or link)}: a name is said twice, in two ways")
        name = pax.get(b"path") or name or _name(block)
        link = pax.get(b"linkpath") or link or block[157:257].split(b"\0")[0]
        for text in (name, link):
            if len(text) > _MAX_NAME:
                raise ImageError(f"{shown_bytes(text)} is longer than {_MAX_NAME} bytes")
            if b"\0" in text:
                raise ImageError(f"{shown_bytes(text)} has a NUL byte")
        if not name:
            raise ImageError("an entry has no name")
        label = shown_bytes(name)
        kind = _kind(block, pax, label)
        size = int(_pax_number(pax, b"size", block[124:136]))
        # The second sign: the oldest format has no type for folders, only the slash at the end.
        signs = name.endswith(b"/"), block[156:157] == b"\0" and _name(block).endswith(b"/")
        if kind is Kind.FILE and any(signs):
            if size or not all(signs):
                raise ImageError(f"{label} is a file by its type, with a folder's name")
            kind = Kind.FOLDER
        if not 0 <= size < 2**62:
            raise ImageError(f"{label} has the size {size}")
        if kind is not Kind.FILE:
            size = 0
        owners = [
            int(_pax_number(pax, key, field))
            for key, field in ((b"uid", block[108:116]), (b"gid", block[116:124]))
        ]
        if not all(0 <= owner <= _MAX_ID for owner in owners):
            raise ImageError(f"{label} belongs to {owners}, which are no ids")
        time_ns = int(_pax_number(pax, b"mtime", block[136:148], _TIME) * 10**9)
        self._begin(size)
        return Entry(
            name=name,
            kind=kind,
            mode=_number(block[100:108], "mode") & 0o7777,
            uid=owners[0],
            gid=owners[1],
            size=size,
            # Bounded to times that the kernel takes and file systems can store.
            mtime_ns=max(-(2**31) * 10**9, min(time_ns, 2**33 * 10**9)),
            link=link if kind in (Kind.SYMLINK, Kind.HARDLINK) else b"",
            xattrs=sum(key.startswith(_ATTRIBUTES) for key in pax),
        )


def shown_bytes(name: bytes) -> str:
    """Format a name of an archive for a message."""
    return shown(name.decode("utf-8", "backslashreplace"))


def _kind(block: bytes, pax: Mapping[bytes, bytes], label: str) -> Kind:
    written = block[156:157]
    if written == b"S" or any(key.startswith(b"GNU.sparse.") for key in pax):
        raise ImageError(
            f"{label} is a sparse entry, which is not read",
            next_step="Make the archive without --sparse.",
        )
    if written not in _KINDS:
        raise ImageError(f"{label} is of the unknown type {written!r}")
    return _KINDS[written]


def _check_sum(block: bytes) -> None:
    written = _number(block[148:156], "checksum")
    blank = block[:148] + b" " * 8 + block[156:]
    # Some old programs have added signed bytes.
    sums = (sum(blank), sum(byte - 256 if byte > 127 else byte for byte in blank))
    if written not in sums:
        raise ImageError("a header's checksum is wrong: this is damaged, or not a tar archive")


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0")[0]
    # Only POSIX's own format has a prefix there: GNU's has other things in its place.
    prefix = block[345:500].split(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _number(field: bytes, what: str) -> int:
    if field[0] & 0x80:  # GNU's base 256, two's complement after the first bit
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    text = field.split(b"\0")[0].strip()
    if not re.fullmatch(rb"[0-7]*", text):
        raise ImageError(f"the {what} {shown_bytes(text)} in a header is not a number")
    return int(text or b"0", 8)


def _pax_number(
    pax: Mapping[bytes, bytes], key: bytes, field: bytes, form: re.Pattern[bytes] = _NUMBER
) -> decimal.Decimal:
    if key not in pax:
        return decimal.Decimal(_number(field, key.decode()))
    if not form.fullmatch(pax[key]):
        raise ImageError(f"the {key.decode()} {shown_bytes(pax[key])} is not a number")
    return decimal.Decimal(pax[key].decode())


def _records(data: bytes) -> dict[bytes, bytes]:
    """Read pax records: ``LENGTH KEY=VALUE`` and a newline; the length counts all of these."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 10)
        digits = data[at:space] if space > 0 else b""
        length = int(digits) if re.fullmatch(rb"[1-9][0-9]*", digits) else 0
        record = data[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not equals or not key or len(record) != length or record[-1:] != b"\n":
            raise ImageError("a pax header is damaged")
        if key in found:
            raise ImageError(f"a pax header has {shown_bytes(key)} twice")
        found[key] = value
        at += length
    return found
