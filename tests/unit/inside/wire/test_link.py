"""The connection to a pytest inside that ends, or that sends more than anyone can keep."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from pytest_gvisor.base.egress import Egress
from pytest_gvisor.base.errors import LaunchError, ProtocolError
from pytest_gvisor.base.traced import Connection, Trace
from pytest_gvisor.guest.tests.returns import MARK
from pytest_gvisor.guest.tests.unsent import HEAD, SIZE
from pytest_gvisor.guest.wire.frames import HEADER, UNBOUNDED, Decoder, Encoder
from pytest_gvisor.inside.wire.link import MAX_MESSAGE, Died, Hangs, Link
from pytest_gvisor.run.budget import LATE, Budget
from pytest_gvisor.run.capture import Capture
from pytest_gvisor.trace.recorder import Recorder
from tests.unit.run.test_budget import Clock, clock

__all__ = ["clock"]


class Sandbox:
    """Takes the place of a driven run and its supervisor; ``inside`` is its end of the socket."""

    def __init__(self) -> None:
        ours, self.inside = socket.socketpair()
        ours.setblocking(False)
        for end in (ours, self.inside):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 2**20)
        self.over = False
        self.settled = 0
        self._ours = ours
        self._selector = selectors.DefaultSelector()
        memory = os.memfd_create("test")
        os.ftruncate(memory, SIZE)
        stderr = Capture(2**20)
        self.pipes = SimpleNamespace(socket=ours.fileno(), memory=memory, stderr=stderr)
        self.drain: Callable[[], object] = lambda: None
        self.record: Any = None
        self.listener: Any = SimpleNamespace(recorder=None, greeted=True)

    def start(self) -> Sandbox:
        """Be the supervisor, too."""
        return self

    def check_relays(self) -> None:
        """No relay has failed."""

    def egress(self, before: Egress | None = None) -> Egress | None:
        """Be without an allow-list."""
        assert before is None
        return None

    def ask(self, wish: str) -> None:
        """Send a signal, of which nothing is seen here."""

    def change(self, fd: int, event: int, act: Callable[[], bool]) -> None:
        """Watch a descriptor, or stop watching one."""
        if event:
            self._selector.register(fd, event, act)
        else:
            self._selector.unregister(fd)

    def read_rest(self) -> None:
        """Read what there is on standard error."""
        self.drain()

    def turn(self, timeout: float) -> None:
        """Look once."""
        for key, _events in self._selector.select(timeout):
            if not key.data():
                self._selector.unregister(key.fd)

    def leave(self, _patience: float) -> None:
        """Look as long as there is something to see."""
        while self._selector.get_map() and self._selector.select(0):
            self.turn(0)

    def settle(self) -> None:
        """Note that the removal is waited for."""
        self.settled += 1

    def close(self) -> None:
        """Leave nothing."""
        self._selector.close()
        self._ours.close()
        os.close(self.pipes.memory)
        self.inside.close()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox that does nothing by itself."""
    made = Sandbox()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("opens", "expected"),
    [
        (True, "the workload did what is not allowed:\n  connected: 127.0.0.1:9, by process 1"),
        (False, "the trace is not complete, so it cannot be checked: 1 events were dropped"),
    ],
)
def test_only_an_open_that_the_host_has_just_named_makes_a_trace_complete(
    opens: bool, expected: str, sandbox: Sandbox
) -> None:
    """A pytest inside that does not open it may hide a drop, which comes with the next event."""
    acts = (Connection(address="127.0.0.1:9", kind="stream", process=1),)

    class Fake(Recorder):
        """Has one connection, which the test makes."""

        mark = ""
        acts: tuple[Connection, ...] = ()

        def __init__(self) -> None:
            """Need no runsc."""

        def begin_anew(self) -> None:
            """Begin with it."""
            self.acts = acts

        def trace(self, *, dropped: int, **_more: object) -> Trace:
            """Have a gap for each drop."""
            gaps = (f"{dropped} events were dropped",) if dropped else ()
            return Trace(connections=self.acts, gaps=gaps)

    recorder = Fake()
    sandbox.listener = SimpleNamespace(
        recorder=recorder, dropped=0, broken=False, fileno=lambda: -1
    )

    def turn(timeout: float) -> None:
        if opens:
            assert len(recorder.mark) > 30
            recorder.mark = ""
        else:
            sandbox.over = True

    sandbox.turn = turn  # type: ignore[method-assign]
    report: Any = SimpleNamespace(outcome="passed", longrepr=None)
    link = Link(cast("Any", sandbox), forbid=["connect"])
    assert link.traced is not None
    link.traced.begin("run")
    assert link.judge(report, failed=False)
    assert report.outcome == "failed"
    assert report.longrepr.startswith(expected)


