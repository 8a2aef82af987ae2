"""A channel whose guest lies, dies or says nothing: an error, never a hang or a wrong result."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gvisor import Completed, GvisorError, InsideError, NotReady, SandboxCrashed
from pytest_gvisor.guest.wire.frames import HEADER, WINDOW
from pytest_gvisor.sandbox import waits
from pytest_gvisor.sandbox.channel import Channel
from pytest_gvisor.sandbox.files import Download, Upload
from pytest_gvisor.sandbox.forward import Forward
from pytest_gvisor.sandbox.peers import Answer
from pytest_gvisor.sandbox.process import Process
from tests.unit.sandbox.conftest import PATIENCE, FakeDriven, Peer, command, started

Connect = Callable[..., tuple[Channel, Peer]]
Script = list[tuple[dict[str, Any], bytes]]

STARTED: Script = [({"op": "started", "id": 1, "pid": 2}, b"")]
EOFS: Script = [({"op": "eof", "id": 1, "s": s}, b"") for s in (1, 2)]
EXIT: Script = [({"op": "exit", "id": 1, "status": 0}, b"")]


def answering(script: Script, *, hang_up: bool = True) -> Callable[[Peer], None]:
    """A guest that says all this when it is first asked for something, and hangs up."""

    def act(peer: Peer) -> None:
        peer.receive()
        for message, payload in script:
            peer.send(message, payload)
        if hang_up:
            peer.socket.shutdown(socket.SHUT_RDWR)
        else:
            with contextlib.suppress(EOFError, OSError):
                while True:
                    peer.receive()

    return act


def run(channel: Channel, seconds: float = 60.0) -> Completed:
    """A program, to its end or to the error."""
    process = Process(channel, command(timeout=seconds))
    process.start()
    deadline = time.monotonic() + seconds
    process.check_started(deadline)
    assert process.wait_over(deadline), "it hangs"
    return process.completed()


LIES: dict[str, Script] = {
    "no start": EXIT,
    "data before a start": [({"op": "data", "id": 1, "s": 1}, b"x")],
    "another id": [({"op": "started", "id": 2, "pid": 2}, b"")],
    "a second start": [*STARTED, *STARTED],
    "failed after a start": [*STARTED, ({"op": "failed", "id": 1, "errno": 2}, b"")],
    "data after the end of a stream": [*STARTED, EOFS[0], ({"op": "data", "id": 1, "s": 1}, b"x")],
    "a second end of a stream": [*STARTED, EOFS[0], EOFS[0]],
    "a second end": [*STARTED, *EXIT, *EXIT],
    "no end of a process": [*STARTED, ({"op": "exit", "id": 1, "status": 0x137F}, b"")],
    "a word after the end": [*STARTED, *EXIT, *EOFS, *EXIT],
    "an answer for a program": [*STARTED, ({"op": "answer", "id": 1, "n": 1}, b"")],
    "killed for a program": [*STARTED, ({"op": "killed", "id": 1, "left": 0}, b"")],
    "closed for a program": [*STARTED, ({"op": "closed", "id": 1, "errno": 0}, b"")],
    "credit that was not used": [*STARTED, ({"op": "credit", "id": 1, "n": 1}, b"")],
    "hello again": [({"op": "hello", "id": 0, "version": 1}, b"")],
    "no id": [({"op": "started", "pid": 2}, b"")],
    "nothing at all": [],
    "a start and no end": STARTED,
    "an end without its streams": [*STARTED, *EXIT],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_a_crash_for_who_waits(connect: Connect, lie: str) -> None:
    """A message at the wrong time, or a missing one at the end, is `SandboxCrashed`."""
    hangs = lie in {"nothing at all", "a start and no end", "an end without its streams"}
    channel, _peer = connect(answering(LIES[lie], hang_up=hangs))
    if lie == "a word after the end":
        run(channel)  # it was told all there is before
        channel.join()
        with pytest.raises(SandboxCrashed, match="cannot be trusted"):
            run(channel)
        return
    with pytest.raises(SandboxCrashed, match=None if hangs else "cannot be trusted"):
        run(channel)


def test_more_than_was_asked_for_is_a_crash(connect: Connect) -> None:
    """A guest cannot fill this process's memory: data beyond its credit ends the sandbox."""
    reads = threading.Event()

    def act(peer: Peer) -> None:
        peer.receive()
        peer.send(*STARTED[0])
        reads.wait(60)
        for _ in range(20):
            peer.send({"op": "data", "id": 1, "s": 1}, b"x" * 200_000)

    channel, _peer = connect(act)
    process = Process(channel, command())
    process.start()
    with pytest.raises(NotReady):
        process.stdout.read1(timeout=0.1)  # from here on it waits for its reader
    reads.set()
    with pytest.raises(SandboxCrashed, match="more of a stream than was asked for"):
        process.wait(60)
    assert 0 < len(process.stdout.captured) <= WINDOW


