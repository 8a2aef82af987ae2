"""The bounds of a daemon's whole answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pytest_gvisor.images import daemon_socket
from pytest_gvisor.images.daemon_socket import Adapter, _Socket


@pytest.fixture
def adapter() -> Iterator[Adapter]:
    """An adapter for a socket that is not there."""
    made = Adapter("http+unix:///none", timeout=60)
    yield made
    made.close()


@pytest.fixture
def ours(adapter: Adapter) -> Iterator[_Socket]:
    """A connection on which eight bytes have come, and no more."""
    one, other = socket.socketpair()
    with other, _Socket(fileno=one.detach()) as made:
        made.adapter = adapter
        made.settimeout(60)
        other.sendall(b"01234567")
        yield made


def test_each_read_waits_for_the_rest_of_the_deadline(adapter: Adapter, ours: _Socket) -> None:
    """The socket's own time-out stays where it is the shorter one."""
    with adapter.deadline(30):
        assert ours.recv_into(bytearray(1)) == 1
        assert 0 < (ours.gettimeout() or 0) <= 30
        ours.settimeout(0.5)
        assert ours.recv_into(bytearray(1)) == 1
        assert ours.gettimeout() == 0.5


def test_nothing_is_read_after_the_deadline(adapter: Adapter, ours: _Socket) -> None:
    """Bytes that have come by then do not count; outside of the block there is no deadline."""
    with adapter.deadline(0), pytest.raises(TimeoutError, match="timed out"):
        ours.recv_into(bytearray(1))
    assert ours.recv_into(bytearray(1)) == 1


def test_no_more_is_read_than_the_bound(
    adapter: Adapter, ours: _Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of all answers in the block count together, and none outside of it."""
    monkeypatch.setattr(daemon_socket, "_MAX_BYTES", 3)
    with adapter.deadline(30):
        assert ours.recv_into(bytearray(3)) == 3
        with pytest.raises(OSError, match="more than 3 bytes"):
            ours.recv_into(bytearray(1))
    assert ours.recv_into(bytearray(4)) == 4
