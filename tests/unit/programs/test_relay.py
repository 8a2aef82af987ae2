"""The relay on the host: what it connects to, and what a sandbox that lies cannot do."""

import contextlib
import errno
import json
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.guest.warm.inner_relay import InnerRelay, listen
from pytest_gvisor.guest.wire import mux
from pytest_gvisor.guest.wire.mux import CREDIT, DATA, END, OPEN, PROXY, RESET, SYNC, WINDOW
from pytest_gvisor.programs import relay, settling
from pytest_gvisor.programs.relay import Relay

HEAD = struct.Struct("!BIH")


class Server:
    """A server on the host's loopback, which counts its connections."""

    def __init__(self, serve: Callable[[socket.socket], object]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = self._listener.getsockname()[1]
        self._serve = serve
        self.accepted = 0
        self._last: object = None
        self._threads: list[threading.Thread] = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            peer, address = self._listener.accept()
            if address == self._last:
                peer.close()
                return
            self.accepted += 1
            self._threads.append(threading.Thread(target=self._one, args=(peer,)))
            self._threads[-1].start()

    def _one(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            self._serve(peer)

    def close(self) -> None:
        """Accept the connections that wait, end it, and wait for its threads."""
        # A shutdown would drop what waits in the queue; the queue keeps the order.
        with socket.socket() as last:
            last.bind(("127.0.0.1", 0))
            self._last = last.getsockname()
            last.connect(("127.0.0.1", self.port))
            self._threads[0].join()
        self._listener.close()
        for thread in self._threads:
            thread.join()


def echo(peer: socket.socket) -> None:
    """Send everything back, and a farewell after the client's end: the other half is open."""
    while data := peer.recv(65536):
        peer.sendall(data)
    peer.sendall(b"bye")


@contextlib.contextmanager
def serving(serve: Callable[[socket.socket], object] = echo) -> Iterator[Server]:
    """A server for the time of the block."""
    server = Server(serve)
    try:
        yield server
    finally:
        server.close()


class Guest:
    """The sandbox's end of a relay's link, which may lie."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        link.settimeout(30)

    def send(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Send one frame."""
        self.link.sendall(HEAD.pack(kind, number, len(payload)) + payload)

    def open(self, number: int, entry: int = 0) -> None:
        """Ask for a connection."""
        self.send(OPEN, number, struct.pack("!H", entry))

    def ask(self, number: int, wish: bytes) -> None:
        """Ask for a host and port, as the proxy does."""
        self.send(OPEN, number, struct.pack("!H", PROXY) + wish)

    def frame(self) -> tuple[int, int, bytes]:
        """The next frame."""
        kind, number, size = HEAD.unpack(self._exactly(HEAD.size))
        return kind, number, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.link.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data


class Running:
    """A relay in a thread, and both of its other ends."""

    def __init__(self, entries: Sequence[str], **more: relay.Resolve) -> None:
        link, theirs = socket.socketpair()
        self.guest = Guest(link)
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.relay = Relay(theirs, control, entries, **more)
        self._thread = threading.Thread(target=self.relay.serve)
        self._thread.start()

    def report(self) -> dict[str, Any]:
        """The relay's answer to pytest, at once."""
        return self.answer(b"now")

    def answer(self, question: bytes) -> dict[str, Any]:
        """The relay's answer to pytest."""
        self._control.send(question)
        found: dict[str, Any] = json.loads(self._control.recv(1 << 20))
        return found

    def counts(self) -> list[dict[str, Any]]:
        """The counters of each entry."""
        found: list[dict[str, Any]] = self.report()["entries"]
        return found

    def stop(self) -> None:
        """Close pytest's end, and wait for the relay."""
        self._control.close()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def end(self) -> None:
        """Close both ends."""
        self.stop()
        self.guest.link.close()

    def cut_off(self) -> str:
        """Wait until the relay has closed the link, and return its error."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                self.guest.frame()
        error: str = self.report()["error"]
        self.end()
        return error


@contextlib.contextmanager
def running(entries: Sequence[str], **more: relay.Resolve) -> Iterator[Running]:
    """A relay for the time of the block."""
    one = Running(entries, **more)
    try:
        yield one
    finally:
        one.end()


def answers(*addresses: str) -> relay.Resolve:
    """A resolver that gives one answer for each name."""
    return lambda _host, _port: addresses


def held_up(held: threading.Event, *addresses: str) -> relay.Resolve:
    """A resolver that gives its answer as soon as the event is set."""
    return lambda _host, _port: addresses if held.wait(30) else ()


def send_all(client: socket.socket, data: bytes) -> None:
    """Send the data, and end that half of the connection."""
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


# With an honest sandbox.


@contextlib.contextmanager
def both(
    entries: Sequence[str], places: Sequence[str], resolver: relay.Resolve | None = None
) -> Iterator[Running]:
    """A relay on either side, and the sandbox's listens on this host's loopback."""
    with running(entries, resolver=resolver or answers("127.0.0.1")) as outer:
        listeners = listen(places)
        inner = InnerRelay(outer.guest.link, listeners)
        thread = threading.Thread(target=inner.serve)
        thread.start()
        try:
            yield outer
        finally:
            outer.stop()
            thread.join(30)
            inner.close()
            for _entry, listener in listeners:
                listener.close()


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


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let relays hold 50 connections: in one process, each has four descriptors."""
    monkeypatch.setattr(mux, "MOST", 50)


@pytest.mark.usefixtures("fewer")
def test_many_connections_wait_for_their_turn() -> None:
    """2,000 clients one after another and 60 at once, of which 50 are passed at a time."""
    with serving() as server:
        place = f"127.64.0.1:{server.port}"
        with both([f"127.0.0.1:{server.port}"], [place]) as outer:
            address = ("127.64.0.1", server.port)
            for _ in range(2000):
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
            assert (found["reached"], found["refused"]) == (2060, 0)


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
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
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


# Ports of other sandboxes.


@contextlib.contextmanager
def sandbox(path: Path, serve: Callable[[socket.socket], object]) -> Iterator[str]:
    """A socket as a sandbox has it for a port, which serves one connection; yields its entry."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def once() -> None:
            with listener.accept()[0] as peer:
                serve(peer)

        thread = threading.Thread(target=once)
        thread.start()
        yield f"db:5432={path}"
        thread.join(30)


@pytest.mark.parametrize(
    ("answer", "problem"), [(b"\x6f", "Connection refused"), (b"", "no answer")]
)
def test_the_reason_of_another_sandbox_is_told(tmp_path: Path, answer: bytes, problem: str) -> None:
    """The reason is an error number in one byte. Without one, the sandbox has ended meanwhile."""
    served = sandbox(tmp_path / "s", lambda peer: peer.sendall(answer))
    with served as entry, running([entry]) as one:
        one.guest.open(1)
        assert one.guest.frame() == (RESET, 1, b"")
        assert one.counts()[0]["problem"] == f"from the other sandbox: {problem}"


def test_a_sandbox_that_is_closed_is_named(tmp_path: Path) -> None:
    """Whether its socket is gone, or nobody listens on it any more."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "left"))
    with running([f"a:1={tmp_path}/left", f"b:1={tmp_path}/gone"]) as one:
        for number in (1, 2):
            one.guest.open(number, number - 1)
            assert one.guest.frame() == (RESET, number, b"")
        problems = [found["problem"] for found in one.counts()]
        assert problems == ["the other sandbox is closed"] * 2


def test_a_sandbox_that_ends_resets_a_connection(tmp_path: Path) -> None:
    """A unix socket has no reset, and yet no client takes a part for the whole."""

    def serve(peer: socket.socket) -> None:
        peer.sendall(b"\0part")

    place = "127.64.0.1:5432"
    with (
        sandbox(tmp_path / "s", serve) as entry,
        both([entry], [place]),
        socket.create_connection(("127.64.0.1", 5432)) as client,
        pytest.raises(ConnectionResetError),
    ):
        client.makefile("rb").read()


def test_an_address_that_leads_to_a_sandbox_is_allowed_for_no_name() -> None:
    """Else a name could have that port of the host's loopback."""
    with running(
        ["127.0.0.1:5432=/gone", "evil.example:5432"], resolver=answers("127.0.0.1")
    ) as one:
        one.guest.open(1, 1)
        assert one.guest.frame() == (RESET, 1, b"")
        assert "which is loopback" in one.counts()[1]["problem"]


# Names and addresses.


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::ffff:127.0.0.1", "2002:7f00:1::",
                "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "192.0.0.9", "fe80::1%lo", "::1",
                "0.0.0.0", "::", "224.0.0.1", "fd00:ec2::254"],
)  # fmt: skip
def test_a_name_that_answers_with_an_address_that_is_not_public_is_refused(address: str) -> None:
    """One of its addresses is enough, and nothing is tried."""
    with running(["evil.example:9"], resolver=answers("1.1.1.1", address)) as one:
        one.guest.open(1)
        assert one.guest.frame() == (RESET, 1, b"")
        (found,) = one.counts()
        assert (found["reached"], found["refused"]) == (0, 1)
        assert f"the name answers with {address}, which is " in str(found["problem"])


