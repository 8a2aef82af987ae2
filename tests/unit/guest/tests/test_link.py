"""The socket of a pytest inside: whole frames in order, whoever sends."""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from pytest_gvisor.guest.tests import link as guest_link
from pytest_gvisor.guest.tests.link import Link
from pytest_gvisor.guest.tests.unsent import SIZE, Unsent
from pytest_gvisor.guest.wire.frames import Encoder
from pytest_gvisor.inside.wire.link import decoder as decoder_of_host


class Ends(NamedTuple):
    """Both ends of a socket."""

    host: socket.socket
    link: Link


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A link over descriptor 0, which is put back."""
    host, inside = socket.socketpair()
    kept = os.dup(0)
    os.dup2(inside.fileno(), 0)
    link = Link()
    yield Ends(host, link)
    os.dup2(kept, 0)
    os.close(kept)
    os.close(link._commands)
    link._messages.close()
    inside.close()
    host.close()


def test_threads_send_whole_frames_in_order(ends: Ends) -> None:
    """Frames are numbered, so a wrong order would end the sandbox."""
    host, link = ends

    def talk(name: str) -> None:
        for number in range(200):
            link.send("log", name=name, number=number)

    decoder, got = decoder_of_host(), list[tuple[str, int]]()
    with ThreadPoolExecutor(4) as pool:
        talks = pool.map(talk, "abcd")
        while len(got) < 800:
            assert decoder.read(host.fileno())
            got += [(message["name"], message["number"]) for message, _ in decoder.frames()]
    assert len(list(talks)) == 4
    for name in "abcd":
        assert [number for one, number in got if one == name] == [*range(200)]


def received(host: socket.socket) -> list[dict[str, object]]:
    """The messages that have arrived, each without its empty fields."""
    decoder = decoder_of_host()
    decoder.read(host.fileno())
    return [message for message, _ in decoder.frames()]


def test_a_passed_phase_goes_in_one_message_with_what_follows(ends: Ends) -> None:
    """In order, and alone where another kind of message follows."""
    host, link = ends
    link.put_off("passed", id="a", passed={"times": (1, 0, 1)})
    link.put_off("warning", text="w")
    link.put_off("passed", id="a", passed={"times": (1, 0, 2)})
    link.send("phase", id="a", when="call")
    link.put_off("passed", id="a", passed={"times": (1, 0, 3)})
    link.put_off("passed", id="a", passed={"times": (1, 0, 4)})
    link.send("done", id="a")
    assert received(host) == [
        {"type": "passed", "id": "a", "passed": {"times": [1, 0, 1]}},
        {"type": "warning", "text": "w"},
        {"type": "phase", "id": "a", "passed": {"times": [1, 0, 2]}, "when": "call"},
        {"type": "passed", "id": "a", "passed": {"times": [1, 0, 3]}},
        {"type": "done", "id": "a", "passed": {"times": [1, 0, 4]}},
    ]


@pytest.mark.parametrize("seen", [True, False])
def test_a_fork_sends_nothing(ends: Ends, monkeypatch: pytest.MonkeyPatch, *, seen: bool) -> None:
    """Neither one that Python knows of, nor one by C code, whatever it puts off."""
    host, link = ends
    link.put_off("mine")
    monkeypatch.setattr("pytest_gvisor.guest.tests.link._MOST_WAITING", 100)
    if seen:
        link._disown()
    else:
        monkeypatch.setattr("pytest_gvisor.guest.tests.link._getpid", lambda: 1)
    link.put_off("other", text="x" * 200)
    link.send("another")
    link.own()
    monkeypatch.undo()
    link.own()
    link._waiting.clear()
    link.send("last")
    assert [message["type"] for message in received(host)] == ["last"]


def test_what_is_put_off_is_bounded(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long messages wait for no others: a sandbox has little memory."""
    host, link = ends
    monkeypatch.setattr("pytest_gvisor.guest.tests.link._MOST_WAITING", 1000)
    link.put_off("long", text="x" * 600)
    link.put_off("long", text="x" * 600)
    assert len(received(host)) == 2


def test_a_message_within_a_message_comes_after_it(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler may send while a message is written, and waits for nothing."""
    host, link = ends
    write = link._messages.write

    def interrupted(data: bytes) -> int:
        if b'"outer"' in data:
            link.send("inner")
        return write(data)

    monkeypatch.setattr(link._messages, "write", interrupted)
    link.send("outer")
    decoder = decoder_of_host()
    decoder.read(host.fileno())
    assert [message["type"] for message, _ in decoder.frames()] == ["outer", "inner"]


@pytest.fixture
def held(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> Iterator[Unsent]:
    """Memory for what the link holds back, for ever unless there is another reason."""
    monkeypatch.setattr(guest_link, "_HELD", 1e9)
    fd = os.memfd_create("test")
    os.ftruncate(fd, SIZE)
    assert not ends.link.hold()
    ends.link._memory = fd
    assert ends.link.hold()
    memory = ends.link._unsent
    assert memory is not None
    ends.link.send("ready")
    assert [message["type"] for message in received(ends.host)] == ["ready"]
    yield memory
    memory._head.release()
    memory._bytes.release()


def test_short_messages_wait_in_memory_for_a_long_one(ends: Ends, held: Unsent) -> None:
    """The long one is sent at once, and all before it, in order."""
    host, link = ends
    link.send("phase", id="a")
    link.send("done", id="a")
    assert b"done" in held.frames()
    link.send("report", id="a")
    decoder = decoder_of_host()
    decoder._number = 1
    decoder.read(host.fileno())
    types = [message["type"] for message, _ in decoder.frames()]
    assert types == ["phase", "done", "report"]
    assert not held.frames()


def test_a_message_that_was_put_off_goes_with_the_next_short_one(ends: Ends, held: Unsent) -> None:
    """A failed report is put off until its phase's end, and is sent then."""
    ends.link.put_off("report", id="a")
    ends.link.send("done", id="a")
    assert not held.frames()


def test_whoever_waits_for_a_command_has_sent_everything(ends: Ends, held: Unsent) -> None:
    """The host may wait for these messages before it sends the command."""
    host, link = ends
    link.send("done", id="a")
    host.sendall(frames_of({"op": "run"}))
    assert link.receive() == {"op": "run"}
    assert not held.frames()


def test_short_messages_wait_for_milliseconds_alone(
    ends: Ends, held: Unsent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next message after that time sends them; so it does when the clock goes back."""
    link = ends.link
    for now in (1e12, 0.0):
        link.send("phase", id="a")
        assert held.frames()
        monkeypatch.setattr(guest_link, "_now", lambda now=now: now)
        link.send("done", id="a")
        assert not held.frames()


def test_messages_without_room_are_sent(ends: Ends, held: Unsent) -> None:
    """Many short ones, and one that is longer than all the memory."""
    host, link = ends
    decoder, got = decoder_of_host(), list[int]()
    decoder._number = 1
    for number in range(450):
        link.send("phase", id="x" * 100, number=number)
    decoder.read(host.fileno())
    got += [message["number"] for message, _ in decoder.frames()]
    assert 0 < len(got) < 450
    link.send("phase", id="x" * SIZE, number=450)
    while len(got) < 451:
        decoder.read(host.fileno())
        got += [message["number"] for message, _ in decoder.frames()]
    assert got == [*range(451)]
    assert not held.frames()


def frames_of(*commands: dict[str, object]) -> bytes:
    """Commands of a host."""
    return b"".join(map(Encoder().head, commands))
