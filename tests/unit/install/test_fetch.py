"""Files of servers that are slow, silent, endless or wrong: a deadline and a size hold for all."""

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from pytest_gvisor.base.errors import InstallFailed, InstallTimeout
from pytest_gvisor.install.fetch import Client

Serve = Callable[..., int]
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that answers each connection at once, then drips for ever or says no more."""
    over = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def start(at_once: bytes, dripping: bytes = b"", *, silent: bool = False) -> int:
        def answer() -> None:
            with contextlib.suppress(OSError):
                while not over.is_set():
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.recv(10_000)
                        connection.sendall(at_once)
                        while (dripping or silent) and not over.wait(0.02):
                            connection.sendall(dripping)

        threads.append(threading.Thread(target=answer))
        threads[0].start()
        return int(server.getsockname()[1])

    yield start
    over.set()
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    server.close()


def got(url: str, *, limit: int = 1000, timeout: float = 20.0, silence: float = 20.0) -> bytes:
    """The bytes of a file."""
    client, file = Client(url, timeout=timeout, silence=silence), io.BytesIO()
    with client.deadline():
        file.writelines(client.pieces("file", limit))
    return file.getvalue()


def here(port: int) -> str:
    """The address of the server."""
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
        (OK + b"Content-Length: +5\r\nConnection: close\r\n\r\nhello", b"hello"),
        (OK + b"\r\nhello", b"hello"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", b"hello"),
        (OK + b"Content-Encoding: gzip\r\n\r\nhello", b"hello"),
    ],
    ids=["length", "no length", "end", "chunks", "as it is"],
)
def test_an_answer_is_read_to_its_end(serve: Serve, answer: bytes, body: bytes) -> None:
    """The end is by an announced length, by the connection's end, or by chunks."""
    assert got(here(serve(answer)), limit=5) == body


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        OK + b"X: ",
        OK + b"\r\n",
        OK + b"Content-Length: 999\r\n\r\n",
        b"HTTP/1.1 100 Go\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /x\r\nX: ",
    ],
    ids=["head", "header", "body", "announced body", "go on", "redirect"],
)
def test_bytes_that_come_one_by_one_extend_no_deadline(serve: Serve, answer: bytes) -> None:
    """The deadline holds in the headers and in the body."""
    url = here(serve(answer, b"x"))
    began = time.monotonic()
    with pytest.raises(InstallTimeout, match=r"within the 0\.3 s for everything"):
        got(url, timeout=0.3)
    assert 0.3 <= time.monotonic() - began < 10


def test_a_parent_that_blocks_the_signal_extends_no_deadline(serve: Serve) -> None:
    """A process inherits the signals that its parent blocks."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # also in new threads
    try:
        url = here(serve(OK + b"Content-Length: 50\r\n\r\n", b"x"))
        with pytest.raises(InstallTimeout):
            got(url, timeout=0.3)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_proxy_that_drips_extends_no_deadline(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline holds for the proxy's own answer too."""
    for name in ("no_proxy", "NO_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", here(serve(OK + b"X: ", b"x")))
    with pytest.raises(InstallTimeout):
        got("https://example.invalid", timeout=0.3)