def encoded(*messages: dict[str, Any]) -> bytes:
    """The messages as a pytest inside sends them."""
    return b"".join(map(Encoder(max_json=UNBOUNDED).head, messages))


def hold(sandbox: Sandbox, frames: bytes, length: int | None = None) -> None:
    """Store frames like a pytest inside that does not send them yet."""
    head = HEAD.pack(len(frames) if length is None else length, 1)
    os.pwrite(sandbox.pipes.memory, head + frames, 0)


def holding(sandbox: Sandbox) -> Link:
    """A link whose pytest holds messages back."""
    link = Link(cast("Any", sandbox))
    link.holds = True
    return link


def numbered(count: int, first: int = 0) -> list[bytes]:
    """Frames of messages with numbers."""
    encoder = Encoder(max_json=UNBOUNDED)
    made = [encoder.head({"type": "phase", "n": n}) for n in range(first + count)]
    return made[first:]


def test_messages_held_back_are_taken_while_they_are_waited_for(sandbox: Sandbox) -> None:
    """Each counts once, whether it is sent after that or not; those after it follow."""
    link, sent = holding(sandbox), numbered(6)
    sandbox.inside.sendall(sent[0] + sent[1][:9])
    hold(sandbox, b"".join(sent[:4]))
    assert [link.receive()["n"] for _ in range(4)] == [0, 1, 2, 3]
    hold(sandbox, b"".join(sent[:5]))
    assert link.receive()["n"] == 4
    sandbox.inside.sendall(sent[1][9:] + b"".join(sent[2:]))
    assert link.receive()["n"] == 5