RAW: dict[str, bytes] = {
    "rubbish": b"x" * 1000,
    "zeros": bytes(1000),
    "huge lengths": HEADER.pack(b"\0" * 8, 0, 2**32 - 1, 2**32 - 1),
    "half a header": b"\0" * 5,
    "text": b'{"op":"hello","id":0,"version":1}\n',
}


@pytest.mark.parametrize("raw", RAW)
def test_bytes_that_are_no_frames_end_the_start(connect: Connect, raw: str) -> None:
    """A guest that sends no frames, or dies in the middle of one, never starts."""

    def act(peer: Peer) -> None:
        peer.receive()
        peer.socket.sendall(RAW[raw])
        peer.socket.shutdown(socket.SHUT_RDWR)

    with pytest.raises(SandboxCrashed):
        connect(act, greets=False)


def test_a_frame_without_the_tag_is_forged(connect: Connect) -> None:
    """A writer to the channel without its tag cannot send for the guest."""

    def act(peer: Peer) -> None:
        peer.receive()
        peer.encoder.tag = b"guessed!"
        peer.send(*STARTED[0])

    channel, _peer = connect(act)
    with pytest.raises(SandboxCrashed, match="another tag"):
        run(channel)


def test_a_guest_that_says_nothing_is_given_up(connect: Connect) -> None:
    """The start of a silent guest ends at its deadline."""
    begun = time.monotonic()
    with pytest.raises(SandboxCrashed, match=r"did not answer within 0\.3 s"):
        connect(lambda _peer: time.sleep(1), greets=False, timeout=0.3)
    assert time.monotonic() - begun < 15


def test_a_silent_guest_confirms_no_kill(connect: Connect) -> None:
    """A process tree is only dead when the guest has confirmed it in time."""
    channel, _peer = connect(answering(STARTED, hang_up=False))
    process = started(channel)
    with pytest.raises(NotReady):
        process.wait(timeout=0.1)
    begun = time.monotonic()
    assert not process.kill_tree()
    assert 1.5 < time.monotonic() - begun < 15


def test_a_kill_that_leaves_processes_is_none(connect: Connect) -> None:
    """The whole sandbox is killed if the guest reports remaining processes."""

    def act(peer: Peer) -> None:
        peer.receive()
        peer.send(*STARTED[0])
        for _ in range(2):
            asked, _payload = peer.receive()
            assert asked["op"] == "kill"
            for message, payload in (*EXIT, *EOFS) if asked["id"] == 2 else ():
                peer.send(message, payload)
            peer.send({"op": "killed", "id": asked["id"], "left": 1})
        with contextlib.suppress(EOFError, OSError):
            peer.receive()

    channel, _peer = connect(act)
    process = started(channel)
    assert not process.kill_tree()
    process.kill()
    channel.join()
    assert channel.gone
    assert channel.death.replaceable


