"""Events as values: their fields, the path and the flags of an open, the address of a socket.

Sources: pkg/sentry/seccheck/points/{common,container,sentry,syscall}.proto of gVisor.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import functools
import ipaddress
import os
import posixpath
import re
import socket
from typing import NamedTuple

from pytest_gvisor.base.traced import Change, File
from pytest_gvisor.trace.points import CHANGES
from pytest_gvisor.trace.protobuf import fields, signed, text

_CALLS = (6, 7, 8, 10, 11, 12, 24, 37)
"""The kinds of messages whose second field is the end of a system call."""

_END = re.compile(
    r"I\d{4} \S+ +\d+ strace\.go:\d+\] \[ *(\d+)[^\]]{,40}\] .{,64}? X (\w+)\((.*)\) = \S+ "
    r"(?:\(0x0\) )?(?:errno=(\d{1,4}) )?",
    re.DOTALL,
)
"""The end of a call in an strace: the process, its name, the call, the arguments, the error.

After the process comes its thread, and after each its number in its own namespace, if that differs.
"""

_SAME = 1024
"""Bytes of the longest message that is not parsed again."""

INTERNET = (socket.AF_INET, socket.AF_INET6)
_ANYWHERE = (socket.SOCK_DGRAM, socket.SOCK_RAW)
TEXT = 60
"""Bytes that a text takes beside its characters: arguments may be many, and short."""


class Event(NamedTuple):
    """The fields that most messages have."""

    process: int
    thread: int
    cwd: str
    result: int
    error: str
    """The error's name; ``""`` for none."""

    fields: dict[int, int | bytes]

    def number(self, field: int) -> int:
        """Return a number; 0 if it is missing, as protobuf leaves out a 0."""
        return signed(self.fields.get(field, 0))

    def text(self, field: int) -> str:
        """Return a text; the empty one if it is missing."""
        return text(self.fields.get(field, b""))


@dataclasses.dataclass(slots=True)
class Opened:
    """How often a file was opened in one way."""

    file: File
    process: int
    opened: int = 0
    closed: int = 0
    """How many of the descriptors were closed with a path."""


def parse(kind: int, payload: bytes) -> Event:
    """Return the event in a message of this kind. Raises ValueError for one of another shape."""
    found = fields(payload)
    context, end = found.get(1, b""), found.get(2, b"") if kind in _CALLS else b""
    if not isinstance(context, bytes) or not isinstance(end, bytes):
        raise ValueError("a message of another shape")  # noqa: TRY004 -- one error for all
    of, ends = fields(context), fields(end)
    number = signed(ends.get(2, 0))
    return Event(
        process=signed(of.get(4, 0)),
        thread=signed(of.get(2, 0)),
        cwd=text(of.get(8, b"")),
        result=signed(ends.get(1, 0)),
        error=errno.errorcode.get(number, str(number)) if number else "",
        fields=found,
    )


_parse_same = functools.lru_cache(maxsize=4096)(parse)


def parsed(kind: int, payload: bytes) -> Event:
    """Parse a message like `parse`; one that comes again and again is parsed once."""
    return (_parse_same if len(payload) <= _SAME else parse)(kind, payload)


def size_of(*kept: str) -> int:
    """Return about how many bytes texts take. One character beyond ASCII may make each wide."""
    return sum(TEXT + len(text) * (1 if text.isascii() else 4) for text in kept)


