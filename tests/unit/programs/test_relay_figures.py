"""The figures of a relay: they are whole, or say that they are not."""

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_gvisor.guest.wire.mux import RESET, SYNC
from pytest_gvisor.programs import settling
from tests.unit.programs.relays import both, held_up, running, serving


def fill(client: socket.socket) -> int:
    """Send until nobody takes more, end the connection, and return the number of bytes."""
    client.settimeout(0.5)
    sent = 0
    with client, contextlib.suppress(TimeoutError):
        while True:
            sent += client.send(b"x" * 65536)
    return sent


@pytest.mark.parametrize("slow", ["to resolve", "to read"])
def test_figures_wait_for_the_sandbox_and_for_hosts(
    monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """All counts that a program had sent before it ended, though its host comes to it late."""
    monkeypatch.setattr(settling, "SETTLED", 30.0)
    resolves, reads = threading.Event(), threading.Event()
    (reads if slow == "to resolve" else resolves).set()

    def serve(peer: socket.socket) -> None:
        reads.wait(30)
        while peer.recv(65536):
            pass

    with serving(serve) as server, ThreadPoolExecutor(1) as pool:
        entries = [f"slow.example:{server.port}", f"127.0.0.1:{server.port}"]
        place = ("127.64.0.1", server.port)
        resolver = held_up(resolves, "127.0.0.1")
        with both(entries, [f"127.64.0.1:{server.port}", "-"], resolver) as outer:
            sent = fill(socket.create_connection(place))
            answer = pool.submit(outer.answer, settling.SETTLE)
            time.sleep(0.2)
            assert not answer.done()
            resolves.set()
            reads.set()
            found = answer.result(30)
            (named, _), error = found["entries"], found["error"]
            assert (named["reached"], named["sent"], error) == (1, sent, "")


def test_programs_that_connect_all_the_time_hold_up_no_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The figures come while they do, and say nothing against themselves."""
    monkeypatch.setattr(settling, "SETTLED", 30.0)
    over = threading.Event()

    def connect(port: int) -> None:
        while not over.is_set():
            with socket.create_connection(("127.64.0.1", port)) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"

    with serving() as server, ThreadPoolExecutor(4) as pool:
        entries = [f"echo.example:{server.port}", f"127.0.0.1:{server.port}"]
        with both(entries, [f"127.64.0.1:{server.port}", "-"]) as outer:
            asking = [pool.submit(connect, server.port) for _ in range(4)]
            errors = [outer.answer(settling.SETTLE)["error"] for _ in range(10)]
            over.set()
            assert [one.result(30) for one in asking] == [None] * 4
            assert errors == [""] * 10


def test_the_last_figures_come_when_nothing_is_connected() -> None:
    """Pytest has ended its half of the socket by then, and reads on."""
    with serving() as server:
        entries = [f"echo.example:{server.port}", f"127.0.0.1:{server.port}"]
        place = ("127.64.0.1", server.port)
        with (
            both(entries, [f"127.64.0.1:{server.port}", "-"]) as outer,
            socket.create_connection(place) as client,
        ):
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            outer._control.shutdown(socket.SHUT_WR)
            found = json.loads(outer._control.recv(1 << 20))
            assert (found["entries"][0]["sent"], found["sending"]) == (5, 0)
            assert outer._control.recv(1) == b""


@pytest.mark.parametrize("honest", [True, False], ids=["a slow host", "a silent sandbox"])
def test_figures_that_are_not_whole_say_so(
    monkeypatch: pytest.MonkeyPatch, *, honest: bool
) -> None:
    """After some time the counters come as they are; a late answer counts for no later question."""
    monkeypatch.setattr(settling, "SETTLED", 0.2)
    held = threading.Event()

    with (
        ThreadPoolExecutor(1) as pool,
        running(["slow.example:9"], resolver=held_up(held, "10.0.0.1")) as one,
    ):
        answer = pool.submit(one.answer, settling.SETTLE)
        assert one.guest.frame() == (SYNC, 0, b"")
        one.guest.open(1)
        if honest:
            one.guest.send(SYNC, 0)
        told = "not all is counted: after 0.2 s, a connection is not settled"
        assert answer.result(30)["error"] == told
        held.set()
        assert one.guest.frame()[0] == RESET
        if not honest:
            one.guest.send(SYNC, 0)
        monkeypatch.setattr(settling, "SETTLED", 30.0)
        answer = pool.submit(one.answer, settling.SETTLE)
        assert one.guest.frame()[0] == SYNC
        assert not answer.done()
        one.guest.send(SYNC, 0)
        assert answer.result(30)["error"] == ""


def test_a_sandbox_that_ends_has_all_of_its_figures() -> None:
    """Nothing of it is under way any more."""
    with ThreadPoolExecutor(1) as pool, running(["evil.example:9"]) as one:
        answer = pool.submit(one.answer, settling.SETTLE)
        assert one.guest.frame()[0] == SYNC
        one.guest.link.close()
        assert answer.result(30)["error"] == ""
        assert one.answer(settling.SETTLE)["error"] == ""
