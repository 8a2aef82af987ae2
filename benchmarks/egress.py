"""The two relays of an allow-list against socat, on loopback and without a sandbox."""

from __future__ import annotations

import contextlib
import functools
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.results import Figure, Result, Unavailable
from benchmarks.timing import interleaved
from pytest_gvisor.guest.warm import relay_process
from pytest_gvisor.run.egress_relays import OuterRelay

_SIZE = 256 * 1024 * 1024
_PIECE = bytes(1024 * 1024)
_START = 10.0
_AS_LINK = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3);"
    "os.execv(sys.executable, [sys.executable, '-I', '-S', *sys.argv[2:]])"
)


def _swallow(listener: socket.socket) -> None:
    """Read each connection to its end, and answer then."""
    buffer = bytearray(_PIECE)
    while True:
        try:
            peer, _address = listener.accept()
        except OSError:
            return
        with peer:
            while peer.recv_into(buffer):
                pass
            peer.sendall(b"!")


def _send(place: tuple[str, int]) -> None:
    with socket.create_connection(place) as peer:
        for _ in range(_SIZE // len(_PIECE)):
            peer.sendall(_PIECE)
        peer.shutdown(socket.SHUT_WR)
        if peer.recv(1) != b"!":
            raise RuntimeError(f"256 MiB to {place} did not arrive")


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def _relays(port: int) -> Iterator[tuple[str, int]]:
    """Both relays, one process each, as a sandbox with an allow-list has them."""
    host, place = f"127.0.0.1:{port}", ("127.64.0.1", port)
    listens = f"{place[0]}:{port}"
    with OuterRelay([host], (), [listens]) as relay:
        fd, words = relay.link.fileno(), (relay_process.__file__, listens)
        inner = subprocess.Popen(
            [sys.executable, "-c", _AS_LINK, str(fd), *words], pass_fds=[fd], stdout=subprocess.PIPE
        )
        with _ended(inner):
            assert inner.stdout is not None
            inner.stdout.read(1)
            yield place


@contextlib.contextmanager
def _socat(port: int) -> Iterator[tuple[str, int]]:
    if (program := shutil.which("socat")) is None:
        raise Unavailable("socat is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        own: int = free.getsockname()[1]
    listens = f"TCP-LISTEN:{own},bind=127.0.0.1,fork,reuseaddr"
    with _ended(subprocess.Popen([program, listens, f"TCP:127.0.0.1:{port}"])):
        due = time.monotonic() + _START
        while True:
            try:
                socket.create_connection(("127.0.0.1", own)).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > due:
                    raise
                time.sleep(0.01)
        yield "127.0.0.1", own


def egress(_bench: Bench, count: int) -> Iterator[Result]:
    """256 MiB through both relays of an allow-list against the same through socat."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_swallow, args=(listener,))
        thread.start()
        try:
            port = listener.getsockname()[1]
            with _relays(port) as ours, _socat(port) as peer:
                contenders = {
                    "ours": functools.partial(_send, ours), "peer": functools.partial(_send, peer)
                }  # fmt: skip
                series = interleaved(contenders, count, limit=20)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    yield Result(
        row="egress", what="256 MiB through the relays of an allow-list, on loopback",
        against="`socat TCP-LISTEN:… TCP:…`", figure=Figure.RATIO, **series, target=2.0,
    )  # fmt: skip