@pytest.mark.parametrize("ends", ["over", "attended"])
def test_messages_held_back_count_after_the_end(sandbox: Sandbox, ends: str) -> None:
    """The pytest ends, or the whole sandbox; its last write was cut short."""
    link, sent = holding(sandbox), numbered(3)
    sandbox.inside.sendall(sent[0] + sent[1][:9] + (MARK if ends == "attended" else b""))
    hold(sandbox, b"".join(sent))
    sandbox.over = ends == "over"
    assert [link.receive()["n"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Died):
        link.receive()


def test_nothing_is_taken_from_memory_before_the_pytest_is_ready(sandbox: Sandbox) -> None:
    """Python may have written something there at its start."""
    link = Link(cast("Any", sandbox))
    hold(sandbox, numbered(1)[0])
    sandbox.over = True
    with pytest.raises(Died):
        link.receive()


@pytest.mark.parametrize(
    ("frames", "length"),
    [
        (b"x" * 100, None), (numbered(1)[0][:-1], None), (numbered(1)[0][:5], None),
        (numbered(1)[0], 2**32 - 1),
        (Encoder(b"12345678").head({"type": "phase"}), None),
        (Encoder().head({"type": "phase"}, payload=1), None), (Encoder().head({}), None),
    ],
)  # fmt: skip
def test_what_is_held_back_and_no_message_ends_the_reading(
    sandbox: Sandbox, frames: bytes, length: int | None
) -> None:
    """Tests can write there whatever they want."""
    link = holding(sandbox)
    hold(sandbox, frames, length)
    with pytest.raises(ProtocolError, match="held back inside is no message"):  # noqa: PT012
        while True:
            assert link.receive() == {"type": "phase", "n": 0}


def test_a_pytest_without_such_memory_holds_nothing_back(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none on kvm, and whatever collects there may say that it holds messages."""
    link = holding(sandbox)
    sandbox.inside.sendall(numbered(1)[0])
    with monkeypatch.context() as without:
        without.setattr(sandbox.pipes, "memory", -1)
        assert link.receive()["n"] == 0
        sandbox.over = True
        with pytest.raises(Died):
            link.receive()


def test_what_is_held_back_after_messages_that_were_sent_waits_for_them(sandbox: Sandbox) -> None:
    """The pytest may have sent and stored since the last read of the socket."""
    link = holding(sandbox)
    hold(sandbox, numbered(1, first=1)[0])
    assert link._look() is None
    assert not link._messages


def test_memory_that_changes_while_it_is_read_is_left_alone(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames in it have been sent, and others stored in their place."""
    link, sent, read = holding(sandbox), numbered(2), os.pread
    hold(sandbox, sent[0])

    def pread(fd: int, size: int, place: int) -> bytes:
        if place:
            os.pwrite(fd, HEAD.pack(9, 2) + b"something", 0)
            sandbox.inside.sendall(sent[0])
            monkeypatch.undo()
        return read(fd, size, place)

    monkeypatch.setattr(os, "pread", pread)
    assert link.receive()["n"] == 0


def test_what_was_sent_before_the_end_counts(sandbox: Sandbox) -> None:
    """All of it, however much: then only is the pytest inside gone."""
    link = Link(cast("Any", sandbox))
    long = {"type": "report", "text": "x" * 900_000}
    sandbox.inside.sendall(encoded(long, {"type": "done"}))
    sandbox.over = True
    assert link.receive() == long
    assert link.receive() == {"type": "done"}
    with pytest.raises(Died):
        link.receive()


def test_a_test_may_send_so_much(sandbox: Sandbox) -> None:
    """Each test may send the same amount."""
    link = Link(cast("Any", sandbox))
    sandbox.inside.sendall(encoded(*[{"type": "report", "text": "x" * 600}] * 3))
    for _ in range(2):
        link.budget = Budget(60, size=1000)
        assert link.receive()["type"] == "report"
    with pytest.raises(ProtocolError, match="more than 1000 bytes"):
        link.receive()


def test_what_is_no_message_ends_the_reading_after_all_before_it(sandbox: Sandbox) -> None:
    """The messages before it count; the sender is no longer read, and blocks."""
    link = Link(cast("Any", sandbox))
    sandbox.inside.sendall(encoded({"type": "report"}) + b"x" * 100)
    assert link.receive() == {"type": "report"}
    with pytest.raises(ProtocolError, match="no message: a frame with another tag"):
        link.receive()
    sandbox.inside.sendall(b"more")
    sandbox.turn(0)
    assert os.read(sandbox.pipes.socket, 100) == b"more"


def test_a_message_without_memory_for_it_is_a_protocol_error(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long message costs its sandbox, and no session, where the host has no memory for it."""
    link = Link(cast("Any", sandbox))

    def room(_decoder: Decoder) -> memoryview:
        raise MemoryError

    monkeypatch.setattr(Decoder, "room", room)
    sandbox.inside.sendall(b"x")
    with pytest.raises(MemoryError, match="no memory for a message"):
        link.receive()


@pytest.mark.fault("G6")
def test_an_error_in_the_greeting_is_left_to_who_waits_for_a_message(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session begins meanwhile, or another test runs, and neither is to end by it."""
    link = Link(cast("Any", sandbox))
    sandbox.listener.greeted = False
    lost = [ProtocolError("the keeper died"), LaunchError("events", "no"), MemoryError()]
    monkeypatch.setattr(sandbox, "turn", Mock(side_effect=lost))
    for _ in range(3):
        link.greet()


def test_a_sandbox_that_cannot_be_listened_to_is_ended(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has it yet, and it would run on until the end of the session."""
    monkeypatch.setattr(sandbox, "change", Mock(side_effect=[LaunchError("pipes", "no"), None]))
    with pytest.raises(LaunchError):
        Link(cast("Any", sandbox))
    assert sandbox.settled == 1


def test_nothing_is_read_any_more_when_it_is_closed(sandbox: Sandbox) -> None:
    """A writer without end blocks once the link is closed, until it is killed."""
    link = Link(cast("Any", sandbox))
    sandbox.inside.sendall(encoded({"type": "report", "text": "x" * 900_000}))
    link.leave()
    settled = [sandbox.settled]
    link.close()
    assert [*settled, sandbox.settled] == [0, 1]
    assert len(os.read(sandbox.pipes.socket, 2**20)) > 900_000


@pytest.mark.parametrize("cut", [0, 1, 30, 500_000])
def test_a_pytest_that_died_in_the_midst_of_a_message_leaves_its_first_process(
    sandbox: Sandbox, cut: int
) -> None:
    """Whole messages count, half a one is dropped, and what follows the mark is the first
    process's, however large.
    """
    link = Link(cast("Any", sandbox))
    half = encoded({"type": "report"}, {"type": "report", "text": "x" * 600_000})
    whole = len(encoded({"type": "report"}))
    files = [{"type": "file", "data": "y" * 900_000, "n": n} for n in range(3)]
    sandbox.inside.sendall(half[: whole + cut] + MARK + encoded(*files, {"type": "end"}))
    assert link.receive()["type"] == "report"
    with pytest.raises(Died, match="it is gone"):
        link.receive()
    assert link.attended
    assert [link.receive_of_first() for _ in files] == files
    assert link.receive_of_first() == {"type": "end"}
    sandbox.over = True
    with pytest.raises(Died):
        link.receive_of_first()


def test_a_pytest_that_is_given_up_says_no_more(sandbox: Sandbox) -> None:
    """At a deadline its messages are dropped, and the first process is heard."""
    link = Link(cast("Any", sandbox))
    sandbox.inside.sendall(encoded({"type": "done"}) + MARK + encoded({"type": "end"}))
    link.terminate()
    with pytest.raises(Died):
        link.receive()
    assert link.receive_of_first() == {"type": "end"}


def test_a_second_mark_is_no_frame(sandbox: Sandbox) -> None:
    """Bytes of a first process that are no message end the reading."""
    link = Link(cast("Any", sandbox))
    sandbox.inside.sendall(MARK + MARK + b"x" * 100)
    with pytest.raises(ProtocolError, match="no message"):
        link.receive_of_first()


def flood(sandbox: Sandbox, clock: Clock, kind: str) -> None:
    """Have a sandbox send something at each turn, which takes a second at most."""
    encoder, turn, send = Encoder(max_json=UNBOUNDED), sandbox.turn, sandbox.inside.sendall
    if kind == "a part":  # of a frame of all that one may have
        send(HEADER.pack(bytes(8), 0, MAX_MESSAGE, 0))

    def flooded(timeout: float) -> None:
        frame = encoder.head({"type": "phase"})
        match kind:
            case "messages":
                send(frame + encoder.head({"type": "phase"}))
            case "held":
                hold(sandbox, frame)
            case "a part":
                send(b" ")
            case "stderr":
                sandbox.pipes.stderr.feed(memoryview(frame))
        turn(0)
        clock.now += min(timeout, 1)

    sandbox.turn = flooded  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("act", "longest"),
    [
        (Link.receive, 4 + LATE), (Link.wait, 4), (Link.rest, 4), (Link.await_end, 4),
        (Link.receive_of_first, 4 + LATE), (Link.greet, 0.5), (Link.catch_up, 0),
        (Link.terminate, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["messages", "held", "a part", "stderr", "nothing"])
def test_no_wait_outlasts_its_phase_by_what_comes(
    kind: str, act: Callable[[Link], object], longest: float, sandbox: Sandbox, clock: Clock
) -> None:
    """Each loop ends a stated time after the end of its phase, however much or little comes."""
    sandbox.listener = SimpleNamespace(greeted=False, recorder=None)
    link = holding(sandbox) if kind == "held" else Link(cast("Any", sandbox))
    link.budget, begun, clock.step = Budget(4), clock.now, 0.01
    if act is Link.receive_of_first:
        sandbox.inside.sendall(MARK)
    flood(sandbox, clock, kind)
    with contextlib.suppress(Hangs, Died):
        while act(link):
            pass
    assert clock.now - begun <= longest + 2


def test_a_sandbox_that_reads_little_by_little_gets_no_command(
    sandbox: Sandbox, clock: Clock
) -> None:
    """The time of a command does not begin anew with a byte that is read."""
    link, begun = Link(cast("Any", sandbox)), clock.now

    def drain() -> None:
        sandbox.inside.recv(8000)
        clock.now += 0.5

    sandbox.drain = drain
    with pytest.raises(Died, match="no more commands"):
        link.send("run", ids=["x" * 20_000_000])
    assert clock.now - begun <= 12


def test_a_flood_is_shown_in_part(sandbox: Sandbox) -> None:
    """Each phase shows so much; what came in between is not made up for."""
    link, shown = Link(cast("Any", sandbox)), bytearray()
    link.show = shown.extend
    for letter in (b"a", b"b"):
        link.budget = Budget(4, shown=100)
        for _ in range(5):
            sandbox.pipes.stderr.feed(memoryview(letter * 30))
            link.catch_up()
    assert (shown.count(b"a" * 30), shown.count(b"b" * 30)) == (3, 3)
    assert shown.count(b"there is more output") == 2
