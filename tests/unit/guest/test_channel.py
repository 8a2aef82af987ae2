"""The socket of a pytest inside: whole frames in order, whoever sends."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pytest_gvisor.guest.channel import Channel
from pytest_gvisor.inside import frames


class Ends(NamedTuple):
    """Both ends of a socket."""

    host: socket.socket
    channel: Channel


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A channel over descriptor 0, which is put back."""
    host, inside = socket.socketpair()
    kept = os.dup(0)
    os.dup2(inside.fileno(), 0)
    channel = Channel()
    yield Ends(host, channel)
    os.dup2(kept, 0)
    os.close(kept)
    os.close(channel._commands)
    channel._messages.close()
    inside.close()
    host.close()


def test_threads_send_whole_frames_in_order(ends: Ends) -> None:
    """Frames are numbered, so a wrong order would end the sandbox."""
    host, channel = ends

    def talk(name: str) -> None:
        for number in range(200):
            channel.send("log", name=name, number=number)

    threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
    decoder, got = frames.decoder(), list[tuple[str, int]]()
    for thread in threads:
        thread.start()
    while len(got) < 800:
        assert decoder.read(host.fileno())
        got += [(message["name"], message["number"]) for message, _ in decoder.frames()]
    for thread in threads:
        thread.join()
    for name in "abcd":
        assert [number for one, number in got if one == name] == [*range(200)]


def test_a_message_within_a_message_comes_after_it(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler may send while a message is written, and waits for nothing."""
    host, channel = ends
    write = channel._messages.write

    def interrupted(data: bytes) -> int:
        if b'"outer"' in data:
            channel.send("inner")
        return write(data)

    monkeypatch.setattr(channel._messages, "write", interrupted)
    channel.send("outer")
    decoder = frames.decoder()
    decoder.read(host.fileno())
    assert [message["type"] for message, _ in decoder.frames()] == ["outer", "inner"]
