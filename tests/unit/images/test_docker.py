"""Daemons that are not there, not ours, silent, or far away."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_gvisor import DaemonUnavailable, ImageError, UsageError
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.docker import _taken_apart
from pytest_gvisor.images.store import Images

Answer = Callable[[socket.socket], None]


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Images]:
    """With a cache of its own."""
    made = Images(Cache(str(tmp_path / "cache")))
    yield made
    made.close()


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], None]]:
    """Listens where DOCKER_HOST says, and answers each connection so."""
    server = socket.socket(socket.AF_UNIX)
    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(answer: Answer) -> None:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/socket")

        def work() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                opened.append(connection)
                answer(connection)

        threads.append(threading.Thread(target=work))
        threads[0].start()

    yield start
    if threads:
        server.shutdown(socket.SHUT_RDWR)
    server.close()
    for thread in threads:
        thread.join()
    for connection in opened:
        connection.close()


def quickly(images: Images, kind: type[ImageError], says: str) -> None:
    """The error comes within five seconds."""
    begun = time.monotonic()
    with pytest.raises(kind, match=says) as caught:
        images.rootfs("some/image:1")
    assert time.monotonic() - begun < 5
    assert caught.value.image == "some/image:1"
    assert type(caught.value) is kind


@pytest.mark.fault("H1")
def test_no_daemon_is_the_error_that_may_become_a_skip(
    images: Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It says where it was looked for, and what else there is."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    quickly(images, DaemonUnavailable, "no docker daemon at unix")


@pytest.mark.fault("H1")
def test_a_daemon_that_is_silent_is_an_error(
    images: Images, serve: Callable[[Answer], None]
) -> None:
    """It takes the connection and says nothing."""
    serve(lambda _connection: None)
    quickly(images, ImageError, "has not answered in 4 s")


def rubbish(connection: socket.socket) -> None:
    """Another kind of server's greeting."""
    connection.sendall(b"220 mail \x1b[2J\n")


def refusing(connection: socket.socket) -> None:
    """A proxy without a daemon."""
    connection.sendall(b"HTTP/1.0 503 Service Unavailable\r\n\r\n")


def only_ping(connection: socket.socket) -> None:
    """Right at first, and then it is gone."""
    connection.recv(1000)
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nOK")
    connection.close()


@pytest.mark.fault("H1")
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda connection: connection.close(), "broke off|is no docker daemon"),
        (rubbish, r'is no docker daemon: it answers "220 mail .*u001b'),
        (refusing, "503"),
        (only_ping, "is no docker daemon"),
    ],
)
def test_a_socket_that_talks_rubbish_is_an_error_and_no_skip(
    images: Images, serve: Callable[[Answer], None], answer: Answer, says: str
) -> None:
    """Somebody is there: what is wrong must be seen."""
    serve(answer)
    quickly(images, ImageError, says)


@pytest.mark.fault("H1")
def test_a_daemon_that_answers_byte_by_byte_is_an_error_in_time(
    images: Images, serve: Callable[[Answer], None]
) -> None:
    """H1: the deadline is one for the whole answer, not for each read."""

    def trickle(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"H")
                time.sleep(0.2)

    serve(trickle)
    quickly(images, ImageError, "has not answered in 4 s")


@pytest.mark.fault("H1")
@pytest.mark.skipif(os.geteuid() == 0, reason="needs an unprivileged user: root may use any socket")
def test_a_daemon_that_denies_is_an_error_and_no_skip(
    images: Images, serve: Callable[[Answer], None], tmp_path: Path
) -> None:
    """Its socket is there, and not for this user."""
    serve(lambda _connection: None)
    (tmp_path / "socket").chmod(0)
    quickly(images, ImageError, "may not use")


@pytest.mark.fault("H2")
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "ssh://elsewhere", "http://x", "rubbish"])
def test_a_daemon_elsewhere_is_refused_unless_asked_for(
    images: Images, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """By address alone: nothing is connected to."""
    monkeypatch.setenv("DOCKER_HOST", address)
    quickly(images, ImageError, "not a socket of this machine")


def test_a_daemon_elsewhere_is_asked_where_that_is_allowed(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here there is none."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(DaemonUnavailable, match="no docker daemon at tcp"):
        images.rootfs("some/image", remote=True)


def test_what_looks_like_a_file_is_one(images: Images) -> None:
    """No daemon is asked for it; and a policy is one of three words."""
    for name in ("./no", "/no", "no.tar", "no.tar#x", "../no"):
        with pytest.raises(ImageError, match="there is no file"):
            images.rootfs(name)
    with pytest.raises(UsageError, match="missing, always, never"):
        images.rootfs("x", pull="sometimes")


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("a", ("a", "latest")), ("a:1", ("a", "1")), ("h:5/a", ("h:5/a", "latest")),
        ("h:5/a:1", ("h:5/a", "1")), ("a@sha256:0", ("a", "sha256:0")),
    ],
)  # fmt: skip
def test_references_have_a_tag_a_digest_or_neither(reference: str, parts: tuple[str, str]) -> None:
    """A registry's port is no tag."""
    assert _taken_apart(reference) == parts
