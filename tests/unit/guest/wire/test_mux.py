"""Connections over one socket, turn by turn: frames, credit, half-close, and what no peer sends."""

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from pytest_gvisor.guest.wire import mux
from pytest_gvisor.guest.wire.mux import (
    CREDIT,
    DATA,
    END,
    OPEN,
    RESET,
    SYNC,
    WINDOW,
    Connection,
    Mux,
    MuxError,
)

HEAD = struct.Struct("!BIH")
PIECE = 32 * 1024
GRANT = (CREDIT, 1, struct.pack("!I", WINDOW))


class Counting(Connection):
    """A connection that keeps its counts."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.counts = {"sent": 0, "received": 0}

    def count(self, direction: str, size: int) -> None:
        """See `Connection.count`."""
        self.counts[direction] += size


class Side(Mux):
    """One side, whose other one is the test."""

    def __init__(self, kind: type[socket.socket] = socket.socket) -> None:
        link, self.other = socket.socketpair()
        link = kind(fileno=link.detach())
        self.other.setblocking(False)
        super().__init__(link)
        self.asked = 0
        self.went_on = True

    def synced(self) -> None:
        """Count the questions."""
        self.asked += 1

    def begun(self, sock: socket.socket) -> Counting:
        """The next connection, which has this socket."""
        sock.setblocking(False)
        self.last += 1
        one = self.connections[self.last] = Counting(self.last)
        self.begin(one, sock)
        return one

    def told(self, *frames: tuple[int, int, bytes]) -> list[tuple[int, int, bytes]]:
        """Send these frames, take turns until nothing happens, and return the answers."""
        for kind, number, payload in frames:
            self.other.sendall(HEAD.pack(kind, number, len(payload)) + payload)
        found = b""
        for _ in range(100):
            self.went_on = self.turn(0)
            if not self.went_on:
                break
            with contextlib.suppress(BlockingIOError):
                found += self.other.recv(1 << 20)
            if self.idle and not self._out:
                break
        answers = []
        while found:
            kind, number, size = HEAD.unpack_from(found)
            answers.append((kind, number, found[HEAD.size :][:size]))
            found = found[HEAD.size + size :]
        return answers


@pytest.fixture
def side() -> Iterator[Side]:
    """One side, which is closed at the end."""
    made = Side()
    with made.other:
        yield made
        made.close()


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket for a connection, and its program's end."""
    if request.param == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours = listener.accept()[0]
    theirs.settimeout(30)
    with theirs:  # the side closes the other one
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def received(sock: socket.socket, size: int) -> bytes:
    """So many bytes of a socket."""
    found = b""
    while len(found) < size:
        found += sock.recv(size - len(found))
    return found


def payloads(frames: list[tuple[int, int, bytes]]) -> bytes:
    """The data of frames that have nothing else."""
    assert {kind for kind, *_ in frames} <= {DATA}
    return b"".join(payload for *_, payload in frames)


def test_the_bounds_are_those_of_both_relays() -> None:
    """A window of each connection, and as much again for answers, fits into what may wait."""
    assert (mux.WINDOW, mux.MOST, mux.PROXY) == (131_072, 500, 65_535)
    assert mux.MOST_OUT == 100_663_296 > mux.MOST * mux.WINDOW
    assert (OPEN, DATA, END, RESET, CREDIT, SYNC) == (0, 1, 2, 3, 4, 5)


