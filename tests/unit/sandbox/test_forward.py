"""A forward with more connections than it takes, and one without file descriptors."""

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
            peer.send({"op": "started", "id": number, "pid": 2})
            peer.send({"op": "data", "id": number, "s": 1}, b"hi")
        elif message["op"] == "eof":
            peer.send({"op": "closed", "id": number, "errno": 0})


def reaches(client: socket.socket, forward: Forward) -> bool:
    """Whether the server answers; False for a reset, which may come in the connect already."""
    client.settimeout(PATIENCE)
    try:
        client.connect(forward.address)
        return client.recv(2) == b"hi"
    except ConnectionResetError:
        return False


def test_a_connection_above_the_most_is_reset_at_once(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward counts it, and warns of it at its end. A later one takes the place of another."""
    monkeypatch.setattr(module, "MOST", 2)
    channel, _peer = connect(serving)
    forward = Forward(channel, 80)
    with socket.socket() as first, socket.socket() as second:
        assert reaches(first, forward)
        assert reaches(second, forward)
        for count in (1, 2):
            with socket.socket() as third:
                assert not reaches(third, forward)
            assert forward.refused == count
        first.shutdown(socket.SHUT_WR)
        assert first.recv(1) == b""
        with socket.socket() as fourth:
            assert reaches(fourth, forward)
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
        assert not reaches(client, forward)
    assert forward.refused == 1
    with socket.socket() as client:
        assert reaches(client, forward)
    with pytest.warns(PytestGvisorWarning, match="each needs a file descriptor"):
        forward.close()
