"""Each network, for real: loopback alone, the host's, and gVisor's own stack over a veth pair."""

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pytest_gvisor import Gvisor, UsageError
from tests.runsc.conftest import Start, wait_for

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: runsc refuses a sandbox network with --rootless"
)

NAMES = "import socket; print([name for _, name in socket.if_nameindex()])"
CONNECT = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=50)
connection.sendall(b"from the sandbox")
print(connection.makefile().read())
"""


class Server:
    """A server of this process that greets, and keeps the received bytes."""

    def __init__(self, address: str) -> None:
        self.heard: list[bytes] = []
        self._socket = socket.create_server((address, 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(50)
                self.heard.append(connection.recv(100))
                connection.sendall(b"from the host")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def loopback_server() -> Iterator[Server]:
    server = Server("127.0.0.1")
    yield server
    server.close()


def test_without_a_network_there_is_loopback_alone(gvisor: Gvisor) -> None:
    """The default has one interface, lo, and it works inside."""
    code = (
        f"{NAMES}\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(server.getsockname())\n"
        "server.accept()[0].sendall(b'hello'); print(client.recv(5).decode())"
    )
    assert gvisor.run(["python3", "-c", code]).stdout == "['lo']\nhello\n"


def test_without_a_network_the_host_is_not_reached(gvisor: Gvisor, loopback_server: Server) -> None:
    """A sandbox without network reaches no server on the host's loopback, nor any other."""
    done = gvisor.run(["python3", "-c", CONNECT, "127.0.0.1", str(loopback_server.port)])
    assert "ConnectionRefusedError" in done.stderr
    outside = gvisor.run(["python3", "-c", CONNECT, "192.0.2.1", "80"])
    assert "OSError" in outside.stderr
    assert loopback_server.heard == []


def test_the_hosts_network_is_the_hosts(gvisor: Gvisor, loopback_server: Server) -> None:
    """With `network="host"` a sandbox reaches the host's loopback server from gVisor's kernel."""
    done = gvisor.run(
        ["python3", "-c", CONNECT, "127.0.0.1", str(loopback_server.port)], network="host"
    )
    assert (done.stdout, done.stderr) == ("from the host\n", "")
    assert loopback_server.heard == [b"from the sandbox"]


def test_the_host_reaches_a_server_in_its_network(running: Start) -> None:
    """With `network="host"` the host reaches a server inside on its own loopback."""
    run = running(SERVE, network="host")
    assert _ask("127.0.0.1", int(run.text("port"))) == b"from the sandbox"
    run.end()


SERVE = """python3 -c "
import os, socket
server = socket.create_server(('', 0))
if os.fork(): os._exit(0)
open('/shared/port', 'w').write(str(server.getsockname()[1]) + chr(10))
connection = server.accept()[0]
connection.sendall(b'from the sandbox')
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
"
"""


def _ask(address: str, port: int) -> bytes:
    with socket.create_connection((address, port), timeout=20) as connection:
        data = b""
        while part := connection.recv(100):
            data += part
        return data


def ip(*arguments: str) -> str:
    """The output of ip(8)."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def interfaces() -> list[tuple[str, list[str]]]:
    """The host's interfaces and their addresses.

    Other tests' pairs of interfaces come and go. A link-local address comes by itself, some time
    after the link is up.
    """
    return [
        (
            link["ifname"],
            sorted(entry["local"] for entry in link["addr_info"] if entry["scope"] != "link"),
        )
        for link in json.loads(ip("-json", "address", "show"))
        if not link["ifname"].startswith(("pgv", "veth", "docker", "br-", "podman", "cni"))
        or link["ifname"] == f"pgvh{os.getpid()}"
    ]


@dataclass(frozen=True, kw_only=True)
class Veth:
    """A network namespace with one end of a veth pair in it; the other end is the host's."""

    path: str
    host: str
    sandbox: str