def test_the_address_itself_may_be_allowed_for_its_port_alone() -> None:
    """The entry of another port allows nothing."""
    with serving() as server:
        name, own = f"db.example:{server.port}", f"127.0.0.1:{server.port}"
        with running([name, own], resolver=answers("127.0.0.1")) as one:
            one.guest.open(1)
            assert one.guest.frame() == (CREDIT, 1, struct.pack("!I", WINDOW))
        with running([name, "127.0.0.1:1"], resolver=answers("127.0.0.1")) as one:
            one.guest.open(1)
            assert one.guest.frame() == (RESET, 1, b"")
    assert server.accepted == 1


def test_a_name_that_changes_its_answer_is_judged_at_each_connection() -> None:
    """Rebinding: first an address that it may have, then another of the host's loopback."""
    told = iter([["127.0.0.1"], ["127.0.0.9"]])
    with serving() as server:
        entries = [f"evil.example:{server.port}", f"127.0.0.1:{server.port}"]
        with running(entries, resolver=lambda _host, _port: next(told)) as one:
            one.guest.open(1)
            assert one.guest.frame()[:2] == (CREDIT, 1)
            one.guest.open(2)
            assert one.guest.frame() == (RESET, 2, b"")
            assert "127.0.0.9, which is loopback" in str(one.counts()[0]["problem"])
    assert server.accepted == 1


