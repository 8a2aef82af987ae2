"""The relay on the host: each connection passes both ways, and each half ends alone."""

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.guest.warm.inner_relay import listen
from pytest_gvisor.guest.wire import mux
from pytest_gvisor.guest.wire.mux import CREDIT, DATA, END, RESET, SYNC
from pytest_gvisor.programs import relay
from pytest_gvisor.programs.relay import Relay
from tests.unit.programs.relays import HEAD, ask_connect, both, proxying, running, send_all, serving


def test_a_connection_passes_both_ways_and_each_half_ends_alone() -> None:
    """The server answers after the client's end, and 20 MiB are the same at the other end."""
    data = os.urandom(1 << 20) * 20
    with serving() as server:
        entries = [f"echo.example:{server.port}", f"127.0.0.1:{server.port}"]
        places = [f"127.64.0.1:{server.port}", "-"]
        with both(entries, places) as outer, socket.create_connection(
            ("127.64.0.1", server.port)
        ) as client:  # fmt: skip
            sender = threading.Thread(target=send_all, args=(client, data))
            sender.start()
            found = bytearray()
            while piece := client.recv(1 << 16):
                found += piece
            sender.join()
            assert found == data + b"bye"
            named, address = outer.counts()
        assert named == {
            "reached": 1, "refused": 0, "sent": len(data), "received": len(data) + 3, "problem": ""
        }  # fmt: skip
        assert address["reached"] == 0


def test_an_end_holds_while_the_other_half_goes_on() -> None:
    """A grant that comes after it takes nothing back: the server sees the end of the data."""
    link, other = socket.socketpair()
    sock, peer = socket.socketpair()
    sock.setblocking(False)
    with other, peer:
        peer.settimeout(30)
        one = mux.Mux(link)
        one.last, one.connections[1] = 1, mux.Connection(1, sock)
        before = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                before += sock.send(b"-" * 4096)
        one.connections[1].granted = 5
        data = (DATA, b"hello"), (END, b""), (CREDIT, b"\0\0\0\1")
        for kind, payload in data:
            other.sendall(HEAD.pack(kind, 1, len(payload)) + payload)
        one.turn(30)
        found = b""
        while len(found) < before + 5:
            found += peer.recv(1 << 16)
            one.turn(0)
        assert (found[-5:], peer.recv(1)) == (b"hello", b"")
        one.close()


def test_a_connection_to_itself_is_none() -> None:
    """The kernel makes one to a port of the loopback that the socket itself was given."""
    (link, theirs), (ours, control) = socket.socketpair(), socket.socketpair()
    with link, ours, control:
        one = Relay(theirs, control, ["127.0.0.1:9"])
        attempt = relay.Attempt(1, one._targets[0])
        one._attempts[1] = one.connections[1] = attempt
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        one.watch(sock, lambda _: None)
        one._tried(attempt, sock, "127.0.0.1", 0)
        counts, problem = attempt.target.counts, attempt.target.problem
        assert (counts["reached"], counts["refused"]) == (0, 1)
        assert problem == "127.0.0.1: nothing listens there"
        one.close()


def test_a_host_that_resets_at_once_ends_no_other_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reset may come between two calls of the relay, whose second one then fails."""

    class Reset(socket.socket):
        def getpeername(self) -> Any:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    with serving() as server, serving() as other:
        entries = [f"127.0.0.1:{server.port}", f"127.0.0.1:{other.port}"]
        with running(entries) as one:
            monkeypatch.setattr(socket, "socket", Reset)
            one.guest.open(1)
            assert one.guest.frame() == (RESET, 1, b"")
            monkeypatch.undo()
            one.guest.open(2, 1)
            assert one.guest.frame()[:2] == (CREDIT, 2)
            first, second = one.counts()
    assert first["problem"] == f"127.0.0.1: {os.strerror(errno.ENOTCONN)}"
    assert (first["refused"], second["reached"]) == (1, 1)


def test_a_sandbox_that_takes_no_more_is_heard_to_its_end() -> None:
    """Nothing waits for it: the relay would try again without a pause."""
    (link, theirs), (ours, control) = socket.socketpair(), socket.socketpair()
    with link, ours, control:
        one = Relay(theirs, control, [])
        link.shutdown(socket.SHUT_RD)
        one.send(SYNC, 0)
        assert one.turn(0)
        assert (len(one._out), one.idle) == (0, True)
        one.close()


@pytest.mark.usefixtures("fewer")
def test_many_connections_wait_for_their_turn() -> None:
    """200 clients one after another and 60 at once, of which 50 are passed at a time."""
    with serving() as server:
        place = f"127.64.0.1:{server.port}"
        with both([f"127.0.0.1:{server.port}"], [place]) as outer:
            address = ("127.64.0.1", server.port)
            for _ in range(200):
                with socket.create_connection(address) as client:
                    client.sendall(b"x")
                    assert client.recv(1) == b"x"
            with contextlib.ExitStack() as undo:
                clients = [undo.enter_context(socket.create_connection(address)) for _ in range(60)]
                for client in clients:
                    client.sendall(b"y")
                for client in clients:
                    assert client.recv(1) == b"y"
                    client.shutdown(socket.SHUT_WR)
                    assert client.recv(10) == b"bye"
            (found,) = outer.counts()
            assert (found["reached"], found["refused"]) == (260, 0)


FEW = """
import os, resource, socket, sys
from pytest_gvisor.guest.warm.inner_relay import InnerRelay

