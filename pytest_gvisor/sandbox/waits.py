"""Waits for a server in a warm sandbox. Their errors say what was seen last."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable

from pytest_gvisor.base.egress import SandboxPort
from pytest_gvisor.base.errors import NotReady, UsageError
from pytest_gvisor.programs import clock
from pytest_gvisor.sandbox.channel import Channel
from pytest_gvisor.sandbox.peers import CANCELLATION, Answer, Cancelled

_MARGIN = 2.0
_PAUSE = 0.02
_LONGEST = 5.0
_LONGEST_LINE = 200
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r\n]")


def _wait(look: Callable[[float], str], missing: str, wait: float) -> None:
    """Call ``look`` until it returns ``""``, in place of what it has seen; at least once.

    It gets a deadline of its own (monotonic), a second off at least: a look that has no time would
    see nothing. Raises `NotReady` after ``wait`` seconds, and `Cancelled`.
    """
    deadline = clock.monotonic() + wait
    while seen := look(clock.monotonic() + max(1.0, min(deadline - clock.monotonic(), _LONGEST))):
        if clock.monotonic() >= deadline:
            raise NotReady(f"{missing} after {wait:g} s; last seen: {seen}")
        if (cancellation := CANCELLATION.get()) and cancellation.fired:
            raise Cancelled
        time.sleep(_PAUSE)


def for_port(channel: Channel, port: int, wait: float) -> None:
    """See `Sandbox.wait_for_port`."""

    def look(deadline: float) -> str:
        answer = Answer(channel)
        channel.add(answer, {"op": "probe", "port": port})
        message = answer.wait(deadline + _MARGIN, "the sandbox does not answer")
        number = message.numbers["n"]
        return os.strerror(min(number, 4095)) if number else ""  # the guest may say any number

    _wait(look, f"nothing listens on port {port} in the sandbox", wait)


def for_http(channel: Channel, port: SandboxPort, path: str, status: int, wait: float) -> None:
    """See `Sandbox.wait_for_http`."""
    if not re.fullmatch(r"/[!-~]*", path):
        raise UsageError(f"{path!r} is not the path of a URL")

    def look(deadline: float) -> str:
        channel.check()
        return _status(port.path, path, status, deadline)

    _wait(look, f"no status {status} of http://localhost:{port.number}{path} in the sandbox", wait)


def _status(path: str, url: str, wanted: int, deadline: float) -> str:
    """Return the answer to a GET by the socket of `Sandbox.port`; ``""`` if it is as wanted."""
    line = b""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_left(deadline))
            sock.connect(path)
            if (answer := sock.recv(1)) != b"\0":
                return os.strerror(answer[0]) if answer else "the connection was closed"
            sock.sendall(f"GET {url} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            while b"\n" not in line and len(line) < _LONGEST_LINE:
                sock.settimeout(_left(deadline))
                if not (piece := sock.recv(_LONGEST_LINE)):
                    break
                line += piece
    except TimeoutError:
        return "a server that does not answer"
    except OSError as error:
        return error.strerror or str(error)
    if found := _STATUS.match(line):
        return "" if int(found[1]) == wanted else f"status {int(found[1])}"
    return f"{line[:80]!r}, which is no HTTP/1"


def _left(deadline: float) -> float:
    return max(0.001, deadline - clock.monotonic())