def test_a_connection_begins_with_a_window_each_way(side: Side, pair: Pair) -> None:
    """TCP sends short data at once. A Unix socket has no such option."""
    one = side.begun(pair[0])
    assert (one.credit, one.granted, one.written) == (WINDOW, WINDOW, 0)
    assert side.told() == [GRANT]
    if pair[0].family != socket.AF_UNIX:
        assert pair[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("pair", ["unix"], indirect=True)
def test_a_connection_has_nothing_before_it_is_begun(side: Side, pair: Pair) -> None:
    """The sandbox has a socket then; all of its credit comes from the host."""
    pair[0].setblocking(False)
    one = side.connections[1] = Connection(1, pair[0])
    side.last = 1
    pair[1].sendall(b"hello")
    assert side.told() == []
    assert side.told(GRANT) == [(DATA, 1, b"hello")]
    assert one.credit == WINDOW - 5
    assert side.told((DATA, 1, b"")) == []
    with pytest.raises(MuxError, match="1 bytes too many of connection 1"):
        side.told((DATA, 1, b"x"))


def test_a_program_is_read_as_far_as_the_credit_goes(side: Side, pair: Pair) -> None:
    """A byte of credit is a byte of data, and its end comes after all data."""
    one = side.begun(pair[0])
    side.told()
    data = os.urandom(WINDOW + PIECE + 1)
    pair[1].setblocking(False)
    sent, found = 0, b""
    while len(found) < WINDOW:
        with contextlib.suppress(BlockingIOError):
            sent += pair[1].send(data[sent:])
        frames = side.told()
        assert all(0 < len(payload) <= PIECE for *_, payload in frames)
        found += payloads(frames)
    assert (found, one.credit) == (data[:WINDOW], 0)
    with contextlib.suppress(BlockingIOError):
        sent += pair[1].send(data[sent:])
    assert side.told() == []
    assert side.told((CREDIT, 1, struct.pack("!I", 1))) == [(DATA, 1, data[WINDOW : WINDOW + 1])]
    rest = side.told((CREDIT, 1, struct.pack("!I", WINDOW)))
    while sent < len(data):
        sent += pair[1].send(data[sent:])
        rest += side.told()
    assert payloads(rest) == data[WINDOW + 1 :]
    pair[1].shutdown(socket.SHUT_WR)
    assert side.told() == [(END, 1, b"")]
    assert one.counts == {"sent": 0, "received": len(data)}
    assert side.told() == []


def test_what_a_socket_has_taken_is_granted_again(side: Side, pair: Pair) -> None:
    """At a quarter of the window, and not before."""
    one = side.begun(pair[0])
    side.told()
    some = bytes(WINDOW // 8)
    assert side.told((DATA, 1, some), (DATA, 1, some[1:])) == []
    assert (one.granted, one.written) == (WINDOW - WINDOW // 4 + 1, WINDOW // 4 - 1)
    assert side.told((DATA, 1, b"x")) == [(CREDIT, 1, struct.pack("!I", WINDOW // 4))]
    assert (one.granted, one.written) == (WINDOW, 0)
    assert one.counts == {"sent": WINDOW // 4, "received": 0}
    assert received(pair[1], WINDOW // 4) == (some + some)[:-1] + b"x"


def test_a_socket_that_takes_no_more_is_written_later(side: Side, pair: Pair) -> None:
    """Meanwhile the program is read. All data comes, then the end, and nothing is granted again."""
    one = side.begun(pair[0])
    side.told()
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += pair[0].send(bytes(PIECE))
    data = os.urandom(PIECE)
    assert side.told((DATA, 1, data), (END, 1, b"")) == []
    assert (one.shut, one.got_all, bytes(one.out)) == (False, True, data)
    pair[1].sendall(b"from the program")
    assert side.told() == [(DATA, 1, b"from the program")]
    found = b""
    while piece := pair[1].recv(1 << 20):
        found += piece
        assert side.told() == []
    assert found == bytes(filled) + data
    assert (one.shut, one.events, side.connections) == (True, mux._READ, {1: one})


def test_a_connection_whose_halves_have_ended_is_forgotten(side: Side, pair: Pair) -> None:
    """Whichever half ended first; its program sees no reset."""
    side.begun(pair[0])
    side.told()
    pair[1].shutdown(socket.SHUT_WR)
    assert side.told() == [(END, 1, b"")]
    assert side.told((DATA, 1, b"bye")) == []
    assert 1 in side.connections
    assert side.told((END, 1, b"")) == []
    assert (side.connections, pair[1].recv(9), pair[1].recv(9)) == ({}, b"bye", b"")
    assert pair[0].fileno() == -1


@pytest.mark.parametrize("pair", ["tcp"], indirect=True)
@pytest.mark.parametrize("ended", [(), (END,), ("program",)], ids=["none", "ours", "its own"])
def test_a_reset_is_one_for_the_program(side: Side, pair: Pair, ended: tuple[object, ...]) -> None:
    """Also where one half had ended: the rest of the data is missing."""
    one = side.begun(pair[0])
    side.told()
    if END in ended:
        side.told((END, 1, b""))
        assert pair[1].recv(1) == b""
    if "program" in ended:
        pair[1].shutdown(socket.SHUT_WR)
        assert side.told() == [(END, 1, b"")]
    assert side.told((RESET, 1, b"")) == []
    assert (side.connections, one.sock, one.events) == ({}, None, 0)
    assert pair[1].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


@pytest.mark.parametrize("pair", ["unix"], indirect=True)
def test_a_unix_socket_that_is_closed_is_reset(side: Side, pair: Pair) -> None:
    """One half that ends is an end; a read shows the same for both."""
    side.begun(pair[0])
    side.told()
    pair[1].close()
    assert side.told() == [(RESET, 1, b"")]
    assert side.connections == {}


@pytest.mark.parametrize("pair", ["unix"], indirect=True)
def test_a_unix_socket_that_is_closed_at_the_end_has_ended(side: Side, pair: Pair) -> None:
    """The program was sent the end of the data before, and has nothing more to read."""
    side.begun(pair[0])
    assert side.told((END, 1, b"")) == [GRANT]
    pair[1].close()
    assert side.told() == [(END, 1, b"")]
    assert side.connections == {}


@pytest.mark.parametrize("pair", ["tcp"], indirect=True)
def test_a_program_that_resets_is_a_reset(side: Side, pair: Pair) -> None:
    """The other side gets one reset."""
    side.begun(pair[0])
    side.told()
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair[1].close()
    assert side.told() == [(RESET, 1, b"")]
    assert (side.connections, side.told()) == ({}, [])


def lies() -> dict[str, tuple[list[tuple[int, int, bytes]], str]]:
    """Frames that no peer sends on connection 1, the last of which is refused, and the error."""
    one = struct.pack("!I", 1)
    piece = bytes(PIECE)
    return {
        "data beyond the window": (
            [(DATA, 1, piece)] * 4 + [(DATA, 1, b"x")], "1 bytes too many of connection 1",
        ),
        "data after the end": ([(END, 1, b""), (DATA, 1, b"x")], "1 bytes too many of"),
        "nothing after the end": ([(END, 1, b""), (DATA, 1, b"")], "0 bytes too many of"),
        "a second end": ([(END, 1, b""), (END, 1, b"")], "0 bytes too many of"),
        "an end with data": ([(END, 1, b"x")], "1 bytes too many of"),
        "short credit": ([(CREDIT, 1, one[1:])], "3 bytes too many of"),
        "long credit": ([(CREDIT, 1, one + b"x")], "5 bytes too many of"),
        "a credit beyond the window": ([(CREDIT, 1, one)], f"credit of {WINDOW + 1} for conne"),
        "a connection that was never there": ([(RESET, 2, b"")], "for connection 2, which was"),
        "one that has no socket yet": ([(DATA, 1, b"")], "0 bytes too many of connection 1"),
        "an opening": ([(OPEN, 2, b"x")], "connection 2 is opened from outside: b'x'"),
        "another kind": ([(6, 1, b"")], "a frame of kind 6 and 0 bytes"),
        "a frame that is too long": ([(DATA, 1, bytes(PIECE + 1))], "kind 1 and 32769 bytes"),
    }  # fmt: skip


@pytest.mark.parametrize("lie", lies())
@pytest.mark.parametrize("pair", ["unix"], indirect=True)
def test_what_no_peer_sends_is_an_error(side: Side, pair: Pair, lie: str) -> None:
    """All before it is none: a window's data, credit that was used, and an end."""
    frames, words = lies()[lie]
    one = side.begun(pair[0])
    if "window" in lie:
        with contextlib.suppress(BlockingIOError):
            while True:
                pair[0].send(bytes(PIECE))
    if "no socket" in lie:
        one.sock = None
    assert side.told(*frames[:-1]) == [GRANT]
    with pytest.raises(MuxError) as found:
        side.told(frames[-1])
    assert words in str(found.value)
    one.sock = pair[0]


def test_frames_of_a_connection_that_is_gone_are_nothing(side: Side) -> None:
    """The peer did not know it yet. A question has no connection."""
    side.last = 2
    gone: list[tuple[int, int, bytes]] = [(kind, 2, b"") for kind in (DATA, END, RESET, CREDIT)]
    assert side.told(*gone, (SYNC, 0, b"")) == []
    assert side.asked == 1


@pytest.mark.parametrize("pair", ["unix"], indirect=True)
def test_frames_may_come_in_pieces(side: Side, pair: Pair) -> None:
    """Byte by byte, or several at once and a part of the next."""
    side.begun(pair[0])
    side.told()
    pair[1].setblocking(False)
    frame = HEAD.pack(DATA, 1, 5)
    for byte in frame + b"hello":
        assert pair[0].fileno() >= 0
        with pytest.raises(BlockingIOError):
            pair[1].recv(1, socket.MSG_DONTWAIT)
        side.other.sendall(bytes([byte]))
        assert side.told() == []
    side.other.sendall(frame + b"12345" + frame + b"67")
    assert side.told() == []
    side.other.sendall(b"890" + frame[:-1])
    assert side.told() == []
    side.other.sendall(frame[-1:] + b"abcde")
    assert side.told((SYNC, 0, b"")) == []
    assert (pair[1].recv(99), side.asked) == (b"hello1234567890abcde", 1)
    assert side._decoded == b""


def test_a_peer_that_reads_nothing_is_an_error(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that wait for the peer are bounded, and sent as the peer reads."""
    monkeypatch.setattr(mux, "MOST_OUT", 3_000_000)
    for _ in range(100):
        side.send(DATA, 1, bytes(PIECE))
    del side._out[3_000_000:]
    assert side.turn(0)
    assert side._waits == mux._READ | mux._WRITE
    got = 0
    while side._out:
        got += len(side.other.recv(1 << 20))
        assert side.turn(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            got += len(side.other.recv(1 << 20))
    assert got == 3_000_000
    assert side.turn(0)
    assert (side._waits, side.idle) == (mux._READ, True)
    side._out += bytes(3_000_001)
    with pytest.raises(MuxError, match="it reads no answer"):
        side.turn(0)
    side._out.clear()


def test_the_end_of_the_peer_is_the_end(side: Side, pair: Pair) -> None:
    """A turn says so, and what had come before is passed on."""
    side.begun(pair[0])
    side.other.sendall(HEAD.pack(DATA, 1, 5) + b"hello")
    assert side.told() == [GRANT]
    assert side.went_on
    assert side.idle
    side.other.close()
    side.told()
    assert (side.went_on, pair[1].recv(9)) == (False, b"hello")
    side.close()
    assert (side.connections, pair[0].fileno(), side.link.fileno()) == ({}, -1, -1)


@pytest.mark.parametrize("error", [BrokenPipeError, ConnectionResetError])
def test_what_the_peer_had_sent_before_its_end_is_read(error: type[OSError]) -> None:
    """The peer takes no more bytes, and nothing waits for it."""

    class Gone(socket.socket):
        def send(self, data: object, _flags: int = 0, /) -> int:
            del data  # else the traceback would keep it
            raise error

    side = Side(Gone)
    with side.other:
        side.send(SYNC, 0)
        assert side.told((SYNC, 0, b"")) == []
        assert (side.asked, side.went_on, bytes(side._out)) == (1, True, b"")
        side.close()


def test_a_link_that_is_only_writable_is_not_read(side: Side) -> None:
    """There is nothing to read, and that is no end."""
    side._on_link(mux._WRITE)
    assert side.told((SYNC, 0, b"")) == []
    assert side.asked == 1


def test_a_socket_that_another_one_has_closed_is_not_handled(side: Side) -> None:
    """Both were ready in the same turn."""
    calls = []
    ends = [socket.socketpair() for _ in range(2)]

    def act(at: int) -> Callable[[int], None]:
        def acting(_events: int) -> None:
            calls.append(at)
            side.unwatch(ends[1 - at][0])

        return acting

    with contextlib.ExitStack() as undo:
        for at, (ours, theirs) in enumerate(ends):
            undo.enter_context(ours)
            undo.enter_context(theirs).sendall(b"x")
            side.watch(ours, act(at))
        assert side.turn(0)
        assert not side.idle
        assert len(calls) == 1
        side.unwatch(ends[calls[0]][0])