def test_everybody_who_waits_is_told(connect: Connect) -> None:
    """A dying guest wakes each thread with an error: for a program, an answer and a file alike."""
    enough = threading.Barrier(5)

    def act(peer: Peer) -> None:
        for _ in range(4):
            peer.receive()
        enough.wait(60)
        peer.socket.shutdown(socket.SHUT_RDWR)

    channel, _peer = connect(act)

    def wait(what: Callable[[], object]) -> None:
        enough.wait(60)
        with pytest.raises(SandboxCrashed):
            what()

    process = Process(channel, command())
    process.start()
    answer = Answer(channel)
    channel.add(answer, {"op": "ping"})
    upload, download = Upload(channel, "/x", 0o600), Download(channel, "/x", 10)
    deadline = time.monotonic() + 60

    waits: list[Callable[[], object]] = [
        lambda: process.wait_over(deadline),
        lambda: answer.wait(deadline, "no answer"),
        lambda: upload._wait(deadline, "write"),
        lambda: download.run(deadline),
    ]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(wait, waits))


@pytest.mark.parametrize(
    "script",
    [
        [({"op": "data", "id": 1, "s": 2}, b"x")],
        [({"op": "eof", "id": 1, "s": 2}, b"")],
        [({"op": "started", "id": 1, "pid": 2}, b"")],
        [({"op": "answer", "id": 1, "n": 5}, b"")],
        [({"op": "data", "id": 1, "s": 1}, b"x" * 200_000)] * 6,
    ],
)
def test_a_file_that_is_read_comes_as_a_file(connect: Connect, script: Script) -> None:
    """Another stream, another message or excess data ends the sandbox."""
    channel, _peer = connect(answering(script, hang_up=False))
    download = Download(channel, "/x", 100)  # from there on it wants no more
    with pytest.raises(SandboxCrashed, match="cannot be trusted"):
        download.run(time.monotonic() + 60)


def test_a_port_is_not_open_by_an_answer_that_is_no_error_number(connect: Connect) -> None:
    """An answer may be a size too, so its number may be large."""
    channel, _peer = connect(answering([({"op": "answer", "id": 1, "n": 2**53}, b"")]))
    with pytest.raises(NotReady, match="Unknown error"):
        waits.for_port(channel, 80, 0.0)


def test_a_file_that_is_too_long_is_no_shorter_one(connect: Connect) -> None:
    """A file that exceeds the limit is an error, also if it ends before the guest can stop."""
    script: Script = [({"op": "data", "id": 1, "s": 1}, b"x" * 11), EOFS[0]]
    channel, _peer = connect(answering(script, hang_up=False))
    with pytest.raises(InsideError, match="longer than 10 bytes"):
        Download(channel, "/x", 10).run(time.monotonic() + 60)


def test_a_file_that_is_written_must_be_whole(connect: Connect) -> None:
    """A guest that confirms fewer bytes than it got is not believed in anything more."""
    channel, _peer = connect(answering([({"op": "answer", "id": 1, "n": 2}, b"")], hang_up=False))
    with pytest.raises(SandboxCrashed, match="2 bytes of 3"):
        Upload(channel, "/x", 0o600).run(b"abc", time.monotonic() + 60)


def wait_for_death(channel: Channel) -> None:
    """Wait until the channel has its end, at most a minute."""
    deadline = time.monotonic() + 60
    while not channel.gone and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_connection_is_held_to_its_rules(connect: Connect) -> None:
    """Data before a connection, after its end or beyond the credit is refused."""
    many: Script = [({"op": "data", "id": 1, "s": 1}, b"x" * 250_000)] * 600
    again: Script = [({"op": "eof", "id": 1, "s": 1}, b"")] * 2
    for script in (many[:1], [*STARTED, *many], [*STARTED, *again], [*STARTED, *STARTED], EXIT):
        channel, _peer = connect(answering(script, hang_up=False))
        with Forward(channel, 80) as forward, contextlib.suppress(ConnectionError):
            client = socket.create_connection(forward.address, timeout=20)
            with client:  # it reads nothing: what comes piles up, and may not
                wait_for_death(channel)
        wait_for_death(channel)  # a connection that is refused is seen before the sandbox's end
        assert channel.gone
        assert "cannot be trusted" in channel.death.reason


