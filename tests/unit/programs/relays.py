"""A relay in a thread, a server of the host, and a sandbox that may lie."""

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pytest_gvisor.guest.warm.inner_relay import InnerRelay, listen
from pytest_gvisor.guest.wire.mux import OPEN, PROXY
from pytest_gvisor.programs import relay
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


@contextlib.contextmanager
def proxying(port: int) -> Iterator[tuple[Running, Callable[[], socket.socket]]]:
    """A relay on either side for each name below example; and a way to connect to the proxy."""
    entries = [f"*.example:{port}", f"127.0.0.1:{port}"]
    with both(entries, [f"proxy@127.64.0.1:{port}", "-"]) as outer:
        yield outer, lambda: socket.create_connection(("127.64.0.1", port), timeout=30)


def ask_connect(port: int, host: str = "a.example") -> bytes:
    """A request for a tunnel."""
    return f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode()
