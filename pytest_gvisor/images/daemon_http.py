"""HTTP requests to a daemon's socket, with one deadline for the whole answer.

The docker SDK's own deadline begins anew with every byte: a daemon that sends one a second would
never be at its end. Questions whose answers are short are asked here, and the SDK does the rest.
"""

from __future__ import annotations

import dataclasses
import re
import socket
import time
from typing import Final

_MAX_BYTES: Final = 16 * 1024 * 1024
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})[ \r]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """The status and body of an answer."""

    status: int
    headers: dict[str, str]
    """By their names in lower case."""
    body: bytes


def get(path: str, target: str, seconds: float) -> Answer:
    """Send ``GET target`` to the socket ``path``; return the answer, within ``seconds``.

    Raises `TimeoutError` at the deadline, and another `OSError` for what is no answer.
    """
    end = time.monotonic() + seconds
    # 1.0, so that the answer ends where the connection does, and is in one piece.
    request = f"GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode("ascii")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
        client.settimeout(_left(end))
        client.connect(path)
        client.sendall(request)
        data = bytearray()
        while True:
            client.settimeout(_left(end))
            part = client.recv(65536)
            if not part:
                return _parsed(bytes(data))
            data += part
            if len(data) > _MAX_BYTES:
                raise OSError(f"an answer of more than {_MAX_BYTES} bytes")


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _parsed(data: bytes) -> Answer:
    head, blank, body = data.partition(b"\r\n\r\n")
    status = _STATUS.match(head)
    if status is None or not blank:
        raise OSError("what answers there does not speak HTTP")
    pairs = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = headers.get("content-length", "")
    if _LENGTH.fullmatch(length) and int(length) > len(body):
        raise OSError("the connection was closed in the middle of an answer")
    return Answer(status=int(status[1]), headers=headers, body=body)
