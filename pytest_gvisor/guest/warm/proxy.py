"""The wishes of programs to the proxy in a sandbox, by HTTP or SOCKS 5. No input or output.

The proxy asks the relay on the host for the host and port as the program has written them. That
relay judges them. Needs Python 3.8 and the standard library alone.
"""

from __future__ import annotations

import re
import socket
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

MOST = 16 * 1024
"""The most bytes that a program may send before it has said where it wants to go."""

_SOCKS, _CONNECT, _NO_METHOD = 5, 1, b"\5\xff"
_IPV4, _NAME, _IPV6 = 1, 3, 4
_NOT_ALLOWED, _NO_COMMAND, _NO_ADDRESS = 2, 7, 8
_HOPS = (b"connection", b"keep-alive", b"proxy-authorization", b"proxy-connection")


class Wish(NamedTuple):
    """Where a program wants to go."""

    host: bytes
    """``HOST:PORT``, unchecked."""

    granted: bytes
    """The answer for the program if the host is reached."""

    refused: bytes
    """The answer if it is not."""

    first: bytes
    """The first bytes for the host."""


class Refused(Exception):
    """The proxy cannot read the wish. The argument is its answer."""


def talk() -> Generator[bytes, bytes, Wish]:
    """Read a wish: takes what the program sends, and yields answers, or ``b""`` for more.

    After an answer, it takes ``b""``. Raises `Refused`.
    """
    data = yield b""
    if data[0] == _SOCKS:
        return (yield from _socks(data))
    if not data[:1].isalpha():  # SOCKS 4, TLS
        raise Refused(_answer(b"400 Bad Request"))
    while b"\r\n\r\n" not in data:
        if len(data) > MOST:
            raise Refused(_answer(b"431 Request Header Fields Too Large"))
        data += yield b""
    head, _, rest = data.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    method, target, version = (*line.split(b" "), b"", b"")[:3]
    refused = _answer(b"403 Not allowed or not reached")
    if method == b"CONNECT":
        return Wish(target, b"HTTP/1.1 200 Connection established\r\n\r\n", refused, rest)
    scheme, _, after = target.partition(b"://")
    host = re.split(rb"[/?]", after)[0]
    path = after[len(host) :]
    path = path if path.startswith(b"/") else b"/" + path
    if scheme.lower() != b"http":
        raise Refused(_answer(b"400 Bad Request"))
    if not host.rpartition(b":")[2].isdigit():
        host += b":80"
    # The next request may be for another host.
    fields = [one for one in fields if one.partition(b":")[0].lower() not in _HOPS]
    fields += [b"Connection: close", b"", rest]
    first = b"\r\n".join([b" ".join((method, path, version)), *fields])
    return Wish(host, b"", refused, first)


def _answer(status: bytes) -> bytes:
    told = b"Content-Type: text/plain\r\nContent-Length: %d\r\nConnection: close" % len(status)
    return b"HTTP/1.1 %b\r\n%b\r\n\r\n%b" % (status, told, status)


def _socks(data: bytes) -> Generator[bytes, bytes, Wish]:
    """Read a wish of SOCKS 5 (RFC 1928), without authentication."""
    while len(data) < 2 or len(data) < 2 + data[1]:
        data += yield b""
    size = 2 + data[1]
    if 0 not in data[2:size]:
        raise Refused(_NO_METHOD)
    data = data[size:] + (yield b"\5\0")
    while len(data) < 5:
        data += yield b""
    version, command, _, kind, length = data[:5]
    sizes = {_IPV4: 10, _NAME: 7 + length, _IPV6: 22}
    if version != _SOCKS or command != _CONNECT:
        raise Refused(_reply(_NO_COMMAND))
    if kind not in sizes:
        raise Refused(_reply(_NO_ADDRESS))
    size = sizes[kind]
    while len(data) < size:
        data += yield b""
    if kind == _NAME:
        host = data[5 : size - 2]
    elif kind == _IPV4:
        host = socket.inet_ntop(socket.AF_INET, data[4:8]).encode()
    else:
        host = b"[" + socket.inet_ntop(socket.AF_INET6, data[4:20]).encode() + b"]"
    port = int.from_bytes(data[size - 2 : size], "big")
    return Wish(b"%b:%d" % (host, port), _reply(0), _reply(_NOT_ALLOWED), data[size:])


def _reply(code: int) -> bytes:
    return bytes((_SOCKS, code, 0, _IPV4)) + bytes(6)