def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    """The relay does as a client does."""
    with serving() as server:
        port = server.port
        entries = [f"db.example:{port}", f"127.0.0.1:{port}", f"127.0.0.9:{port}"]
        with running(entries, resolver=answers("127.0.0.9", "127.0.0.1")) as one:
            one.guest.open(1)
            assert one.guest.frame()[0] == CREDIT


def test_a_name_that_does_not_resolve_is_an_error_that_says_so() -> None:
    """The real resolver: RFC 6761 keeps this name from ever being there."""
    with running(["no-such-name.invalid:443"]) as one:
        one.guest.open(1)
        assert one.guest.frame() == (RESET, 1, b"")
        assert str(one.counts()[0]["problem"]).startswith("the name does not resolve: ")


def test_a_resolver_that_does_not_answer_holds_up_no_other_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And after some time its connection is refused."""
    monkeypatch.setattr(relay, "PATIENCE", 0.2)
    held = threading.Event()

    with serving() as server:
        entries = ["slow.example:443", f"127.0.0.1:{server.port}"]
        with running(entries, resolver=held_up(held)) as one:
            one.guest.open(1)
            one.guest.open(2, entry=1)
            assert one.guest.frame()[:2] == (CREDIT, 2)
            assert one.guest.frame() == (RESET, 1, b"")
            assert one.counts()[0]["problem"] == "no answer in 0.2 s"
            held.set()


@pytest.mark.parametrize(
    ("error", "problem"), [(OSError(-2, "no such name"), "no such name"), (OSError("odd"), "odd")]
)
def test_the_resolver_s_error_is_the_problem(error: OSError, problem: str) -> None:
    """An error without a number has a text as well."""

    def resolver(_host: str, _port: int) -> Sequence[str]:
        raise error

    with running(["a.example:9"], resolver=resolver) as one:
        one.guest.open(1)
        assert one.guest.frame() == (RESET, 1, b"")
        assert one.counts()[0]["problem"] == f"the name does not resolve: {problem}"


@pytest.mark.parametrize(("address", "own"), [("::1", "[::1]:9"), ("127.0.0.1", "127.0.0.1:9")])
def test_the_problem_names_the_entry_that_would_allow_it(address: str, own: str) -> None:
    """A user may copy it; an address of IPv6 has brackets."""
    with running(["a.example:9"], resolver=answers(address)) as one:
        one.guest.open(1)
        assert one.guest.frame() == (RESET, 1, b"")
        assert one.counts()[0]["problem"].endswith(f"loopback: allow '{own}' too if that is meant")


def test_addresses_are_tried_in_the_resolver_s_order() -> None:
    """The last one's problem is shown."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    entries = [f"a.example:{port}", f"127.0.0.1:{port}", f"127.0.0.9:{port}"]
    with running(entries, resolver=answers("127.0.0.1", "127.0.0.9")) as one:
        one.guest.open(1)
        assert one.guest.frame() == (RESET, 1, b"")
        assert one.counts()[0]["problem"] == "127.0.0.9: Connection refused"


