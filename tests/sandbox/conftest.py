"""Fixtures and helpers of the tests of warm sandboxes."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_gvisor import Forward, Gvisor, Sandbox
from pytest_gvisor.programs import leftovers, proc
from pytest_gvisor.sandbox import process
from tests.runsc.conftest import PATIENCE

BUSYBOX = Path("/bin/busybox")

SERVER = """
import socketserver, sys

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1 << 20):
            self.request.sendall(data)
        self.request.sendall(b"that was all")  # after the client's end: the other half is open

class Server(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True
    request_queue_size = 100

with Server(("127.0.0.1", 8080), Echo) as server:
    print("ready", flush=True)
    server.serve_forever()
"""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that has no turn for five seconds, while other tests run, is not given up."""
    monkeypatch.setattr(process, "KILL_CONFIRM", PATIENCE)


def alive(sandbox: Sandbox, word: str) -> list[str]:
    """The command lines in the sandbox that contain a text, apart from the looking process's."""
    script = (
        "import os\n"
        "for p in filter(str.isdigit, os.listdir('/proc')):\n"
        "    try: line = open(f'/proc/{p}/cmdline').read().replace(chr(0), ' ')\n"
        "    except OSError: continue\n"
        "    if int(p) not in (1, os.getpid()): print(line)\n"
    )
    lines = sandbox.exec(["python3", "-c", script], check=True).stdout.splitlines()
    return [line for line in lines if word in line]


@contextlib.contextmanager
def serving(sandbox: Sandbox) -> Iterator[Forward]:
    """An echo server in the sandbox, and the way to it."""
    with sandbox.popen(["python3", "-c", SERVER]) as server:
        server.wait_for_output("ready\n")
        with sandbox.forward(8080) as forward:
            yield forward


def sentries(gvisor: Gvisor) -> list[int]:
    """The host's process ids of the sentries of this session."""
    session = gvisor._launcher.session().path
    pids = leftovers.processes(session, everywhere=True)
    return [pid for pid in pids if "boot" in proc.words_of(pid)]


def sentry(gvisor: Gvisor) -> int:
    """The pid of the only sentry."""
    (found,) = sentries(gvisor)
    return found


@pytest.fixture
def busybox() -> bytes:
    """A static program that is many."""
    return BUSYBOX.read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a busybox in it, for `directory`; nothing else is there."""
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin/busybox").write_bytes(BUSYBOX.read_bytes())
    for path in (*tmp_path.parents, tmp_path):
        if path.stat().st_uid == os.getuid() and path.name.startswith("pytest-"):
            path.chmod(0o755)
    for path in (tmp_path, root, root / "bin", root / "bin/busybox"):
        path.chmod(0o755)
    return root


@pytest.fixture
def tree_of() -> Callable[[Path], list[str]]:
    """A function that lists a folder by relative paths."""
    return lambda root: sorted(str(path.relative_to(root)) for path in root.rglob("*"))