WORDS = st.sampled_from(
    ["started", "failed", "data", "eof", "credit", "exit", "killed", "answer", "closed", "hello"]
)
NUMBERS = st.integers(min_value=0, max_value=3)


@st.composite
def sentences(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """One message: often well formed, sometimes not."""
    op = draw(WORDS)
    message: dict[str, Any] = {"op": op, "id": draw(st.sampled_from([1, 1, 1, 1, 0, 2]))}
    fields = {"data": ["s"], "eof": ["s"], "credit": ["n"], "exit": ["status"], "killed": ["left"],
              "answer": ["n"], "failed": ["errno"], "closed": ["errno"],
              "started": ["pid"]}  # fmt: skip
    for name in fields.get(op, []):
        message[name] = draw(NUMBERS)
    if draw(st.integers(min_value=0, max_value=20)) == 0:
        message[draw(st.sampled_from(["s", "x", "id"]))] = draw(st.none() | st.text(max_size=3))
    return message, b"x" * draw(NUMBERS) if op == "data" else b""


def expected(script: Script) -> str:
    """The result that the protocol gives a caller, computed apart from the code."""
    started, ended, exited = False, set[int](), False
    for message, payload in script:
        op, shape = message["op"], set(message)
        stream = message.get("s")
        if exited and ended == {1, 2}:
            return "done"
        if not started:
            if (op, shape, message["id"]) == ("started", {"op", "id", "pid"}, 1):
                started = True
                continue
            if (op, shape, message["id"]) == ("failed", {"op", "id", "errno"}, 1):
                return "refused"
            return "crash"
        if message["id"] != 1 or (shape - {"op", "id"}) not in ({"s"}, {"status"}):
            return "crash"
        if op == "data" and shape == {"op", "id", "s"} and stream in {1, 2} and payload:
            if stream in ended:
                return "crash"
        elif op == "eof" and shape == {"op", "id", "s"} and stream in {0, 1, 2}:
            if stream in ended or (stream == 0 and exited):
                return "crash"
            ended |= {stream} - {0}
        elif op == "exit" and shape == {"op", "id", "status"} and not exited:
            if message["status"] and message["status"] & 0x7F == 0x7F:
                return "crash"
            exited = True
        else:
            return "crash"
    return "done" if exited and ended == {1, 2} else "crash"


@settings(max_examples=300)
@given(
    st.lists(sentences(), max_size=6)
    | st.permutations([*STARTED, *EXIT, *EOFS])
    | st.permutations([*EXIT, *EOFS]).map(lambda rest: [*STARTED, *rest])
    | st.tuples(st.permutations([*EXIT, *EOFS]), sentences()).map(
        lambda parts: [*STARTED, parts[1], *parts[0]]
    )
)
def test_no_conversation_hangs_or_gives_a_wrong_result(script: Script) -> None:
    """The caller sees the protocol's result for any messages that a guest sends."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    channel, peer = Channel(FakeDriven(ours)), Peer(theirs)  # type: ignore[arg-type]

    def play() -> None:
        with contextlib.suppress(EOFError, OSError):
            peer.greet()
            answering(script)(peer)

    thread = threading.Thread(target=play)
    thread.start()
    try:
        channel.start(PATIENCE)
        found = "done"
        try:
            assert run(channel).returncode >= -3
        except SandboxCrashed:
            found = "crash"
        except GvisorError:
            found = "refused"
        assert found == expected(list(script))
    finally:
        channel.close()
        peer.close()
        thread.join()