def test_a_relay_without_descriptors_refuses_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each address is tried, and other connections stay as they are."""
    tried: list[int] = []

    def none_left(family: int, _kind: int) -> socket.socket:
        tried.append(family)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    entries = ["127.0.0.1:9", "::1:9", "a.example:9", f"db:1={tmp_path}/s"]
    with running(entries, resolver=answers("::1", "127.0.0.1")) as one:
        monkeypatch.setattr(socket, "socket", none_left)
        for entry in (2, 3):
            one.guest.open(entry, entry)
            assert one.guest.frame() == (RESET, entry, b"")
        monkeypatch.undo()
        problems = [found["problem"] for found in one.counts()[2:]]
    assert problems == ["127.0.0.1: Too many open files", "Too many open files"]
    assert tried == [socket.AF_INET6, socket.AF_INET, socket.AF_UNIX]


def test_eight_names_are_resolved_at_once() -> None:
    """Others wait for their turn, and the threads end with the relay."""
    held, told = threading.Event(), queue.SimpleQueue[str]()

    def resolver(host: str, _port: int) -> Sequence[str]:
        told.put(threading.current_thread().name)
        held.wait(30)
        return [host.removesuffix(".example")]

    with running([f"10.0.0.{number}.example:9" for number in range(10)], resolver=resolver) as one:
        for number in range(10):
            one.guest.open(number + 1, number)
        names = {told.get(timeout=30) for _ in range(8)}
        assert (one.counts()[9]["refused"], told.empty(), len(names)) == (0, True, 8)
        held.set()
        refused = sorted(one.guest.frame() for _ in range(10))
        assert refused == [(RESET, number, b"") for number in range(1, 11)]
        for number, found in enumerate(one.counts()):
            assert f"answers with 10.0.0.{number}, which is private" in found["problem"]
    for thread in threading.enumerate():
        if thread.name in names:
            thread.join(30)
            assert not thread.is_alive()


def test_a_name_is_resolved_to_addresses() -> None:
    """A text of the resolver's, without its port."""
    assert relay.resolve("127.0.0.1", 9) == ["127.0.0.1"]
    assert relay.resolve("::1", 9) == ["::1"]


# With names that the sandbox sends.


