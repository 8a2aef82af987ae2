"""A guest on this machine, and a channel whose other end is the test instead of a sandbox."""

import contextlib
import os
import selectors
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor import Completed, Outcome, Platform
from pytest_gvisor.base.settings import Settings
from pytest_gvisor.guest.warm import killer
from pytest_gvisor.guest.wire import frames
from pytest_gvisor.run.capture import Capture, streams
from pytest_gvisor.run.connected import Ended
from pytest_gvisor.sandbox.channel import Channel
from pytest_gvisor.sandbox.exec_command import Command
from pytest_gvisor.sandbox.process import Process

GUEST = Path(frames.__file__).parents[1] / "warm/init_process.py"
PATIENCE = 20.0


class FakeSupervisor:
    """The part of a supervisor that a channel uses, without a sandbox."""

    def __init__(self, ours: socket.socket) -> None:
        self.over = False
        self.pipes = SimpleNamespace(socket=ours.fileno())
        self.listener = SimpleNamespace(recorder=None, dropped=0)
        self._selector = selectors.DefaultSelector()

    def change(self, fd: int, event: int, act: Callable[[], bool]) -> None:
        """Wait for this, and for nothing else."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)
        if event:
            self._selector.register(fd, event, act)

    def turn(self, timeout: float | None) -> None:
        """Call the functions of ready descriptors."""
        for key, _events in self._selector.select(timeout):
            if self._selector.get_map().get(key.fd) is key and not key.data():
                self._selector.unregister(key.fd)

    def close(self) -> None:
        """Close."""
        self._selector.close()


class FakeDriven:
    """A run whose first process is the other end of the socket pair."""

    def __init__(self, ours: socket.socket) -> None:
        self.request = SimpleNamespace(platform=Platform.SYSTRAP)
        self.record = SimpleNamespace(panic="")
        self.ends = 0
        self._ours = ours
        self._supervisor = FakeSupervisor(ours)

    def start(self) -> FakeSupervisor:
        """Start nothing."""
        return self._supervisor

    def check_relays(self) -> None:
        """No relay has failed."""

    def egress(self, _before: object = None) -> None:
        """A guest that is not real has no allow-list."""

    def oom_kills(self) -> int:
        """Count nothing, as there is no limit."""
        return 0

    def end(self, patience: float = 0.0) -> Ended:
        """Close the socket; nothing else has to be removed."""
        del patience
        self.ends += 1
        self._supervisor.close()
        self._ours.close()
        return Ended(completed=ended(), error=None)


def ended() -> Completed:
    """The result of a sandbox that has ended with status 1."""
    return Completed(
        args=(), returncode=1, **streams(Capture(0), Capture(0)), duration=0.0,
        platform=Platform.SYSTRAP, outcome=Outcome.EXITED,
    )  # fmt: skip


class Peer:
    """The other end of a channel, in the test's hands: speaks frames, or anything else."""

    def __init__(self, theirs: socket.socket) -> None:
        self.socket = theirs
        self.socket.settimeout(PATIENCE)
        self.encoder = frames.Encoder()
        self.decoder = frames.Decoder()
        self._waiting: list[tuple[dict[str, Any], bytes]] = []

    def greet(self) -> None:
        """Take the host's greeting and answer it."""
        message, _payload = self.receive()
        assert message["op"] == "hello"
        self.encoder.tag = self.decoder.tag = bytes.fromhex(message["tag"])
        self.send({"op": "hello", "id": 0, "version": frames.VERSION})

    def send(self, message: dict[str, Any], payload: bytes = b"") -> None:
        """Send a frame; that the host has hung up is not an error."""
        with contextlib.suppress(OSError):
            self.socket.sendall(self.encoder.head(message, len(payload)) + payload)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next frame of the host's."""
        while not self._waiting:
            self._waiting += [(m, bytes(p)) for m, p in self.decoder.frames()]
            if not self._waiting:
                count = self.socket.recv_into(self.decoder.room())
                if not count:
                    raise EOFError
                self.decoder.add(count)
        return self._waiting.pop(0)

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., tuple[Channel, Peer]]]:
    """Makes a channel and its other end; ``act`` plays the guest in a thread, after a greeting."""
    made: list[tuple[Channel, Peer, threading.Thread]] = []

    def make(
        act: Callable[[Peer], None], *, greets: bool = True, timeout: float = PATIENCE
    ) -> tuple[Channel, Peer]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        channel = Channel(FakeDriven(ours))  # type: ignore[arg-type]
        peer = Peer(theirs)

        def play() -> None:
            with contextlib.suppress(EOFError, OSError):
                if greets:
                    peer.greet()
                act(peer)

        thread = threading.Thread(target=play)
        made.append((channel, peer, thread))
        thread.start()
        channel.start(timeout)
        return channel, peer

    yield make
    for channel, peer, thread in made:
        channel.close()
        peer.close()
        thread.join()