@functools.lru_cache(maxsize=16)  # the children of a process share what is left of its arguments
def inherited(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Return a parent's arguments for a new process; of long ones the beginnings of five.

    Thousands of processes may have them, and a trace in JSON has them for each.
    """
    is_short = len(argv) <= 100 and sum(map(len, argv)) <= 4096
    return argv if is_short else (*(text[:60] for text in argv[:5]), "…")


def whole(folder: str, path: str) -> str:
    """Return an absolute path without ``.``, ``..`` and double slashes."""
    return "/" + posixpath.normpath(posixpath.join("/", folder, path)).lstrip("/")


def file_of(path: str, flags: int, error: str) -> File:
    """Return a file, opened in the way of a call's flags."""
    mode = flags & 3  # O_ACCMODE
    listed = flags & os.O_DIRECTORY and mode == os.O_RDONLY
    opened = not listed and not flags & os.O_PATH
    return File(
        path=path,
        read=opened and mode in (os.O_RDONLY, os.O_RDWR),
        written=opened and bool(mode in (os.O_WRONLY, os.O_RDWR) or flags & os.O_TRUNC),
        listed=bool(listed),
        created=opened and bool(flags & os.O_CREAT),
        error=error,
    )


def address_of(sockaddr: int | bytes) -> str:
    """Return a socket's address as text; nothing for one that disconnects, or is cut short."""
    if not isinstance(sockaddr, bytes):
        raise ValueError("a number in place of an address")  # noqa: TRY004 -- one error for all
    family = int.from_bytes(sockaddr[:2], "little")
    port = int.from_bytes(sockaddr[2:4], "big")
    if family == socket.AF_INET and len(sockaddr) >= 8:
        return f"{ipaddress.IPv4Address(sockaddr[4:8])}:{port}"
    if family == socket.AF_INET6 and len(sockaddr) >= 24:
        address = ipaddress.IPv6Address(sockaddr[8:24])
        # A socket of IPv6 reaches IPv4 by such an address (ipv6(7)).
        return f"{mapped}:{port}" if (mapped := address.ipv4_mapped) else f"[{address}]:{port}"
    if family == socket.AF_UNIX:
        name = sockaddr[2:]
        if name[:1] == b"\0":
            return "unix:@" + name[1:].decode("utf-8", "backslashreplace")
        path = name.partition(b"\0")[0].decode("utf-8", "backslashreplace")
        return "unix:" + (whole("", path) if path.startswith("/") else path)
    return "" if family in (socket.AF_UNSPEC, *INTERNET) else f"family {family}"


def makes_datagrams(kind: int, event: Event, pair: int) -> bool:
    """Whether a socket is made that may send to any address. ``pair`` is socketpair's number."""
    # Kind 6 is a system call, with its number in field 4. Kind 12 is socket(2), from its begin:
    # another thread may send before the call's end is reported. The C library asks the kernel for
    # addresses by a netlink socket.
    is_pair = kind == 6 and event.number(4) == pair
    made = is_pair or (kind == 12 and event.number(4) != socket.AF_NETLINK)
    return made and event.number(6 if is_pair else 5) & 0xF in _ANYWHERE


def changes(strace: str) -> tuple[Change, ...]:
    """Return the changes in a boot log with an strace."""
    # A newline ends an entry if another one follows, which has its kind and date first.
    entries = re.split(r"\n(?=[IWEF]\d{4} )", strace)
    found = collections.Counter(filter(None, map(_change, entries)))
    return tuple(dataclasses.replace(one, count=count) for one, count in found.items())


def _change(entry: str) -> Change | None:
    """Return the change in an entry of a log; None for any other entry."""
    found = _END.match(entry)
    if found is None or found[2] not in CHANGES:
        return None
    texts = [one.partition(" ")[2] for one in re.split(r", (?=AT_FDCWD |0x|0o)", found[3])]
    # The text of a symbolic link is no path from here.
    paths = [texts.pop(0)] if found[2].startswith("symlink") else []
    if not found[2].endswith(("at", "at2")):  # else each path comes after a folder's descriptor
        texts = [text for one in filter(None, texts) for text in ("", one)]
    for folder, path in zip(texts[::2], texts[1::2], strict=False):
        paths.append(whole(folder, path) if folder or path[:1] == "/" else path)
    error = errno.errorcode.get(int(found[4] or 0), found[4] or "")
    return Change(call=found[2], paths=tuple(paths), error=error, process=int(found[1]), count=1)