@pytest.mark.parametrize(
    ("wish", "entries"),
    [
        ("A.b.example.:65535", ["a.b.example:65535", "*.b.example:65535", "*.example:65535"]),
        ("[::1]:9", ["[::1]:9"]), ("::1:9", ["[::1]:9"]), ("1.2.3.4:9", ["1.2.3.4:9"]),
    ],
)  # fmt: skip
def test_the_entries_that_would_allow_a_wish(wish: str, entries: list[str]) -> None:
    """The nearest first; an address has one alone."""
    assert relay.covering(wish) == entries


def test_a_port_has_five_digits_at_most() -> None:
    """Another spelling of a port is another wish."""
    with pytest.raises(ValueError, match="no HOST:PORT"):
        relay.covering("a.example:000009")


def test_a_name_below_an_entry_with_a_star_is_reached() -> None:
    """At any depth, in any case of letters. Its entry has the figures, and so has the name."""
    asked: list[str] = []

    def resolver(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    with serving() as server:
        port = server.port
        entries = [f"*.b.example:{port}", f"*.example:{port}", f"127.0.0.1:{port}"]
        with running(entries, resolver=resolver) as one:
            for number, name in enumerate(["a.example", "A.B.EXAMPLE.", "x.y.z.b.example"], 1):
                one.guest.ask(number, f"{name}:{port}".encode())
                assert one.guest.frame()[:2] == (CREDIT, number)
            one.guest.send(DATA, 1, b"hello")
            assert one.guest.frame() == (DATA, 1, b"hello")
            found = one.report()
    assert asked == ["a.example", "a.b.example", "x.y.z.b.example"]
    assert [entry["reached"] for entry in found["entries"]] == [2, 1, 0]
    assert [(name["entry"], name["sent"]) for name in found["names"]] == [
        (f"a.example:{port}", 5), (f"a.b.example:{port}", 0), (f"x.y.z.b.example:{port}", 0)
    ]  # fmt: skip


def test_an_entry_of_its_own_is_reached_by_the_proxy_too() -> None:
    """Programs that use the proxy ask it for every host. Such a name needs no figures beside."""
    with serving() as server:
        port = server.port
        entries = ["*.example:9", f"db.example:{port}", f"127.0.0.1:{port}"]
        with running(entries, resolver=answers("127.0.0.1")) as one:
            for number, host in enumerate(["db.example", "127.0.0.1", "[127.0.0.1]"], 1):
                one.guest.ask(number, f"{host}:{port}".encode())
                assert one.guest.frame()[:2] == (CREDIT, number)
            found = one.report()
    assert [entry["reached"] for entry in found["entries"]] == [0, 1, 2]
    assert found["names"] == []


ODD = {
    "not in the list": [
        b"example.com:443", b"a.example.com:80", b"a.example.com:0443", b"example.com.evil.com:443",
        b"evilexample.com:443", b"a.example.com.evil.com:443", b"localhost:443",
        b"169.254.169.254:443", b"[::ffff:127.0.0.1]:443", b"[::1]:443",
    ],
    "no host name": [
        b"evil.com#.example.com:443", b"evil.com/.example.com:443", b"evil.com\0.example.com:443",
        b"evil.com\n.example.com:443", b"evil.com%00.example.com:443",
        b"evil.com:80@a.example.com:443", b"evil.com:443:443", b"*.example.com:443",
        b".example.com:443", b"..example.com:443", b"a.example.com..:443", b"a b.example.com:443",
        b"-a.example.com:443", "b\xfccher.example.com:443".encode(), "a。example.com:443".encode(),
        "\u212a.example.com:443".encode(), b"x" * 64 + b".example.com:443",
        b"x." * 125 + b"example.com:443", b"x" * 32000 + b".example.com:443",
        b"[a.example.com]:443", b":443", b"[fe80::1%\n127.0.0.1:80: reached]:443",
        b"fe80::1%" + b"\1" * 30000 + b":443",
    ],
    "an odd spelling of an address": [b"127.1:443", b"2130706433:443", b"0x7f.0.0.1:443"],
    "no HOST:PORT": [
        b"nowhere", b"a.example.com", b"a.example.com:", b"a.example.com:443 ",
        b"a.example.com:-443", b"a.example.com:\xb2", b"a.example.com:" + b"4" * 5000, b"",
    ],
}  # fmt: skip
ALLOWED = {b"a.example.com:80": "a.example.com:80", b"[::1]:443": "[::1]:443"}


@pytest.mark.parametrize("problem", ODD)
def test_any_other_name_is_refused_and_never_resolved(problem: str) -> None:
    """The report says why, in bounded text without odd letters, and the relay goes on."""
    with running(["*.example.com:443"], resolver=lambda *_: pytest.fail("resolved")) as one:
        for at, wish in enumerate(ODD[problem]):
            for number in (2 * at + 1, 2 * at + 2):
                one.guest.ask(number, wish)
                assert one.guest.frame() == (RESET, number, b"")
            name = one.report()["names"][at]
            assert name["problem"].startswith(problem), wish
            if wish in ALLOWED:
                assert name["problem"].endswith(f": allow '{ALLOWED[wish]}' if that is meant")
            assert (name["refused"], name["reached"]) == (2, 0)
            assert len(name["entry"]) <= 260
            assert len(name["entry"]) == 260 or len(wish) < 260
            assert (name["entry"] == "nowhere") == (wish == b"nowhere")
            assert name["entry"].isascii()
            assert name["entry"].isprintable()
        assert one.counts()[0]["refused"] == 0


def test_ten_thousand_names_are_told_as_a_hundred_and_others() -> None:
    """The longest names, of the longest list: pytest gets the answer as one message."""
    entries = [f"*.{'x.' * 120}example{number}:9" for number in range(256)]

    def ask(guest: Guest) -> None:
        for number in range(1, 10_001):
            guest.ask(number, f"{'x' * 60}.{'y' * 60}.{'z' * 60}.{'a' * 50}.h{number}:9".encode())

    with running(entries, resolver=answers("169.254.169.254")) as one:
        sender = threading.Thread(target=ask, args=(one.guest,))
        sender.start()
        frames = [one.guest.frame() for _ in range(10_000)]
        sender.join()
        assert frames == [(RESET, number, b"") for number in range(1, 10_001)]
        for number in range(256):
            one.guest.ask(20_000 + number, f"y.{entries[number].removeprefix('*.')}".encode())
            assert one.guest.frame()[0] == RESET
        found = one.report()
    assert len(found["names"]) == 101
    assert found["names"][-1]["entry"] == "others"
    assert found["names"][-1]["refused"] == 10_000 - 100 + 256
    assert [entry["refused"] for entry in found["entries"]] == [1] * 256
    for counted in (*found["entries"], found["names"][-1]):
        assert "169.254.169.254, which is link-local" in counted["problem"]


# With the proxy.


@contextlib.contextmanager
def proxying(port: int) -> Iterator[tuple[Running, Callable[[], socket.socket]]]:
    """A relay on either side for each name below example; and a way to connect to the proxy."""
    entries = [f"*.example:{port}", f"127.0.0.1:{port}"]
    with both(entries, [f"proxy@127.64.0.1:{port}", "-"]) as outer:
        yield outer, lambda: socket.create_connection(("127.64.0.1", port), timeout=30)


def ask_connect(port: int, host: str = "a.example") -> bytes:
    """A request for a tunnel."""
    return f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode()


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


# With a sandbox that lies.


LIES = {
    "a kind that does not exist": HEAD.pack(9, 1, 0),
    "garbage": b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
    "a frame that is too long": HEAD.pack(DATA, 1, 60_000),
    "an entry that does not exist": HEAD.pack(OPEN, 1, 2) + b"\x00\x07",
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


# Figures that are whole.


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


def test_programs_that_connect_all_the_time_hold_up_no_figures() -> None:
    """The figures come while they do, and say nothing against themselves."""
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


# The program.