def command(
    *args: str, reads: bool = False, timeout: float = PATIENCE, max_output: int = 1024 * 1024
) -> Command:
    """A command for a channel whose other end starts nothing."""
    words = args or ("true",)
    return Command(
        args=words, strings=(*map(str.encode, words), b"A=b"), cwd="/", user=(0, 0, ()),
        reads=reads, settings=Settings(timeout=timeout, max_output=max_output),
        platform=Platform.SYSTRAP, runsc="",
    )  # fmt: skip


def started(channel: Channel, *args: str, **options: Any) -> Process:
    """A program that has been asked for, its start confirmed or refused by the other end."""
    process = Process(channel, command(*args, **options))
    process.start()
    process.check_started(time.monotonic() + PATIENCE)
    return process


def pythons() -> list[str]:
    """The oldest Python that the guest has to run on, where this machine has it, and this one."""
    found = shutil.which("python3.8")
    homes = Path.home().glob(".pyenv/versions/3.8.*/bin/python3.8")
    old = [path for path in (found, *map(str, homes)) if path and _runs(path)]
    return [*old[:1], sys.executable]


def _runs(path: str) -> bool:
    """Whether the path is a Python, not a stand-in that only names a place to get one."""
    answer = subprocess.run([path, "-I", "-S", "-c", ""], capture_output=True, check=False)
    return answer.returncode == 0


class Guest(Peer):
    """The guest as a program of this machine, started as in a sandbox; it is no init here."""

    def __init__(self, python: str, *program: str) -> None:
        self.mark = f"TESTS_GUEST={os.urandom(8).hex()}"
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [python, "-I", "-S", "-E", *(program or (str(GUEST),))],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
            )
        super().__init__(ours)
        tag = os.urandom(frames.TAG_SIZE)
        self.send({"op": "hello", "id": 0, "tag": tag.hex()})
        self.encoder.tag = self.decoder.tag = tag
        message, _payload = self.receive()
        assert message["op"] == "hello"
        self.version = message["version"]

    def run(self, number: int, *args: str, reads: bool = False, **fields: Any) -> None:
        """Ask for a program."""
        strings = (*args, "PATH=/usr/bin:/bin", self.mark)
        me = {"uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups()}
        message = {"op": "exec", "id": number, "args": len(args), "env": 2, "cwd": "/", **me}
        payload = b"\0".join(map(os.fsencode, strings))
        self.send({**message, "reads": int(reads), **fields}, payload)

    def until(self, *ops: str, number: int | None = None) -> list[tuple[dict[str, Any], bytes]]:
        """The frames until each of ``ops`` has come once more, of one id or of any."""
        left, seen = list(ops), []
        while left:
            message, payload = self.receive()
            seen.append((message, payload))
            if message["op"] in left and number in (None, message["id"]):
                left.remove(message["op"])
        return seen

    def close(self) -> None:
        """Hang up, see it end, and kill its programs, which die with it in a sandbox."""
        super().close()
        try:
            assert self.process.wait(PATIENCE) == 0
        finally:
            for _ in killer.kill(0, self.mark.encode()):
                pass


@pytest.fixture(params=pythons(), ids=lambda path: Path(path).name)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The real guest program, on the oldest Python there is and on this one."""
    made = Guest(request.param)
    yield made
    made.close()
