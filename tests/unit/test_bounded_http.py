"""Answers of servers that are slow, silent or endless: a deadline and a size hold for all."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pytest_gvisor.bounded_http import CutOff, Deadline, TooLarge, announced, connecting, pieces

Serve = Callable[[bytes, bytes], int]
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that answers one connection, then drips for ever where it is asked to."""
    over = threading.Event()
    threads: list[threading.Thread] = []
    server = socket.create_server(("127.0.0.1", 0))

    def start(at_once: bytes, dripping: bytes) -> int:
        def answer() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(10_000)
                connection.sendall(at_once)
                while dripping and not over.wait(0.02):
                    connection.sendall(dripping)

        threads.append(threading.Thread(target=answer))
        threads[0].start()
        return int(server.getsockname()[1])

    yield start
    over.set()
    for thread in threads:
        thread.join()
    server.close()


def got(
    port: int, *, limit: int = 1000, seconds: float = 20.0, silence: float = 20.0, tunnel: str = ""
) -> bytes:
    """The body of what the server answers."""
    deadline = Deadline(until=time.monotonic() + seconds, silence=silence)
    made = connecting(http.client.HTTPConnection, deadline)("127.0.0.1", port, timeout=seconds)
    with contextlib.closing(made) as connection:
        if tunnel:
            connection.set_tunnel(tunnel)
        connection.request("GET", "/")
        with connection.getresponse() as response:
            return b"".join(pieces(response, limit))


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
        (OK + b"\r\nhello", b"hello"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", b"hello"),
        (b"HTTP/1.0 204 No Content\r\n\r\n", b""),
    ],
    ids=["length", "end", "chunks", "nothing"],
)
def test_an_answer_is_read_to_its_end(serve: Serve, answer: bytes, body: bytes) -> None:
    """The end is by an announced length, by the connection's end, or by chunks."""
    assert got(serve(answer, b""), limit=5) == body


@pytest.mark.parametrize(
    "answer",
    [OK, OK + b"X: ", OK + b"\r\n", OK + b"Content-Length: 999\r\n\r\n", b"HTTP/1.1 100 Go\r\n"],
    ids=["head", "header", "body", "announced body", "go on"],
)
def test_bytes_that_come_one_by_one_extend_no_deadline(serve: Serve, answer: bytes) -> None:
    """The deadline holds in the headers and in the body."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        got(serve(answer, b"x"), seconds=0.3)
    assert 0.3 <= time.monotonic() - began < 10


def test_a_proxy_that_drips_extends_no_deadline(serve: Serve) -> None:
    """The deadline holds for the proxy's own answer too."""
    with pytest.raises(TimeoutError):
        got(serve(b"HTTP/1.1 200 OK\r\nX: ", b"x"), seconds=0.3, tunnel="example.invalid")


def test_silence_ends_an_answer_before_its_deadline(serve: Serve) -> None:
    """A server that says nothing is given up sooner than one that is slow."""
    port = serve(OK + b"\r\n", b"x")
    with pytest.raises(TooLarge):
        got(port, limit=20, silence=10)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        got(silent.getsockname()[1], silence=0.1)


@pytest.mark.parametrize(
    ("answer", "dripping", "error"),
    [
        (OK + b"Content-Length: 6\r\n\r\nhello!", b"", TooLarge),
        (OK + b"Content-Length: 99\r\n\r\nh", b"", TooLarge),
        (OK + b"\r\n", b"more and more", TooLarge),
        (OK + b"Content-Length: 5\r\n\r\nhell", b"", CutOff),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhe", b"", http.client.IncompleteRead),
    ],
    ids=["too long", "announced as too long", "endless", "cut off", "chunk cut off"],
)
def test_an_answer_of_another_size_is_an_error(
    serve: Serve, answer: bytes, dripping: bytes, error: type[Exception]
) -> None:
    """The limit bounds every answer, and no part of an answer is taken for all of it."""
    with pytest.raises(error):
        got(serve(answer, dripping), limit=5)


def test_a_length_is_a_whole_number_in_digits(serve: Serve) -> None:
    """Any other text announces no length."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", serve(OK + b"Content-Length: +5\r\n\r\n", b"")
    )
    connection.request("GET", "/")
    with contextlib.closing(connection), connection.getresponse() as response:
        assert announced(response) is None
