"""The messages that add an address to the loopback, and the right to do so."""

import socket
import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor.guest.tests import loopback


def acknowledged(number: int) -> bytes:
    """The kernel's answer with this error number."""
    return struct.pack("=IHHII", 36, 2, 0, 1, 0) + struct.pack("=i", number) + bytes(16)


class FakeNetlink:
    """A socket that records requests, and answers each one."""

    def __init__(self, answer: bytes) -> None:
        self.sent: list[bytes] = []
        self.answer = answer

    def close(self) -> None:
        """End."""

    def sendall(self, data: bytes) -> None:
        """Record a request."""
        self.sent.append(data)

    def recv(self, _most: int) -> bytes:
        """Answer."""
        return self.answer


@pytest.mark.parametrize(
    ("answer", "asked"),
    [(acknowledged(0), 2), (acknowledged(-1), 1), (struct.pack("=IHHIII", 20, 3, 0, 1, 0, 0), 1)],
    ids=["yes", "refused", "another message"],
)
def test_the_right_is_given_up_whatever_the_answer(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, asked: int
) -> None:
    """A family that cannot be added does not count, as before; no test gets CAP_NET_ADMIN."""
    netlink = FakeNetlink(answer)
    dropped: list[int] = []
    monkeypatch.setattr(socket, "socket", lambda *_: netlink)
    linux = SimpleNamespace(CAP_NET_ADMIN=12, drop_capability=dropped.append)
    loopback.make_count(["AF_INET", "AF_INET6"], cast("Any", linux))
    assert dropped == [12]
    assert len(netlink.sent) == asked
