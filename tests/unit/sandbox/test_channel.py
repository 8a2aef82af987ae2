"""A channel's start and end: no message is lost, no waiter hangs, and nothing is left."""

import errno
import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import pytest

from pytest_gvisor.base.completed import SandboxCrashed
from pytest_gvisor.sandbox.channel import Channel
from pytest_gvisor.sandbox.peers import Changed
from pytest_gvisor.sandbox.process import Process
from tests.unit.sandbox.conftest import PATIENCE, FakeDriven, Peer, started

Connect = Callable[..., tuple[Channel, Peer]]


def ended_unseen(
    connect: Connect, last: Sequence[tuple[dict[str, object], bytes]], *, hangs_up: bool
) -> tuple[Channel, Process]:
    """A program whose channel sees runsc's end before the guest's last messages."""
    go, said, waits = threading.Event(), threading.Event(), threading.Event()

    def act(peer: Peer) -> None:
        peer.receive()
        peer.send({"op": "started", "id": 1, "pid": 2})
        go.wait(PATIENCE)
        for message, payload in last:
            peer.send(message, payload)
        if hangs_up:
            peer.socket.shutdown(socket.SHUT_RDWR)
        said.set()

    channel, _peer = connect(act)
    process = started(channel)
    supervisor = channel.supervisor

    def turn(_timeout: float | None) -> None:
        waits.set()
        said.wait(PATIENCE)
        supervisor.over = True  # type: ignore[misc]

    supervisor.turn = turn  # type: ignore[assignment,method-assign]
    channel._wake()
    assert waits.wait(PATIENCE)
    go.set()
    return channel, process


@pytest.mark.parametrize("hangs_up", [True, False])
def test_what_was_said_before_the_end_is_not_lost(connect: Connect, hangs_up: bool) -> None:
    """The guest's last messages are read although the sandbox's end was seen before."""
    last = [
        ({"op": "data", "id": 1, "s": 1}, b"last words"),
        ({"op": "exit", "id": 1, "status": 3 << 8}, b""),
        *(({"op": "eof", "id": 1, "s": stream}, b"") for stream in (1, 2)),
    ]
    _channel, process = ended_unseen(connect, last, hangs_up=hangs_up)
    assert process.wait_over(time.monotonic() + PATIENCE)
    done = process.completed()
    assert (done.returncode, done.stdout) == (3, "last words")


@pytest.mark.parametrize("hangs_up", [True, False])
def test_a_sandbox_that_has_ended_is_ending(connect: Connect, hangs_up: bool) -> None:
    """The sandbox is not alive after any kind of end, and a kill of its program is silent."""
    channel, process = ended_unseen(connect, [], hangs_up=hangs_up)
    channel.join()
    assert channel.ending
    process.kill()


@pytest.fixture
def unstarted() -> Iterator[tuple[Channel, FakeDriven]]:
    """A channel that has not been started, whose guest says nothing, and its run."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        driven = FakeDriven(ours)
        yield Channel(driven), driven  # type: ignore[arg-type]


def interrupt(*_: object) -> None:
    """Raise the error of a Ctrl-C, or of pytest-timeout."""
    raise KeyboardInterrupt


def test_an_interrupted_start_leaves_no_sandbox(
    unstarted: tuple[Channel, FakeDriven], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt during the wait for the guest's greeting leaves no sandbox."""
    channel, driven = unstarted
    monkeypatch.setattr(channel.changed, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        channel.start(PATIENCE)
    assert driven.ends == 1
    assert not channel._thread.is_alive()


@pytest.mark.parametrize("runs", [True, False])
def test_an_interrupted_start_of_the_thread_leaves_no_sandbox(
    unstarted: tuple[Channel, FakeDriven], monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    """The thread may have begun to run at the interrupt, or never begin."""
    channel, driven = unstarted
    start = channel._thread.start

    def start_and_interrupt() -> None:
        if runs:
            start()
        raise KeyboardInterrupt

    monkeypatch.setattr(channel._thread, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        channel.start(PATIENCE)
    assert driven.ends == 1
    assert not channel._thread.is_alive()


def test_a_thread_that_gets_no_turn_until_the_deadline_ends_no_sandbox_twice(
    unstarted: tuple[Channel, FakeDriven],
) -> None:
    """The starter removes the sandbox then, and the thread that comes late leaves it alone."""
    channel, driven = unstarted
    turn = threading.Event()

    def late() -> None:
        turn.wait(PATIENCE)
        channel._run()

    channel._thread = threading.Thread(target=late)
    with pytest.raises(SandboxCrashed, match="did not answer"):
        channel.start(0.0)
    turn.set()
    channel._thread.join()
    assert driven.ends == 1


def test_a_message_without_memory_for_it_ends_the_sandbox(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each program in it ends with a `SandboxCrashed` that names the shortage."""
    go = threading.Event()

    def act(peer: Peer) -> None:
        peer.receive()
        peer.send({"op": "started", "id": 1, "pid": 2})
        go.wait(PATIENCE)
        peer.send({"op": "exit", "id": 1, "status": 0})

    def room() -> memoryview:
        raise MemoryError

    channel, _peer = connect(act)
    process = started(channel)
    monkeypatch.setattr(channel._decoder, "room", room)
    go.set()
    channel.join()
    with pytest.raises(SandboxCrashed, match="no memory for its messages"):
        channel.check()
    process.kill()


def test_an_interrupt_in_a_message_ends_the_sandbox(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows how much of the message was sent. The next use has another sandbox."""
    channel, _peer = connect(lambda _peer: None)
    writes = os.writev

    def writev(fd: int, parts: Sequence[memoryview]) -> int:
        writes(fd, [parts[0][:5]])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "writev", writev)
    with pytest.raises(KeyboardInterrupt):
        channel.send({"op": "ping", "id": 1})
    monkeypatch.undo()
    assert (channel.death.reason, channel.death.replaceable) == (
        "a message to it was interrupted", True
    )  # fmt: skip
    with pytest.raises(SandboxCrashed, match="a message to it was interrupted"):
        channel.check()


def test_an_exception_at_any_moment_of_a_wait_leaves_the_lock_free() -> None:
    """So it is when the traceback is gone, and all that was left suspended in it has ended."""
    lock, left, before = threading.RLock(), 0, sys.gettrace()
    changed = Changed(lock)

    def raises(_frame: FrameType, _event: str, _argument: Any) -> Any:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return raises

    def wait(moment: int) -> bool:
        nonlocal left
        left = moment
        try:
            with lock:
                sys.settrace(raises)
                changed.wait(0.001)
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    moment = 1
    while wait(moment):
        gc.collect()
        free: list[bool] = []
        thread = threading.Thread(target=lambda: free.append(lock.acquire(blocking=False)))  # noqa: B023
        thread.start()
        thread.join()
        assert free == [True], moment
        lock, moment = threading.RLock(), moment + 1
        changed = Changed(lock)
    assert moment > 20


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_a_message_that_cannot_be_sent_ends_the_sandbox(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A program that was never started must not be waited for until its deadline."""

    def refused(_fd: int, _parts: object) -> int:
        raise OSError(number, os.strerror(number))

    channel, _peer = connect(lambda peer: peer.receive() and None)
    monkeypatch.setattr(os, "writev", refused)
    began = time.monotonic()
    with pytest.raises(SandboxCrashed, match=os.strerror(number)):
        started(channel)
    assert time.monotonic() - began < PATIENCE
