"""A docker daemon on a socket or port that answers as a test says."""

import contextlib
import json
import re
import shutil
import socketserver
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from pytest_gvisor import images

VERSION = {"ApiVersion": "1.41"}


class Handler(BaseHTTPRequestHandler):
    """A handler that answers with the server's entry for the method and the end of the path."""

    server: Any
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Take the body, and look the answer up."""
        path, _, query = self.path.partition("?")
        self.server.queries.append(dict(urllib.parse.parse_qsl(query)))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((f"{self.command} {path}", body))
        found = [made for key, made in self.server.answers.items()
                 if f"{self.command} {path}".endswith(key)]  # fmt: skip
        status, value, *headers = found[-1] if found else (404, {"message": "no such thing"})
        self.close_connection = True
        self.send_response(status)
        for name, text in [("Connection", "close"), *headers]:
            self.send_header(name, text)
        if isinstance(value, tuple):  # events, each of which is a chunk
            self.send_header("Transfer-Encoding", "chunked")
            chunks = [json.dumps(event).encode() + b"\r\n" for event in value]
            value = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in (*chunks, b""))
        self.end_headers()
        if callable(value):  # pieces, until the client hangs up
            with contextlib.suppress(OSError):
                for piece in value():
                    self.wfile.write(piece)
            return
        self.wfile.write(value if isinstance(value, bytes) else json.dumps(value).encode())

    do_POST = do_DELETE = do_GET  # noqa: N815 -- the base class's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- as above
        """Write nothing to stderr."""

    def address_string(self) -> str:
        """A socket's other end has no address."""
        return "client"


class Serving:
    """The answers by ``METHOD path`` or the end of it, and the received requests."""

    def __init__(self, server: Any, address: str) -> None:
        self.address = address
        self.asked: list[tuple[str, bytes]] = []
        self.answers: dict[str, tuple[Any, ...]] = {
            "/version": (200, VERSION),
        }
        self.queries: list[dict[str, str]] = []
        server.asked, server.answers, server.queries = self.asked, self.answers, self.queries

    @property
    def requests(self) -> list[str]:
        """The requests without the version before the path and the query after it."""
        return [re.sub(r"/v1\.\d+", "", line) for line, _ in self.asked]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Serving]]:
    """Starts a daemon on a socket."""
    folder = tempfile.mkdtemp()  # a socket's path has at most 108 bytes
    running: list[tuple[Any, threading.Thread]] = []

    def start() -> Serving:
        server: Any = socketserver.ThreadingUnixStreamServer(f"{folder}/s", Handler)
        address = f"unix://{folder}/s"
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        running.append((server, thread))
        monkeypatch.setenv("DOCKER_HOST", address)
        return Serving(server, address)

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()
    shutil.rmtree(folder)


def without_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the import of the docker SDK fail, as if this process had not imported it so far."""
    monkeypatch.setitem(sys.modules, "docker", None)
    monkeypatch.delitem(sys.modules, f"{images.__name__}.daemon_socket", raising=False)
    monkeypatch.delattr(images, "daemon_socket", raising=False)
