"""Events as values: their fields, the path and the flags of an open, the address of a socket.

Sources: pkg/sentry/seccheck/points/{common,container,sentry,syscall}.proto of gVisor.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import posixpath
import socket
from typing import NamedTuple

from pytest_gvisor.trace.protobuf import fields, signed, text

_CALLS = (6, 7, 8, 10, 11, 12, 24, 37)
"""The kinds of messages whose second field is the end of a system call."""

INTERNET = (socket.AF_INET, socket.AF_INET6)


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


class Way(NamedTuple):
    """A path, and one way in which it was opened."""

    path: str
    read: bool
    written: bool
    listed: bool = False
    created: bool = False
    error: str = ""


def whole(folder: str, path: str) -> str:
    """Return an absolute path without ``.``, ``..`` and double slashes."""
    return "/" + posixpath.normpath(posixpath.join("/", folder, path)).lstrip("/")


def way_of(path: str, flags: int, error: str) -> Way:
    """Return the way in which the flags of a call open a path."""
    mode = flags & 3  # O_ACCMODE
    listed = flags & os.O_DIRECTORY and mode == os.O_RDONLY
    opened = not listed and not flags & os.O_PATH
    return Way(
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
        return f"[{ipaddress.IPv6Address(sockaddr[8:24])}]:{port}"
    if family == socket.AF_UNIX:
        name = sockaddr[2:]
        if name[:1] == b"\0":
            return "unix:@" + name[1:].decode("utf-8", "backslashreplace")
        return "unix:" + name.partition(b"\0")[0].decode("utf-8", "backslashreplace")
    return "" if family in (socket.AF_UNSPEC, *INTERNET) else f"family {family}"
