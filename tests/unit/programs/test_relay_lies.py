"""A sandbox that lies to the relay, or reads nothing; a host that does not answer."""

import contextlib
import socket
import threading

import pytest

from pytest_gvisor.guest.wire import mux
from pytest_gvisor.guest.wire.mux import CREDIT, DATA, END, OPEN, RESET, SYNC, WINDOW
from tests.unit.programs.relays import (
    HEAD,
    Guest,
    Running,
    answers,
    ask_connect,
    held_up,
    proxying,
    running,
    send_all,
    serving,
)


@pytest.mark.usefixtures("fewer")
def test_programs_that_never_end_their_wish_hold_up_no_other() -> None:
    """This holds below the bound on connections. A client that goes away gives its place back."""
    with serving() as server, proxying(server.port) as (outer, connect):
        for begun in (b"", b"\5", b"\5\1\0", b"\5\1\0\5\1", b"CONNECT a.exa", b"\4\1", b"\x16\3"):
            for _ in range(20):
                with connect() as client:
                    client.sendall(begun)
        with contextlib.ExitStack() as undo:
            for _ in range(40):
                undo.enter_context(connect()).sendall(b"GET http://a.exa")
            for _ in range(60):
                with connect() as client:
                    send_all(client, ask_connect(server.port) + b"x")
                    assert client.makefile("rb").read().endswith(b"\r\n\r\nxbye")
            with connect() as client, contextlib.suppress(OSError):
                send_all(client, b"GET /" + b"x" * 70_000)
        assert outer.report()["error"] == ""
        assert outer.counts()[0]["reached"] == 60 == server.accepted