class Counting(socket.socket):
    calls = 0
    def accept(self):
        Counting.calls += 1
        return super().accept()

link, listener = socket.socket(fileno=int(sys.argv[1])), Counting(fileno=int(sys.argv[2]))
relay = InnerRelay(link, [(0, listener)])
free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, free + 2))
relay.serve()
print(Counting.calls)
"""


def test_a_relay_without_descriptors_waits_for_the_end_of_a_connection() -> None:
    """To try again at each turn would take a whole processor."""
    with contextlib.ExitStack() as undo:
        server = undo.enter_context(serving())
        outer = undo.enter_context(running([f"127.0.0.1:{server.port}"]))
        (_entry, listener), *_ = listen([f"127.64.0.1:{server.port}"])
        undo.enter_context(listener)
        fds = outer.guest.link.fileno(), listener.fileno()
        inner = undo.enter_context(subprocess.Popen(
            [sys.executable, "-c", FEW, *map(str, fds)], pass_fds=fds, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(relay.__file__).parents[2])},
        ))  # fmt: skip
        address = ("127.64.0.1", server.port)
        first, *others = clients = [socket.create_connection(address) for _ in range(5)]
        for client in clients:
            undo.enter_context(client)
        others[-1].sendall(b"y")
        for _ in range(300):
            first.sendall(b"x")
            assert first.recv(1) == b"x"
        for client in clients:
            client.sendall(b"z")
            client.shutdown(socket.SHUT_WR)
            assert client.makefile("rb").read() == (b"yzbye" if client is others[-1] else b"zbye")
        outer.stop()
        assert inner.stdout is not None
        # Five that are taken, and one in vain at the beginning and after the end of each.
        assert 5 <= int(inner.stdout.read()) <= 12


def test_a_host_that_refuses_resets_the_program() -> None:
    """The program sees a reset and no end of data. The counters say why."""
    with socket.socket() as nobody_else_s:
        nobody_else_s.bind(("127.0.0.1", 0))
        port = nobody_else_s.getsockname()[1]
        with both([f"127.0.0.1:{port}"], [f"127.64.0.1:{port}"]) as outer:
            client = socket.create_connection(("127.64.0.1", port))
            with client, pytest.raises(ConnectionResetError):
                client.recv(1)
            (found,) = outer.counts()
        assert (found["reached"], found["refused"]) == (0, 1)
        assert found["problem"] == "127.0.0.1: Connection refused"


def test_a_reset_by_the_host_is_a_reset_in_the_sandbox() -> None:
    """Not an end of data, which a program may take for the whole answer."""

    def reset(peer: socket.socket) -> None:
        peer.recv(1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with serving(reset) as server:
        place = f"127.64.0.1:{server.port}"
        with (
            both([f"127.0.0.1:{server.port}"], [place]),
            socket.create_connection(("127.64.0.1", server.port)) as client,
        ):
            client.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                client.recv(1)


@pytest.mark.parametrize("ends", [True, False])
def test_a_sandbox_that_ends_resets_what_it_has_not_ended(*, ends: bool) -> None:
    """A host that has all of the data sees an end; the report counts the others as sending."""
    read, closed, problems = threading.Event(), threading.Event(), list[int]()

    def serve(peer: socket.socket) -> None:
        while (data := peer.recv(99)) != (b"" if ends else b"hello"):
            assert data
        read.set()
        closed.wait(30)
        problems.append(peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    with serving(serve) as server, running([f"127.0.0.1:{server.port}"]) as one:
        one.guest.open(1)
        assert one.guest.frame()[0] == CREDIT
        one.guest.send(DATA, 1, b"hello")
        if ends:
            one.guest.send(END, 1)
        assert read.wait(30)
        assert one.report()["sending"] == (not ends)
        one.guest.link.close()
        while one.report()["sending"] or one.relay.connections:
            pass
        closed.set()
    assert problems == [0 if ends else errno.ECONNRESET]


def test_a_tunnel_passes_every_byte_both_ways() -> None:
    """Also those that came with the wish, and the credit is that of the bytes of the host."""
    data = os.urandom(1 << 20) * 20
    with serving() as server, proxying(server.port) as (outer, connect), connect() as client:
        wish = ask_connect(server.port)
        sender = threading.Thread(target=send_all, args=(client, wish + data))
        sender.start()
        found = bytearray()
        while piece := client.recv(1 << 16):
            found += piece
        sender.join()
        assert found == b"HTTP/1.1 200 Connection established\r\n\r\n" + data + b"bye"
        entry = outer.counts()[0]
        assert (entry["sent"], entry["received"]) == (len(data), len(data) + 3)


def test_a_wish_that_the_host_refuses_has_an_answer_and_an_end() -> None:
    """No reset, which would take the answer with it. The next wish is another connection."""
    with serving() as server, proxying(server.port) as (outer, connect):
        for name in ("evil.com", "example"):
            with connect() as client:
                client.sendall(ask_connect(server.port, name))
                answer = client.makefile("rb").read()
                assert answer.startswith(b"HTTP/1.1 403 Not allowed or not reached\r\n")
        with connect() as client:
            client.sendall(b"\5\1\0\5\1\0\1\x7f\0\0\1\0\1")
            assert client.makefile("rb").read() == b"\5\0\5\2\0\1" + bytes(6)
        assert server.accepted == 0
        assert [name["refused"] for name in outer.report()["names"]] == [1, 1, 1]
