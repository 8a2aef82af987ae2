"""Daemons that are missing, foreign, silent, or far away."""

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pytest_gvisor import DaemonUnavailable, ImageError, UsageError
from pytest_gvisor.images import docker
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.store import Images
from tests.docker_daemon import without_sdk

Answer = Callable[[socket.socket], None]


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Images]:
    """Images with a cache of their own."""
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
    """The error comes long before the daemon ends its silence of 20 s."""
    begun = time.monotonic()
    with pytest.raises(kind, match=says) as caught:
        images.rootfs("some/image:1")
    assert time.monotonic() - begun < 15
    assert caught.value.image == "some/image:1"
    assert type(caught.value) is kind


def test_an_sdk_that_cannot_be_imported_is_an_error_of_ours(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken SDK is an error with a remedy, and no skip."""
    without_sdk(monkeypatch)
    quickly(images, ImageError, "SDK cannot be imported: ModuleNotFoundError(.|\n)*pip install")


@pytest.mark.fault("H1")
def test_no_daemon_is_the_error_that_may_become_a_skip(
    images: Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error names the daemon's address, and other ways to get an image."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    quickly(images, DaemonUnavailable, "no docker daemon at unix")


@pytest.mark.fault("H1")
def test_a_daemon_that_is_silent_is_an_error(
    images: Images, serve: Callable[[Answer], None]
) -> None:
    """A daemon that takes the connection and stays silent is an error."""
    serve(lambda _connection: None)
    quickly(images, ImageError, "has not answered in 4 s")


def rubbish(connection: socket.socket) -> None:
    """Another kind of server's greeting."""
    connection.recv(1000)
    connection.sendall(b"220 mail \x1b[2J\n")
    connection.close()


def refusing(connection: socket.socket) -> None:
    """A proxy without a daemon."""
    connection.recv(1000)
    connection.sendall(b"HTTP/1.0 503 Service Unavailable\r\n\r\n")
    connection.close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda connection: connection.close(), "is no docker daemon"),
        (rubbish, "is no docker daemon: 220 mail"),
        (refusing, "503"),
    ],
)
def test_a_socket_that_talks_rubbish_is_an_error_and_no_skip(
    images: Images, serve: Callable[[Answer], None], answer: Answer, says: str
) -> None:
    """A listening socket is no missing daemon, so its fault must be seen."""
    serve(answer)
    quickly(images, ImageError, says)


class Scripted:
    """A daemon that has the image.

    Its answers to some requests come in these pieces, with a pause before each but the first.
    """

    def __init__(self, pause: float = 0.0, **pieces: Sequence[bytes]) -> None:
        self.pieces = pieces
        self.pause = pause
        self.asked: list[str] = []

    def __call__(self, connection: socket.socket) -> None:
        """Answer one request."""
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(65536) or b"\r\n\r\n"
        path = request.split()[1].decode()
        self.asked.append(path)
        # /images/NAME/json, /v1.41/images/ID/get
        kind = path.partition("?")[0].rpartition("/")[2]
        pieces = self.pieces.get(kind) or [
            answer({"version": b'{"ApiVersion": "1.41"}'}.get(kind, IMAGE))
        ]
        try:
            for number, piece in enumerate(pieces):
                if number and self.has_gone(connection):
                    break
                connection.sendall(piece)
        except OSError:
            pass
        connection.close()

    def has_gone(self, connection: socket.socket) -> bool:
        """Wait for the pause; a client that goes ends it. The body of a request means nothing."""
        end = time.monotonic() + self.pause
        while (left := end - time.monotonic()) > 0:
            if select.select([connection], [], [], left)[0] and not connection.recv(65536):
                return True
        return False


IDENTITY = "0" * 64
VERSION = b'{"ApiVersion": "1.41"}'
IMAGE = b'{"Id": "sha256:' + IDENTITY.encode() + b'"}'


def answer(body: bytes, length: int = -1) -> bytes:
    """An HTTP answer that says this length, or the right one."""
    size = len(body) if length < 0 else length
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body)


@pytest.mark.fault("H1")
@pytest.mark.parametrize("kind", ["version", "json"])
def test_a_daemon_that_sends_a_byte_at_a_time_is_an_error_in_time(
    images: Images, serve: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Each byte is in time, and all of them never are."""
    monkeypatch.setattr(docker, "DEADLINE", 1.5)
    whole = answer(IMAGE + b" " * 1000)
    serve(Scripted(0.1, **{kind: [whole[n : n + 1] for n in range(len(whole))]}))
    quickly(images, ImageError, "has not answered in 1.5 s")


def test_of_a_daemon_s_error_no_more_is_read_than_is_shown(
    images: Images, serve: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon's endless error is read only as far as it is shown."""
    monkeypatch.setattr(docker, "_SILENCE", 1.5)
    refused = answer(b"x" * 100_000, 1 << 40).replace(b"200 OK", b"500 Broken")
    serve(Scripted(20, get=[refused, b""]))
    quickly(images, ImageError, "the daemon says: xxx")


def test_of_an_event_s_error_500_characters_are_shown(
    images: Images, serve: Callable[[Answer], None]
) -> None:
    """A pull's answer is a stream of events, one of which may be an error of any length."""
    missing = answer(b'{"message": "no such image"}').replace(b"200 OK", b"404 Not Found")
    event = answer(b'{"error": "' + b"x" * 100_000 + b'"}')
    serve(Scripted(20, json=[missing], create=[event]))
    with pytest.raises(ImageError, match=r"the daemon says: x{500}(?!x)"):
        images.rootfs("some/image:1", pull="missing")


def test_a_pull_may_take_longer_than_a_look_up(
    serve: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look-up after it has a deadline of its own, also where there was none before the pull."""
    monkeypatch.setattr(docker, "DEADLINE", 2)
    serve(Scripted(0.8, create=[answer(b'{"status":', 15), b' "', b"x", b'"}']))
    begun = time.monotonic()
    with docker.Daemon() as daemon:
        assert daemon.find("some/image:1", docker.Pull.ALWAYS) == f"sha256:{IDENTITY}"
    assert time.monotonic() - begun > 2


@pytest.mark.fault("H1")
@pytest.mark.skipif(os.geteuid() == 0, reason="needs an unprivileged user: root may use any socket")
def test_a_daemon_that_denies_is_an_error_and_no_skip(
    images: Images, serve: Callable[[Answer], None], tmp_path: Path
) -> None:
    """A socket that this user may not open is an error, and no missing daemon."""
    serve(lambda _connection: None)
    (tmp_path / "socket").chmod(0)
    quickly(images, ImageError, "may not use")


@pytest.mark.fault("H2")
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "ssh://elsewhere", "http://x", "rubbish"])
def test_a_daemon_elsewhere_is_refused(
    images: Images, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """A remote address is refused without a connection."""
    monkeypatch.setenv("DOCKER_HOST", address)
    quickly(images, ImageError, "not a socket of this machine")


def test_what_looks_like_a_file_is_one(images: Images) -> None:
    """A path is never sent to a daemon, and a policy has one of three values."""
    for name in ("./no", "/no", "no.tar", "no.tar#x", "../no"):
        with pytest.raises(ImageError, match="there is no file"):
            images.rootfs(name)
    with pytest.raises(UsageError, match="missing, always, never"):
        images.rootfs("x", pull="sometimes")
