"""A forward with more connections than it takes, and one without file descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Callable, Iterator

import pytest

from pytest_gvisor import PytestGvisorWarning
from pytest_gvisor.sandbox import forward as module
from pytest_gvisor.sandbox.channel import Channel
from pytest_gvisor.sandbox.forward import Forward
from tests.unit.sandbox.conftest import PATIENCE, Peer

Connect = Callable[..., tuple[Channel, Peer]]


def serving(peer: Peer) -> None:
    """A guest whose server greets each client, and ends when the client ends."""
    while True:
        message, _payload = peer.receive()
        number = message["id"]
        if message["op"] == "connect":
            peer.send({"op": "started", "id": number})
            peer.send({"op": "data", "id": number, "s": 1}, b"hi")
        elif message["op"] == "eof":
            peer.send({"op": "closed", "id": number, "errno": 0})


def reached(client: socket.socket) -> bool:
    """Whether the server answers; False for a connection that is reset."""
    try:
        return client.recv(2) == b"hi"
    except ConnectionResetError:
        return False


def dial(forward: Forward) -> socket.socket:
    """A client."""
    return socket.create_connection(forward.address, timeout=PATIENCE)


def test_a_connection_above_the_most_is_reset_at_once(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward counts it, and warns of it at its end. A later one takes the place of another."""
    monkeypatch.setattr(module, "MOST", 2)
    channel, _peer = connect(serving)
    forward = Forward(channel, 80)
    with dial(forward) as first, dial(forward) as second:
        assert reached(first)
        assert reached(second)
        for count in (1, 2):
            with dial(forward) as third:
                assert not reached(third)
            assert forward.refused == count
        first.shutdown(socket.SHUT_WR)
        assert first.recv(1) == b""
        with dial(forward) as fourth:
            assert reached(fourth)
    with pytest.warns(PytestGvisorWarning, match="2 connections to port 80 .* were refused"):
        forward.close()
    forward.close()


@contextlib.contextmanager
def no_descriptor() -> Iterator[None]:
    """Leave no free file descriptor to this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir("/proc/self/fd"))) + 1
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_connection_without_a_descriptor_is_reset_at_once(connect: Connect) -> None:
    """Its client does not wait for ever, and the next one is taken."""
    channel, _peer = connect(serving)
    forward = Forward(channel, 80)
    with socket.socket() as client, no_descriptor():
        client.settimeout(PATIENCE)
        client.connect(forward.address)
        assert not reached(client)
    assert forward.refused == 1
    with dial(forward) as client:
        assert reached(client)
    with pytest.warns(PytestGvisorWarning, match="each needs a file descriptor"):
        forward.close()
