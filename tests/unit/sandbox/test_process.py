"""A program's output and a sandbox's end on the host's side, with a guest that behaves."""

import contextlib
import dataclasses
import itertools
import re
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor import NotReady, Outcome, Trace
from pytest_gvisor.programs import clock
from pytest_gvisor.sandbox import output
from pytest_gvisor.sandbox.channel import Channel
from pytest_gvisor.sandbox.output import Watch
from pytest_gvisor.sandbox.process import Process
from pytest_gvisor.trace import points
from pytest_gvisor.trace.programs import Programs
from tests.unit.sandbox.conftest import Peer, command, started
from tests.waiting import wait_for

Connect = Callable[..., tuple[Channel, Peer]]


def say(peer: Peer, op: str, payload: bytes = b"", **fields: int) -> None:
    """Something about the first program."""
    peer.send({"op": op, "id": 1, **fields}, payload)


def talking(output: bytes = b"") -> Callable[[Peer], None]:
    """A guest whose program starts, writes this, and runs on."""

    def act(peer: Peer) -> None:
        peer.receive()
        say(peer, "started", pid=2)
        if output:
            say(peer, "data", output, s=1)
        while True:
            peer.receive()

    return act


def test_a_flood_of_output_does_not_outlast_a_deadline(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline ends the wait although more output arrives after every look."""
    channel, _peer = connect(talking())
    process = started(channel)
    begun = time.monotonic()
    look = Watch.look

    def look_slowly(watch: Watch, lock: threading.RLock) -> re.Match[str] | re.Match[bytes] | None:
        found = look(watch, lock)
        if time.monotonic() < begun + 20:
            with lock:
                watch.stream.feed(memoryview(b"x" * 1000))
        return found

    monkeypatch.setattr(Watch, "look", look_slowly)
    with pytest.raises(NotReady, match="no 'never' in its output"):
        process.wait_for_output("never", timeout=0.1)
    assert time.monotonic() - begun < 10


def test_what_has_come_is_looked_at_whatever_the_deadline(connect: Connect) -> None:
    """A timeout of 0 does not wait, but finds any amount of present output."""
    channel, _peer = connect(talking())
    process = started(channel)
    with channel.lock:
        for _ in range(8):
            process._streams[1].feed(memoryview(b"x" * 500_000))
        process._streams[1].feed(memoryview(b"needle"))
    assert process.wait_for_output("needle", timeout=0)[0] == "needle"
    with pytest.raises(NotReady):
        process.wait_for_output("other", timeout=0)


def test_what_comes_after_a_stop_is_taken_whatever_the_deadline(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock goes on while a process is stopped, and a guest has ended its program in time."""
    real, stopped = clock.monotonic, threading.Event()

    def act(peer: Peer) -> None:
        peer.receive()
        say(peer, "started", pid=2)
        time.sleep(0.3)
        monkeypatch.setattr(clock, "monotonic", lambda: real() + 1000)
        say(peer, "data", b"x", s=1)
        time.sleep(0.1)
        say(peer, "exit", status=0)
        stopped.set()

    channel, _peer = connect(act)
    process = started(channel)
    assert process.wait(timeout=100) == 0
    assert stopped.wait(10)


def test_a_search_that_takes_long_does_not_go_on_for_ever(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output that was there is looked at in small pieces, and until five seconds too late."""
    channel, _peer = connect(talking())
    process = started(channel)
    with channel.lock:
        for _ in range(8):
            process._streams[1].feed(memoryview(b"1" * 500_000))
    begun = time.monotonic()
    looks: list[int] = []
    searched = Watch.look

    def slow(watch: Watch, lock: threading.RLock) -> object:
        looks.append(watch._early)
        return searched(watch, lock)

    monkeypatch.setattr(Watch, "look", slow)
    monkeypatch.setattr(clock, "monotonic", lambda: begun + len(looks))
    with pytest.raises(NotReady):
        process.wait_for_output(r"^x", timeout=0)
    assert len(looks) < 12
    assert looks[0] - looks[2] <= 16 * 1024


@pytest.mark.parametrize("max_output", [0, 1000])
def test_a_read_of_nothing_is_nothing_at_once(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, max_output: int
) -> None:
    """A read of size 0 returns at once, for any amount of output and any limit."""
    channel, _peer = connect(talking())
    process = started(channel, max_output=max_output)
    take, looks = output._take, itertools.count()

    def take_a_few_times(buffer: bytearray, most: int) -> bytes:
        assert next(looks) < 100, "it looks for ever"
        return take(buffer, most)

    monkeypatch.setattr(output, "_take", take_a_few_times)
    out = process.stdout
    with contextlib.suppress(NotReady):
        out.readline(timeout=0)  # from here on, what comes waits to be read
    with channel.lock:
        process._streams[1].feed(memoryview(b"output"))
    assert out.read1(0, timeout=5) == out.read(0, timeout=5) == b""
    if max_output:
        assert out.read1(timeout=5) == b"output"
    else:
        assert out.read1(timeout=5) == out.readline(timeout=5) == out.read(timeout=5) == b""


def test_a_reader_that_waits_for_a_line_gets_the_one_that_is_put_back(connect: Connect) -> None:
    """A task of asyncio was cancelled in its read, and the next one began before it had ended."""
    channel, _peer = connect(talking())
    process = started(channel)
    out, lines = process.stdout, list[bytes]()
    with contextlib.suppress(NotReady):
        out.readline(timeout=0)  # from here on, what comes waits to be read
    with channel.lock:
        process._streams[1].feed(memoryview(b"half"))
    reader = threading.Thread(target=lambda: lines.append(out.readline(timeout=5)))
    reader.start()
    while not out._seen:
        time.sleep(0.001)
    out.unread(b"line\n")
    reader.join()
    assert lines == [b"line\n"]


def test_input_that_makes_a_program_end_is_written(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write is no error where the end is heard of before the write has returned."""

    def act(peer: Peer) -> None:
        peer.receive()
        say(peer, "started", pid=2)
        assert peer.receive() is not None
        say(peer, "eof", s=1)
        say(peer, "eof", s=2)
        say(peer, "exit", status=7 << 8)
        while True:
            peer.receive()

    channel, _peer = connect(act)
    process = started(channel, reads=True)
    has_room = channel.wait_room

    def wait_room(deadline: float) -> bool:
        assert process.wait(timeout=20) == 7
        return has_room(deadline)

    monkeypatch.setattr(channel, "wait_room", wait_room)
    process.stdin.write("\n")


def test_input_that_is_read_at_once_does_not_outlast_a_deadline(connect: Connect) -> None:
    """A program that reads without end gets no more input after the deadline."""
    channel, _peer = connect(talking())
    process = started(channel, reads=True)
    now = time.monotonic()
    with pytest.raises(NotReady, match="takes no more input"):
        process.write_input(memoryview(bytes(600_000)), now)
    with pytest.raises(NotReady, match="has no end within the deadline"):
        process.feed(itertools.repeat(b"x"), now)


def trace_all(channel: Channel) -> None:
    """Have the channel's programs traced."""
    asked = [*points.USUAL, *points.wanted(points.calls())]
    known = {one.name: one.context + one.optional for one in asked}
    listener = SimpleNamespace(recorder=Programs(known, "20260905.0"), dropped=0, broken=False)
    channel.supervisor.listener = cast("Any", listener)


def test_a_program_whose_start_was_never_reported_has_a_trace_with_a_gap(connect: Connect) -> None:
    """Such a program may have run. The sandbox is ending, or gone, when its trace is asked for."""

    def act(peer: Peer) -> None:
        peer.receive()

    channel, _peer = connect(act)
    trace_all(channel)
    ending, gone = (Process(channel, dataclasses.replace(command(), trace=True)) for _ in range(2))
    ending.start()
    gone.start()
    channel.kill("so")
    for process in (ending, gone):
        trace = process.completed(Outcome.SANDBOX_CRASHED).trace
        assert trace is not None
        assert trace.gaps == ("the end of the first process was not seen",)
        channel.join()


def test_the_trace_of_a_program_that_is_over_is_there_when_its_sandbox_has_ended(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that cuts traces is busy with the sandbox's end, and then it is over itself."""
    channel, _peer = connect(lambda peer: peer.receive())
    trace_all(channel)
    monkeypatch.setattr(channel.supervisor, "drain_events", lambda: None, raising=False)
    over = Process(channel, dataclasses.replace(command(), trace=True))
    over._tracing.begin(2)
    ending, ended, found = threading.Event(), threading.Event(), list[object]()
    end = channel.driven.end

    def late(patience: float) -> Any:
        ending.set()
        ended.wait(60)
        return end(patience)

    monkeypatch.setattr(channel.driven, "end", late)
    channel.kill("so")
    assert ending.wait(60)
    thread = threading.Thread(target=lambda: found.append(over._tracing.end()), daemon=True)
    thread.start()
    wait_for(lambda: channel._chores, "the trace to be asked for")
    ended.set()
    thread.join(20)
    assert [type(trace) for trace in found] == [Trace]
    channel.join()
