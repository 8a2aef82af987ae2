"""HTTP requests to a daemon's socket, with one deadline for the whole answer.

The docker SDK's own deadline begins anew with every byte: a daemon that sends one a second would
never be at its end. Questions whose answers are short are asked here, and the SDK does the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import socket
import time
from typing import Final

from pytest_gvisor.bounded_http import CutOff, Deadline, connecting, pieces

_MAX_BYTES: Final = 16 * 1024 * 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """The status and body of an answer."""

    status: int
    headers: dict[str, str]
    """By their names in lower case."""
    body: bytes


class _Local(http.client.HTTPConnection):
    """A connection to the server at the socket ``path``."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def get(path: str, target: str, seconds: float) -> Answer:
    """Send ``GET target`` to the socket ``path``; return the answer, within ``seconds``.

    Raises `TimeoutError` at the deadline, and another `OSError` for what is no answer.
    """
    deadline = Deadline(until=time.monotonic() + seconds)
    with contextlib.closing(connecting(_Local, deadline)(path, deadline.left())) as connection:
        # For this one question, so that what comes has an end whether it says its length or not.
        connection.request("GET", target, headers={"Connection": "close"})
        return _answer(connection)


def _answer(connection: http.client.HTTPConnection) -> Answer:
    try:
        with connection.getresponse() as response:
            body = b"".join(pieces(response, _MAX_BYTES))
    except (CutOff, http.client.IncompleteRead):
        wrong = "the connection was closed in the middle of an answer"
    except (http.client.HTTPException, ValueError):
        wrong = "what answers there does not speak HTTP"
    else:
        headers = {name.lower(): value.strip() for name, value in response.getheaders()}
        return Answer(status=response.status, headers=headers, body=body)
    # Out here it has no cause: the first cause of an error is what is told of a daemon.
    raise OSError(wrong)
