"""A workload that wants to decide what the figures of its traffic say."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import pytest

from pytest_gvisor import Gvisor, WorkloadFailed

ASKS = r"""
import os, socket

host, _, port = os.environ["HTTP_PROXY"].removeprefix("http://").rpartition(":")
for number in range(20):
    forged = b"\n127.0.0.1:80:\treached\t(1),\t9\tbytes\tsent" if number else b"\1" * 15_000
    with socket.create_connection((host, int(port))) as proxy:
        proxy.sendall(b"CONNECT fe80::1%%%d%b:443 HTTP/1.1\r\n\r\n" % (number, forged))
        print(proxy.recv(12).decode())
"""


def test_no_name_of_a_workload_is_a_line_of_the_figures_or_too_long_for_them(
    gvisor: Gvisor,
) -> None:
    """An address of IPv6 may have any text as its scope."""
    done = gvisor.run(["python3", "-c", ASKS], allow=["*.example.com:443"], check=True)
    assert done.stdout == "HTTP/1.1 403\n" * 20
    assert done.egress is not None
    assert len(done.egress.names) == 20
    lines = done.egress.told().split("\n")
    assert all(line.endswith(": refused (1): no host name") for line in lines)
    assert max(map(len, lines)) < 400


COMMANDS = r"""
import os, socket, sys

host, _, port = os.environ["HTTP_PROXY"].removeprefix("http://").rpartition(":")
for name in (b"#" * 2 + b"vso[task.setvariable variable=X]y", b":" * 2 + b"stop-commands"):
    with socket.create_connection((host, int(port))) as proxy:
        proxy.sendall(b"\5\1\0")
        proxy.recv(2)
        proxy.sendall(b"\5\1\0\3" + bytes([len(name)]) + name + b"\1\xbb")
        print(proxy.recv(10)[1])
sys.exit(1)
"""


def test_no_name_of_a_workload_is_a_command_for_a_ci_system(gvisor: Gvisor) -> None:
    """A refused name is in the figures, and the last one in the error of the program."""
    with pytest.raises(WorkloadFailed) as found:
        gvisor.run(["python3", "-c", COMMANDS], allow=["*.example.com:443"], check=True)
    done = found.value.completed
    assert done.stdout == "2\n2\n"
    assert done.egress is not None
    told = done.egress.told()
    assert (told.count("vso["), told.count("stop-commands")) == (1, 1)
    for text in (told, str(found.value)):
        assert "##vso[" not in text
        assert not any(line.startswith("::") for line in text.split("\n"))


class Host:
    """A server that counts what it gets, and reads once an event is set."""

    def __init__(self) -> None:
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(100)
        self.port = self.listener.getsockname()[1]
        self.reads = threading.Event()
        self.got = 0
        self._lock = threading.Lock()
        self._thread = Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                Thread(target=self._one, args=(peer,)).start()

    def _one(self, peer: socket.socket) -> None:
        self.reads.wait(300)
        with peer, contextlib.suppress(OSError):
            while data := peer.recv(65536):
                with self._lock:
                    self.got += len(data)
                peer.send(b"y")

    def close(self) -> None:
        """End it, when all has come."""
        self.reads.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)
        self.listener.close()


@pytest.fixture
def host() -> Iterator[Host]:
    """A server for one test."""
    server = Host()
    yield server
    server.close()


SENDS = r"""
import contextlib, socket, sys

with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as peer:
    peer.settimeout(float(sys.argv[2]))
    with contextlib.suppress(TimeoutError):
        for _ in range(1000):
            peer.send(b"x" * 65536)
"""


@pytest.mark.parametrize("warm", [False, True])
def test_bytes_that_a_host_has_not_read_are_no_whole_figures(
    gvisor: Gvisor, host: Host, *, warm: bool
) -> None:
    """A program has ended, and megabytes of it are still in the sandbox's buffers."""
    allow = [f"127.0.0.1:{host.port}"]
    for seconds in ("0.5", "10"):  # a busy machine may take longer to fill the buffers
        command = ["python3", "-I", "-S", "-c", SENDS, str(host.port), seconds]
        if warm:
            with gvisor.sandbox(allow=allow) as box:
                done = box.exec(command, check=True)
        else:
            done = gvisor.run(command, allow=allow, check=True)
        error = done.egress and done.egress.error
        if error:
            break
    assert error == "not all is counted: after 2 s, a connection is not settled"


SENDS_ALL_THE_TIME = r"""
import socket, sys, threading, time

def send():
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as peer:
                while time.monotonic() < end:
                    peer.sendall(b"x")
                    peer.recv(1)
        except OSError:
            time.sleep(0.01)

end = time.monotonic() + 1.5
threads = [threading.Thread(target=send) for _ in range(4)]
for thread in threads:
    thread.start()
"""


def test_no_byte_leaves_after_the_last_figures_of_a_network(gvisor: Gvisor, host: Host) -> None:
    """A program sends all the time while the block of its network ends."""
    host.reads.set()
    command = ["python3", "-I", "-S", "-c", SENDS_ALL_THE_TIME, str(host.port)]
    counted = 0
    with gvisor.sandbox() as box, ThreadPoolExecutor(1) as pool:
        for seconds in ("0.7",) * 6 + ("30",):
            if seconds == "30" and host.got:
                break  # else a busy machine takes longer to start the program
            with box.network([f"127.0.0.1:{host.port}"]):
                program = pool.submit(box.exec, command)
                box.exec(["sleep", seconds])
            egress = program.result().egress
            assert egress is not None
            counted += egress.sent
    assert 0 < host.got <= counted
