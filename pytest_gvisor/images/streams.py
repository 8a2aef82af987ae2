"""Byte streams of an image: a part of a file, decompression, and a digest on the way.

Everything that grows is counted against a `Budget`: a small file may hold a very large one.
"""

from __future__ import annotations

import bz2
import contextlib
import dataclasses
import errno
import hashlib
import importlib
import lzma
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pytest_gvisor.base import trust
from pytest_gvisor.base.errors import GvisorError, ImageError
from pytest_gvisor.base.escape import shown
from pytest_gvisor.programs import clock

CHUNK: Final = 256 * 1024
_MAX_DICTIONARY: Final = 1 << 28
"""Bytes that xz and zstd may remember of what they have decompressed."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one image, all of its layers together."""

    max_bytes: int = 32 * 1024**3
    """Bytes of its uncompressed layers."""
    max_entries: int = 1_000_000
    """Files, folders, links and whiteouts, and folders that are made because a path needs them."""
    max_depth: int = 128
    """Folders in folders."""
    max_ratio: int = 200
    """Uncompressed bytes for each compressed one; the first 256 MiB are free."""
    max_seconds: float = 600
    """Seconds that reading the archive takes, and unpacking; others who need the image wait a
    minute longer."""


DEFAULT_LIMITS: Final = Limits()
FREE_BYTES: Final = 256 * 1024 * 1024


@dataclass(kw_only=True)
class Budget:
    """The remaining limits of one image. Each method raises `ImageError`."""

    limits: Limits
    read: int = 0
    grown: int = 0
    entries: int = 0
    begun: float = dataclasses.field(default_factory=clock.monotonic)

    def add_bytes(self, compressed: int, uncompressed: int) -> None:
        """Count bytes that were read, and bytes after decompression."""
        self.read += compressed
        self.grown += uncompressed
        self.check_size(self.grown)
        if self.grown > max(FREE_BYTES, self.read * self.limits.max_ratio):
            text = f"unpacks to more than {self.limits.max_ratio} times of what it is"
            raise _too_large(f"{text}: {self.grown} bytes so far")
        self.check_time()

    def add_entry(self) -> None:
        """Count one entry."""
        self.entries += 1
        if self.entries > self.limits.max_entries:
            raise _too_large(f"has more than {self.limits.max_entries} entries")
        self.check_time()

    def check_time(self) -> None:
        """Check the time so far."""
        if clock.monotonic() - self.begun > self.limits.max_seconds:
            raise _too_large(f"takes longer than {self.limits.max_seconds:g} s to unpack")

    def check_size(self, size: int) -> None:
        """Check a number of bytes."""
        if size > self.limits.max_bytes:
            raise _too_large(f"holds more than {self.limits.max_bytes} bytes")

    def check_depth(self, depth: int) -> None:
        """Check the depth of a folder."""
        if depth > self.limits.max_depth:
            raise _too_large(f"has folders deeper than {self.limits.max_depth}")


def _too_large(text: str) -> ImageError:
    return ImageError(
        f"it {text}", next_step="To raise the limit: gvisor_image(…, limits=Limits(max_…=…))."
    )


@contextlib.contextmanager
def explained(doing: str, next_step: str = "") -> Iterator[None]:
    """Turn an `OSError` into an `ImageError`, which says that this cannot be done."""
    try:
        yield
    except OSError as error:
        if not next_step and error.errno in (errno.ENOSPC, errno.EDQUOT):
            next_step = "Free space, or set XDG_CACHE_HOME to a folder that has more."
        why = os.strerror(error.errno) if error.errno else str(error)
        raise ImageError(f"cannot {doing}: {why}", next_step=next_step) from error


class Reader(Protocol):
    """A source of bytes; an empty read is its end."""

    def read(self, count: int) -> bytes:
        """Read at most ``count`` bytes."""


def held(path: str, undo: contextlib.ExitStack) -> str:
    """Hold a file or folder open, and return another path that leads to it alone.

    No link of another user's is followed, unless the file is that user's too: a program of the
    image could tell its user what an archive of this one's holds. Raises `ImageError`.
    """
    with explained(f"follow {path!a}"):
        whole = path if path.startswith("/") else f"{os.getcwd()}/{path}"
        way = trust.follow(whole, undo)
        owner = way.stack[-1].info.st_uid
        for lookup in way.lookups:
            entry = lookup.entry
            is_link = stat.S_ISLNK(entry.info.st_mode) and entry.info.st_uid != owner
            if is_link and trust.is_strangers(lookup):
                raise ImageError(
                    f"{entry.path!a} is a link, and uid {entry.info.st_uid} has put it there",
                    next_step="Name the file or folder that it leads to.",
                )
    return f"/proc/self/fd/{way.stack[-1].fd}"


