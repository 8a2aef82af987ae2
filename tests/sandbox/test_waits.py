"""Waits for a port, for HTTP and for output: their errors say what was seen last."""

import threading
import time

import pytest

from pytest_gvisor import NotReady, Sandbox, SandboxCrashed, UsageError

SERVER = """
import http.server, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        if self.path == "/slow":
            time.sleep(600)
        self.send_response(200 if Handler.asked > 3 and self.path == "/health?a=1" else 503)
        self.end_headers()
    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""


def last_seen(box: Sandbox, port: int, path: str = "/") -> str:
    """Return the whole error of a wait for HTTP in which a look has had an answer.

    A look has a second at least, and a busy machine may take longer for one answer.
    """
    for _ in range(20):
        with pytest.raises(NotReady) as caught:
            box.wait_for_http(port, path, timeout=0.3)
        if "a server that does not answer" not in str(caught.value):
            break
    return str(caught.value)


def test_a_status_is_waited_for(gvisor_sandbox: Sandbox) -> None:
    """From before the server's start, through refusals and another status."""
    box = gvisor_sandbox
    with box.popen(["sh", "-c", 'sleep 0.5; exec python3 -c "$0"', SERVER]):
        box.wait_for_http(8000, "/health?a=1")
        told = "no status 200 of http://localhost:8000/other in the sandbox after 0.3 s; last seen:"
        assert last_seen(box, 8000, "/other") == f"{told} status 503"
        box.wait_for_http(8000, "/other", status=503)
        with pytest.raises(NotReady, match="last seen: a server that does not answer"):
            box.wait_for_http(8000, "/slow", timeout=0.5)


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        ("", "b'', which is no HTTP/1"),
        ("SSH-2.0-x", "b'SSH-2.0-x', which is no HTTP/1"),
        ("HTTP/1.1 2000 OK\r\n", r"b'HTTP/1.1 2000 OK\r\n', which is no HTTP/1"),
    ],
)
def test_what_is_no_http_is_told(gvisor_sandbox: Sandbox, answer: str, seen: str) -> None:
    """The text of a stranger is escaped and short."""
    code = (
        "import socket, sys\n"
        "with socket.create_server(('127.0.0.1', 8001)) as server:\n"
        "    print('up', flush=True)\n"
        "    while True:\n"
        "        with server.accept()[0] as peer:\n"
        "            peer.recv(1000)\n"
        "            peer.sendall(sys.argv[1].encode())\n"
    )
    with gvisor_sandbox.popen(["python3", "-c", code, answer]) as server:
        server.wait_for_output("up\n")
        assert last_seen(gvisor_sandbox, 8001).endswith(f"last seen: {seen}")


def test_a_port_says_why_not(gvisor_sandbox: Sandbox) -> None:
    """So does a path for HTTP where nothing listens."""
    with pytest.raises(NotReady) as caught:
        gvisor_sandbox.wait_for_port(7007, timeout=0.2)
    told = "nothing listens on port 7007 in the sandbox after 0.2 s"
    assert str(caught.value) == f"{told}; last seen: Connection refused"
    with pytest.raises(NotReady, match="last seen: Connection refused"):
        gvisor_sandbox.wait_for_http(7007, timeout=0)
    with pytest.raises(UsageError, match="is not the path of a URL"):
        gvisor_sandbox.wait_for_http(7007, "/a b")
    with pytest.raises(UsageError, match="is not a TCP port"):
        gvisor_sandbox.wait_for_http(0)


def test_output_that_does_not_come_is_told_with_what_has_come(gvisor_sandbox: Sandbox) -> None:
    """The end of each stream, escaped; also for a program that ends without it."""
    code = "import sys; print('starting\\x1b'); print('no disk', file=sys.stderr); input()"
    with gvisor_sandbox.popen(["python3", "-uc", code]) as program:
        program.wait_for_output("no disk\n")
        with pytest.raises(NotReady) as caught:
            program.wait_for_output("ready", timeout=0.1)
        seen = r"; last seen: stdout b'starting\x1b\n', stderr b'no disk\n'"
        assert str(caught.value).endswith(f"no 'ready' in its output within the deadline{seen}")
        program.stdin.write("\n")
        with pytest.raises(
            NotReady, match="ended without 'ready' in its output; last seen: stdout"
        ):
            program.wait_for_output("ready")
    late = pytest.raises(NotReady, match="no end within the deadline; last seen: no output")
    with gvisor_sandbox.popen(["sleep", "600"]) as program, late:
        program.wait(0.1)


def test_a_wait_ends_with_the_sandbox(gvisor_sandbox: Sandbox) -> None:
    """At once, and not at its deadline."""
    begun = time.monotonic()
    end = threading.Timer(0.5, gvisor_sandbox._live().kill, ["as a test does"])
    end.start()
    with pytest.raises(SandboxCrashed, match="as a test does"):
        gvisor_sandbox.wait_for_http(8000, timeout=60)
    end.join()
    assert time.monotonic() - begun < 30
