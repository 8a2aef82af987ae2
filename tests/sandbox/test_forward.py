"""`Sandbox.forward` and `wait_for_port`: a server inside, reached from here."""

import contextlib
import hashlib
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pytest_gvisor import Forward, NotReady, Sandbox, SandboxCrashed, UsageError
from tests.runsc.conftest import PATIENCE
from tests.sandbox.conftest import serving


def exchange(forward: Forward, data: bytes) -> bytes:
    """Send data, close the sending half, and return all data until the other end closes."""
    with socket.create_connection(forward.address, timeout=60) as client:

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        parts = []
        while part := client.recv(1 << 20):
            parts.append(part)
        thread.join()
    return b"".join(parts)


@pytest.fixture
def echo(gvisor_sandbox: Sandbox) -> Iterator[Forward]:
    """The way to an echo server that says something more when its client has ended."""
    with serving(gvisor_sandbox) as forward:
        yield forward


def test_a_server_is_reached_and_each_half_ends_by_itself(echo: Forward) -> None:
    """The address is on the host's loopback; the server answers after the client's end."""
    assert (echo.host, echo.address) == ("127.0.0.1", ("127.0.0.1", echo.port))
    assert exchange(echo, b"hello") == b"hello" + b"that was all"
    assert exchange(echo, b"") == b"that was all"


HALF = """
import socket
with socket.create_server(("127.0.0.1", 7003)) as server:
    print("up", flush=True)
    with server.accept()[0] as client:
        client.sendall(b"bye")
        client.shutdown(socket.SHUT_WR)
        size = 0
        while data := client.recv(1 << 16):
            size += len(data)
        print("got", size, flush=True)
"""


def test_a_server_may_end_its_half_first(gvisor_sandbox: Sandbox) -> None:
    """The client sees that end at once, and can still send."""
    with gvisor_sandbox.popen(["python3", "-c", HALF]) as server:
        server.wait_for_output("up\n")
        with (
            gvisor_sandbox.forward(7003) as forward,
            socket.create_connection(forward.address, timeout=20) as client,
        ):
            assert client.recv(10) == b"bye"
            assert client.recv(10) == b""
            client.sendall(b"x" * 300_000)
            client.shutdown(socket.SHUT_WR)
            server.wait_for_output("got 300000\n")


def test_hundreds_of_connections_stay_open(
    gvisor_sandbox: Sandbox, echo: Forward, *, is_first_platform: bool
) -> None:
    """The guest has room for more descriptors than a program has, and programs keep their limit."""
    limit = ["sh", "-c", "ulimit -Sn; ulimit -Hn"]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = gvisor_sandbox.exec(limit).stdout
    with contextlib.ExitStack() as clients:
        count = 360 if is_first_platform else 60
        for _ in range(count):
            client = clients.enter_context(socket.create_connection(echo.address, timeout=30))
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        assert gvisor_sandbox.exec(limit).stdout == before == "{}\n{}\n".format(*limits)
        assert gvisor_sandbox.exec(["cat"], input="fine").stdout == "fine"
    assert exchange(echo, b"again") == b"again" + b"that was all"


def test_100_megabytes_go_through_intact(echo: Forward, *, is_first_platform: bool) -> None:
    """Data goes both ways at the same time, byte for byte."""
    data = os.urandom(1 << 20) * (100 if is_first_platform else 10)
    back = exchange(echo, data)
    assert len(back) == len(data) + len(b"that was all")
    assert hashlib.sha256(back).digest() == hashlib.sha256(data + b"that was all").digest()


def test_a_client_that_does_not_read_holds_nobody_up(
    gvisor_sandbox: Sandbox, echo: Forward
) -> None:
    """A client that does not read stops its own connection; others, and programs, go on."""
    with socket.create_connection(echo.address, timeout=30) as stuck:
        stuck.settimeout(1)
        with pytest.raises(TimeoutError):
            stuck.sendall(b"x" * 60_000_000)
        assert exchange(echo, b"others") == b"others" + b"that was all"
        assert gvisor_sandbox.exec(["echo", "too"]).stdout == "too\n"