def test_a_handshake_that_drips_extends_no_deadline(serve: Serve, tmp_path: Path) -> None:
    """The deadline holds before the first byte of HTTP: here in a record of TLS without an end."""
    port = serve(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", b"\0")
    # In a process of its own: Python's handshake closes its socket for errors of its own alone.
    tool = [sys.executable, "-m", "pytest_gvisor", "install", "--to", str(tmp_path)]
    more = ["--base-url", f"https://127.0.0.1:{port}", "--timeout", "0.5"]
    done = subprocess.run([*tool, *more], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (124, "")
    assert "did not come within the 0.5 s for everything" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("answer", [b"", OK, OK + b"\r\nhello"], ids=["nothing", "head", "body"])
def test_silence_ends_an_answer_before_its_deadline(serve: Serve, answer: bytes) -> None:
    """A server that says nothing is given up sooner than one that is slow."""
    with pytest.raises(InstallFailed, match=r"the server was silent for 0\.1 s"):
        got(here(serve(answer, silent=True)), silence=0.1)


@pytest.mark.parametrize(
    ("answer", "dripping", "says"),
    [
        (OK + b"Content-Length: 6\r\n\r\nhello!", b"", "larger than 5 bytes"),
        (OK + b"Content-Length: 99\r\n\r\nh", b"", "larger than 5 bytes"),
        (OK + b"\r\n", b"x" * 9000, "larger than 5 bytes"),
        (OK + b"Content-Length: 5\r\n\r\nhell", b"", "IncompleteRead"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhe", b"", "IncompleteRead"),
        (b"220 mail\r\n", b"", "220 mail"),
    ],
    ids=["too long", "announced as too long", "endless", "cut off", "chunk cut off", "no HTTP"],
)
def test_an_answer_of_another_size_is_an_error(
    serve: Serve, answer: bytes, dripping: bytes, says: str
) -> None:
    """The limit bounds every answer, and no part of an answer is taken for all of it."""
    with pytest.raises(InstallFailed, match=says):
        got(here(serve(answer, dripping)), limit=5)


def test_nothing_that_listens_is_said_in_few_words() -> None:
    """The error has the kernel's reason, and not the layers above it."""
    with pytest.raises(InstallFailed) as caught:
        got("http://127.0.0.1:1")
    assert caught.value.message == "http://127.0.0.1:1/file: [Errno 111] Connection refused"


@pytest.mark.parametrize(
    "where", ["http://192.0.2.1\\@127.0.0.1/", "http://127.0.0.1.example.org/", "//192.0.2.1/"]
)
def test_a_redirect_to_another_machine_is_refused_unless_by_https(serve: Serve, where: str) -> None:
    """An address that two readers understand in two ways is none of the loopback either."""
    answer = b"HTTP/1.1 302 Found\r\nLocation: %b\r\n\r\n" % where.encode()
    with pytest.raises(InstallFailed, match=r"redirects to .*, which is not https"):
        got(here(serve(answer)))


def test_a_user_and_a_password_of_the_address_are_sent_and_not_shown() -> None:
    """A mirror may want them; another place, to which it redirects, gets none."""
    heads: list[bytes] = []

    def answer(*turns: tuple[socket.socket, bytes]) -> None:
        for server, reply in turns:
            connection, _ = server.accept()
            with connection:
                heads.append(connection.recv(10_000))
                connection.sendall(b"HTTP/1.1 %b\r\n\r\n" % reply)

    with (
        socket.create_server(("127.0.0.1", 0)) as mirror,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        near, far = mirror.getsockname()[1], other.getsockname()[1]
        moved, away = b"/again", b"http://127.0.0.1:%d/x" % far
        turns = [(mirror, b"302 Found\r\nLocation: " + place) for place in (moved, away)]
        thread = threading.Thread(target=answer, args=(*turns, (other, b"401 Unauthorized")))
        thread.start()
        with pytest.raises(InstallFailed) as caught:
            got(f"http://ci:s3cret@127.0.0.1:{near}")
        thread.join()
    sent = [b"Authorization: Basic Y2k6czNjcmV0\r\n" in head for head in heads]
    assert sent == [True, True, False]
    told = f"http://127.0.0.1:{near}/file: the server answers 401 Unauthorized"
    assert caught.value.message == told


def test_a_server_on_the_loopback_is_asked_without_a_proxy(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables of proxies are for other machines."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert got(here(serve(OK + b"\r\nhello"))) == b"hello"


def test_certificates_are_the_system_s_and_passwords_are_nobody_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificates are those of OpenSSL and its variables; ~/.netrc is not read."""
    (tmp_path / "store.pem").touch()
    (tmp_path / "netrc").write_text("machine example.org login me password secret\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "store.pem"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Client("https://example.org", timeout=1)._session() as session:
        assert session.verify == str(tmp_path / "store.pem")
        asked = session.prepare_request(requests.Request("GET", "https://example.org/x"))
        assert "Authorization" not in asked.headers