LIES = {
    "a kind that does not exist": HEAD.pack(9, 1, 0),
    "garbage": b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
    "a frame that is too long": HEAD.pack(DATA, 1, 60_000),
    "an entry that does not exist": HEAD.pack(OPEN, 1, 2) + b"\x00\x01",
    "an entry of another form": HEAD.pack(OPEN, 1, 4) + b"\x00\x00\x00\x00",
    "a host in place of an entry": HEAD.pack(OPEN, 1, 12) + b"evil.example",
    "data of a connection that was never there": HEAD.pack(DATA, 7, 1) + b"x",
    "the end of one that was never there": HEAD.pack(END, 7, 0),
    "credit for one that was never there": HEAD.pack(CREDIT, 7, 4) + b"\0\0\0\1",
    "a number for the second time": (HEAD.pack(OPEN, 1, 2) + b"\0\0") * 2,
    "a number below the last": HEAD.pack(OPEN, 5, 2) + b"\0\0" + HEAD.pack(OPEN, 4, 2) + b"\0\0",
    "a host for the proxy, which is for names with a star": HEAD.pack(OPEN, 1, 14)
    + b"\xff\xffevil.example",
    "the number 0": HEAD.pack(OPEN, 0, 2) + b"\0\0",
    "data before the host has answered": HEAD.pack(OPEN, 1, 2) + b"\0\0" + HEAD.pack(DATA, 1, 1)
    + b"x",
    "more credit than there can be": HEAD.pack(OPEN, 1, 2) + b"\0\0"
    + HEAD.pack(CREDIT, 1, 4) + b"\xff\xff\xff\xff",
    "an answer to no question": HEAD.pack(SYNC, 0, 0),
    "credit of another form": HEAD.pack(OPEN, 1, 2) + b"\0\0" + HEAD.pack(CREDIT, 1, 2) + b"\0\0",
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_lie_ends_the_relay(lie: bytes) -> None:
    """And with it all connections: the sandbox has no network then."""
    held = threading.Event()

    one = Running(["slow.example:443"], resolver=held_up(held))
    one.guest.link.sendall(lie)
    assert one.cut_off() != ""
    held.set()


def test_an_entry_with_a_star_is_no_host() -> None:
    """A sandbox that opens it by its number would have a name with a star resolved."""
    one = Running(["*.example:443"], resolver=lambda *_: pytest.fail("resolved"))
    one.guest.open(1)
    assert "is opened by" in one.cut_off()


def test_more_data_than_was_granted_ends_the_relay() -> None:
    """The server reads nothing, and the relay holds no more than a window of the connection."""
    held = threading.Event()
    with serving(lambda _peer: bool(held.wait(30))) as server:
        one = Running([f"127.0.0.1:{server.port}"])
        one.guest.open(1)
        assert one.guest.frame()[0] == CREDIT
        with contextlib.suppress(OSError):
            for _ in range(1000):
                one.guest.send(DATA, 1, bytes(32768))
        assert "bytes too many" in one.cut_off()
        held.set()


@pytest.mark.parametrize("lie", [HEAD.pack(DATA, 1, 1) + b"x", HEAD.pack(END, 1, 0)])
def test_a_connection_ends_once(lie: bytes) -> None:
    """Nothing of it comes after its end."""
    held = threading.Event()
    with serving(lambda _peer: bool(held.wait(30))) as server:
        one = Running([f"127.0.0.1:{server.port}"])
        one.guest.open(1)
        assert one.guest.frame()[0] == CREDIT
        one.guest.send(END, 1)
        one.guest.link.sendall(lie)
        assert one.cut_off() != ""
        held.set()


@pytest.mark.usefixtures("fewer")
def test_ten_thousand_wishes_hold_fifty_connections() -> None:
    """Each further one is refused at once, and the relay goes on."""

    def ask(guest: Guest) -> None:
        for number in range(1, 10_001):
            guest.open(number)

    with serving(lambda peer: peer.recv(1)) as server, running([f"127.0.0.1:{server.port}"]) as one:
        sender = threading.Thread(target=ask, args=(one.guest,))
        sender.start()
        frames = [one.guest.frame()[:2] for _ in range(10_000)]
        sender.join()
        assert sum(kind == CREDIT for kind, _number in frames) == mux.MOST
        (found,) = one.counts()
        assert (found["reached"], found["refused"]) == (mux.MOST, 10_000 - mux.MOST)
        assert found["problem"] == "more than 50 connections at once"
        assert server.accepted <= mux.MOST


def test_a_sandbox_that_reads_no_answers_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wishes whose refusals pile up would fill the host's memory."""
    monkeypatch.setattr(mux, "MOST_OUT", 65536)
    one = Running(["10.0.0.1:1", "evil.example:1"], resolver=answers())
    with contextlib.suppress(OSError):
        for number in range(1, 1_000_000):
            one.guest.send(OPEN, number, b"\0\1")
    assert one.cut_off() == "it reads no answer"


def test_a_sandbox_that_reads_slowly_holds_up_no_other_connection() -> None:
    """The sandbox has granted a window, and gets no byte beyond it."""

    def flood(peer: socket.socket) -> None:
        while True:
            peer.sendall(bytes(65536))

    with (
        serving(flood) as floods,
        serving() as echoes,
        running([f"127.0.0.1:{floods.port}", f"127.0.0.1:{echoes.port}"]) as one,
    ):
        one.guest.open(1)
        got = 0
        while got < WINDOW:
            kind, _number, payload = one.guest.frame()
            got += len(payload) if kind == DATA else 0
        one.guest.open(2, entry=1)
        assert one.guest.frame()[:2] == (CREDIT, 2)
        one.guest.send(DATA, 2, b"hello")
        assert one.guest.frame() == (DATA, 2, b"hello")
        assert one.counts()[0]["received"] == WINDOW == got


def test_frames_of_a_connection_that_is_gone_mean_nothing() -> None:
    """The sandbox sent them before it heard of the close."""
    with running(["evil.example:9"], resolver=answers("127.0.0.1")) as one:
        one.guest.open(1)
        assert one.guest.frame() == (RESET, 1, b"")
        for kind in (DATA, END, RESET):
            one.guest.send(kind, 1)
        one.guest.open(2)
        assert one.guest.frame() == (RESET, 2, b"")