def open_file(path: str, name: str = "it") -> tuple[int, os.stat_result]:
    """Open a regular file. Raises `ImageError`, with this name, for anything else."""
    with explained(f"read {name}"):
        # O_NONBLOCK: the open of a FIFO would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise ImageError(f"{name} is not a regular file")
    return fd, status


class Section:
    """A part of an open file."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self.size = size
        self.at = offset
        """Where it is in the file; the caller may move it on."""
        self._fd = fd
        self._end = offset + size

    def read(self, count: int) -> bytes:
        """See `Reader`. Raises `ImageError` if the file ends before the part does."""
        wanted = min(count, self._end - self.at)
        if wanted <= 0:
            return b""
        data = os.pread(self._fd, wanted, self.at)
        if not data:
            raise ImageError("the file ends in the middle: it is truncated")
        self.at += len(data)
        return data


class Hashing:
    """A reader that digests the bytes that pass."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, count: int) -> bytes:
        """See `Reader`."""
        data = self._source.read(count)
        self._hash.update(data)
        return data

    @property
    def digest(self) -> str:
        """The digest of all bytes so far, in the form ``sha256:…``."""
        return f"sha256:{self._hash.hexdigest()}"


def read_all(reader: Reader) -> bytes:
    """Return all bytes up to the end."""
    return b"".join(iter(lambda: reader.read(CHUNK), b""))


def write_all(file: int, data: bytes) -> None:
    """Write to a descriptor. Raises `OSError`: a buffer would do so again as it is closed."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def drain(reader: Reader) -> None:
    """Read the rest, and keep nothing of it."""
    while reader.read(CHUNK):
        pass


def check_digest(value: object) -> str:
    """Return a digest in the form ``sha256:…``. Raises `ImageError` for anything else."""
    if not isinstance(value, str) or not re.fullmatch("sha256:[0-9a-f]{64}", value):
        raise ImageError(f"{shown(value)} is not a sha256 digest")
    return value


def _zstd() -> Any:
    # It takes 10 ms, and few images are compressed with it.
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        zstd = importlib.import_module(name)
    except ImportError as error:
        raise ImageError(
            f"it is compressed with zstd, which this Python cannot read: {error}",
            next_step="Save the image with gzip, for instance with docker save.",
        ) from error
    largest = zstd.DecompressionParameter.window_log_max
    return zstd.ZstdDecompressor(options={largest: _MAX_DICTIONARY.bit_length() - 1})


_KINDS: Final = (
    (rb"\x1f\x8b", lambda: zlib.decompressobj(wbits=31)),
    # A frame, or a skippable one: some programs begin with that.
    (rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", _zstd),
    (rb"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(memlimit=_MAX_DICTIONARY)),
    (rb"BZh", bz2.BZ2Decompressor),
)


class Inflated:
    """A reader's bytes, decompressed if their first bytes show a compression.

    The file objects of these libraries bound no memory of lzma. They end without an error at the
    first byte between two streams, even a zero. All that follows is missing.
    """

    def __init__(self, source: Reader, budget: Budget) -> None:
        self._source = source
        self._budget = budget
        self._head = b""
        while len(self._head) < 6 and (data := self._compressed(6 - len(self._head))):
            self._head += data
        kinds = (make for magic, make in _KINDS if re.match(magic, self._head))
        self._make = next(kinds, None)
        self._inner: Any = self._make() if self._make else None

    @property
    def is_compressed(self) -> bool:
        """Whether the bytes are compressed."""
        return self._inner is not None

    def _compressed(self, count: int) -> bytes:
        data = self._source.read(count)
        self._budget.add_bytes(len(data), 0)
        return data

    def _next(self, count: int) -> bytes:
        head, self._head = self._head, b""
        return head or self._compressed(count)

    def read(self, count: int) -> bytes:
        """See `Reader`. Raises `ImageError` for damaged, truncated or too much data."""
        data = self._next(count) if self._inner is None else self._inflate(count)
        self._budget.add_bytes(0, len(data))
        return data

    def _inflate(self, count: int) -> bytes:
        while True:
            if self._inner.eof and not self._another():
                return b""
            data = getattr(self._inner, "unconsumed_tail", b"")  # zlib alone does not keep it
            if not data and getattr(self._inner, "needs_input", True):
                data = self._next(CHUNK)
                if not data:
                    raise ImageError("compressed data ends in the middle: it is truncated")
            try:
                made: bytes = self._inner.decompress(data, count)
            except (MemoryError, GvisorError):
                # A GvisorError comes from the handler of a signal, after a deadline.
                raise
            except Exception as error:  # each library has errors of its own
                raise ImageError(f"compressed data is damaged: {error}") from error
            if made:
                return made

    def _another(self) -> bool:
        """Whether another stream follows the one that has ended, perhaps after zeros."""
        rest = self._inner.unused_data
        while not rest.strip(b"\0"):
            rest = self._compressed(CHUNK)
            if not rest:
                return False
        self._head = rest.lstrip(b"\0")
        assert self._make is not None
        self._inner = self._make()
        return True