def test_a_client_that_goes_away_is_forgotten(gvisor_sandbox: Sandbox, echo: Forward) -> None:
    """Many that hang up in the middle leave no connection inside."""
    for _ in range(30):
        with socket.create_connection(echo.address, timeout=30) as client:
            client.sendall(b"x" * 1000)
    assert exchange(echo, b"fine") == b"fine" + b"that was all"
    script = "import os\nprint(len(os.listdir('/proc/1/fd')))"
    deadline = time.monotonic() + PATIENCE
    while True:
        count = int(gvisor_sandbox.exec(["python3", "-c", script]).stdout)
        if count < 30 or time.monotonic() > deadline:
            break
    assert count < 30


def test_a_refused_connection_is_reset(gvisor_sandbox: Sandbox) -> None:
    """The client sees a reset if nobody listens inside, and may try again."""

    def talk(forward: Forward) -> None:
        with socket.create_connection(forward.address, timeout=20) as client:
            client.recv(1)

    with gvisor_sandbox.forward(9) as forward:
        for _ in range(3):
            with pytest.raises(ConnectionError):  # in the connect already, or in the recv
                talk(forward)
    assert gvisor_sandbox.exec(["true"]).returncode == 0


@contextlib.contextmanager
def connected(sandbox: Sandbox) -> Iterator[tuple[Forward, socket.socket]]:
    """The way to a server, and a client that it has answered."""
    with serving(sandbox) as forward:
        client = socket.create_connection(forward.address, timeout=20)
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        yield forward, client


def test_the_end_of_a_server_is_the_end_of_its_connections(gvisor_sandbox: Sandbox) -> None:
    """A client sees that the server is gone, by an end or a reset."""
    with connected(gvisor_sandbox) as (_forward, client):
        gvisor_sandbox.exec(["sh", "-c", "kill -9 $(pgrep -f '[s]ocketserver')"], check=True)
        with client, contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_a_closed_forward_is_closed(gvisor_sandbox: Sandbox) -> None:
    """A close frees the port and drops the connections; a second close does nothing."""
    with connected(gvisor_sandbox) as (forward, client):
        forward.close()
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(forward.address, timeout=20)
        forward.close()


def test_a_forward_ends_with_its_sandbox(gvisor_sandbox: Sandbox) -> None:
    """A connected client sees a reset as soon as the sandbox dies; later ones are refused."""
    with connected(gvisor_sandbox) as (forward, client):
        with pytest.raises(SandboxCrashed):
            gvisor_sandbox.exec(["sh", "-c", "kill -9 1; sleep 60"])
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(forward.address, timeout=20)
        forward.close()
        with pytest.raises(SandboxCrashed):
            gvisor_sandbox.forward(8080)


def test_a_server_on_the_loopback_of_ipv6_alone_is_reached(gvisor_sandbox: Sandbox) -> None:
    """Where 127.0.0.1 refuses the connection, ::1 is tried."""
    server = (
        "import socket\n"
        "with socket.create_server(('::1', 7010), family=socket.AF_INET6) as s:\n"
        "    while True:\n"
        "        with s.accept()[0] as c: c.sendall(b'six')\n"
    )
    with gvisor_sandbox.popen(["python3", "-c", server]):
        gvisor_sandbox.wait_for_port(7010)
        with gvisor_sandbox.forward(7010) as forward:
            assert exchange(forward, b"") == b"six"


def test_a_port_is_waited_for(gvisor_sandbox: Sandbox) -> None:
    """Until somebody listens, or the deadline has passed."""
    with pytest.raises(NotReady, match="nothing listens on port 7007"):
        gvisor_sandbox.wait_for_port(7007, timeout=0.1)
    script = "sleep 0.3; exec python3 -m http.server --bind 127.0.0.1 7007"
    with gvisor_sandbox.popen(["sh", "-c", script]):
        gvisor_sandbox.wait_for_port(7007, timeout=30)
        with gvisor_sandbox.forward(7007) as forward:
            head = b"GET /etc/hostname HTTP/1.0\r\n\r\n"
            assert exchange(forward, head).endswith(b"\r\n\r\ngvisor\n")


def test_a_closed_sandbox_forwards_nothing(gvisor_sandbox: Sandbox) -> None:
    """The error says that the sandbox is closed."""
    gvisor_sandbox.close()
    with pytest.raises(UsageError, match="is closed"):
        gvisor_sandbox.forward(80)