@pytest.fixture
def veth() -> Iterator[Veth]:
    """Addresses are from 198.18.0.0/15, which RFC 2544 keeps for tests."""
    number = os.getpid() % 4096
    name, ours, theirs = f"pgv-{os.getpid()}", f"pgvh{os.getpid()}", f"pgvs{os.getpid()}"
    net = f"198.18.{number // 64 + 64}.{number % 64 * 4}"
    base, last = net.rsplit(".", 1)
    host, sandbox = f"{base}.{int(last) + 1}", f"{base}.{int(last) + 2}"
    with contextlib.ExitStack() as stack:
        ip("netns", "add", name)
        stack.callback(ip, "netns", "delete", name)
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        stack.callback(subprocess.run, ["ip", "link", "delete", ours], capture_output=True)
        ip("address", "add", f"{host}/30", "dev", ours)
        ip("link", "set", ours, "up")
        for words in (
            ("address", "add", f"{sandbox}/30", "dev", theirs),
            ("link", "set", theirs, "up"),
            ("link", "set", "lo", "up"),
        ):
            ip("-netns", name, *words)
        yield Veth(path=f"/run/netns/{name}", host=host, sandbox=sandbox)


@needs_root
def test_a_fresh_sandbox_network_has_loopback_alone(
    gvisor: Gvisor, loopback_server: Server
) -> None:
    """network="sandbox" without a namespace has lo, and reaches nothing of the host."""
    before = interfaces()
    assert gvisor.run(["python3", "-c", NAMES], network="sandbox").stdout == "['lo']\n"
    done = gvisor.run(
        ["python3", "-c", CONNECT, "127.0.0.1", str(loopback_server.port)], network="sandbox"
    )
    assert "ConnectionRefusedError" in done.stderr
    assert loopback_server.heard == []
    assert interfaces() == before


@needs_root
def test_a_sandbox_reaches_the_host_over_its_veth_once(gvisor: Gvisor, veth: Veth) -> None:
    """gVisor's own stack takes over the interface and address, so a second run has neither."""
    server = Server(veth.host)
    before = interfaces()
    command = ["python3", "-c", f"{NAMES}\n{CONNECT}", veth.host, str(server.port)]
    try:
        first, second = (gvisor.run(command, network="sandbox", netns=veth.path) for _ in range(2))
    finally:
        server.close()
    names, answer = first.stdout.splitlines()
    assert (answer, first.stderr) == ("from the host", "")
    assert names.count("pgvs") == 1
    assert "OSError" in second.stderr
    assert server.heard == [b"from the sandbox"]
    assert interfaces() == before


@needs_root
def test_the_host_reaches_a_sandbox_over_its_veth(running: Start, veth: Veth) -> None:
    """The host reaches a server inside at the address of the namespace."""
    run = running(SERVE, network="sandbox", netns=veth.path)
    port = int(run.text("port"))
    assert _ask(veth.sandbox, port) == b"from the sandbox"
    run.end()


@needs_root
def test_the_hosts_own_namespace_is_refused_by_another_name(gvisor: Gvisor, tmp_path: str) -> None:
    """A link or a bind mount that leads to the host's namespace is the host's namespace."""
    link = os.path.join(tmp_path, "link")
    os.symlink("/proc/self/ns/net", link)
    bound = os.path.join(tmp_path, "bound")
    with open(bound, "w", encoding="ascii"):
        pass
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", bound], check=True)
    try:
        for path in (link, bound):
            with pytest.raises(UsageError, match="host's own network namespace"):
                gvisor.run(["true"], network="sandbox", netns=path)
    finally:
        subprocess.run(["umount", bound], check=True)
    assert gvisor.records == []


@pytest.mark.skipif(
    os.geteuid() == 0, reason="needs an unprivileged user: root can have a sandbox network"
)
def test_a_sandbox_network_without_root_is_refused(gvisor: Gvisor) -> None:
    """The error comes before anything starts, and no other network is taken silently."""
    with pytest.raises(UsageError, match="network=sandbox is impossible without root"):
        gvisor.run(["true"], network="sandbox")
    assert gvisor.records == []
    assert wait_for(lambda: gvisor.run(["true"]).returncode == 0, "the default network")
