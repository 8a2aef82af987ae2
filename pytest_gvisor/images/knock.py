"""Asks a daemon's socket whether somebody is there, with a deadline for the whole answer.

The SDK's time-out is one for each read, which a daemon that answers byte by byte never meets.
"""

from __future__ import annotations

import socket
import time
from typing import Final

from pytest_gvisor.errors import DaemonUnavailable, ImageError
from pytest_gvisor.escape import escape
from pytest_gvisor.oci.reader import shown

_QUESTION: Final = b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n"
_MAX_LINE: Final = 1000


def knock(path: str, deadline: float) -> None:
    """Ask the daemon that listens at ``path``; ``deadline`` is in seconds.

    Raises `DaemonUnavailable` where nobody listens, and `ImageError` where somebody does who
    denies, is too slow, or is no docker daemon.
    """
    ends = time.monotonic() + deadline
    where = f"unix://{escape(path)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as server:
        try:
            _limit(server, ends)
            server.connect(path)
        except PermissionError as error:
            raise ImageError(
                f"this user may not use the docker daemon at {where}",
                next_step="Join its group, or save the image and use the archive.",
            ) from error
        except TimeoutError as error:
            raise _silent(where, deadline) from error
        except OSError as error:
            raise nobody(where, error.strerror or str(error)) from error
        try:
            answer = _first_line(server, ends)
        except TimeoutError as error:
            raise _silent(where, deadline) from error
        except OSError as error:
            raise ImageError(f"the docker daemon at {where} broke off: {error.strerror}") from error
    # "HTTP/1.0 200 OK"; a proxy in front of a daemon may well say that it has none.
    if answer.split(b" ")[1:2] != [b"200"]:
        words = shown(answer.decode("latin-1"))
        raise ImageError(f"what listens at {where} is no docker daemon: it answers {words}")


def nobody(where: str, why: str) -> DaemonUnavailable:
    """The error for a daemon that is not there."""
    return DaemonUnavailable(
        f"there is no docker daemon at {where}: {why}",
        next_step="Start it, set DOCKER_HOST, or save the image elsewhere and use the archive.",
    )


def _silent(where: str, deadline: float) -> ImageError:
    return ImageError(f"the docker daemon at {where} has not answered in {deadline:g} s")


def _first_line(server: socket.socket, ends: float) -> bytes:
    server.sendall(_QUESTION)
    line = b""
    while b"\n" not in line and len(line) < _MAX_LINE:
        _limit(server, ends)
        data = server.recv(_MAX_LINE)
        if not data:
            break
        line += data
    return line.partition(b"\n")[0].rstrip()


def _limit(server: socket.socket, ends: float) -> None:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    server.settimeout(left)
