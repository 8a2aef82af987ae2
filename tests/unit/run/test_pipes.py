"""The streams of a run: written, read and closed once, and none left where they cannot be made."""

import contextlib
import errno
import fcntl
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_gvisor.run.capture import Capture, Drain
from pytest_gvisor.run.pipes import Feed, Pipes, Streams
from pytest_gvisor.run.terminal import Terminal, TerminalPipes

Ends = tuple[int, int]
Kind = Callable[[int], Pipes]


def at_terminal(max_output: int) -> Pipes:
    """The streams of a run at a terminal that has hung up."""
    return TerminalPipes(Terminal(keys=0, screen=0), max_output)


@pytest.fixture
def pipe() -> Iterator[Ends]:
    """A pipe: where it is read, and where it is written."""
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):  # a test may have closed it
            os.close(fd)


@pytest.mark.parametrize("data", [None, b"", [], [b"", b"", b""]])
def test_an_input_of_nothing_is_at_its_end(pipe: Ends, data: Any) -> None:
    """An empty input ends at once, or after one turn for each empty piece."""
    feed = Feed(pipe[1], data)
    turns = list(itertools.takewhile(bool, (feed.write() for _ in range(10))))
    assert len(turns) < 10


def test_an_input_is_written_as_it_is_taken(pipe: Ends) -> None:
    """A full pipe is no error, nothing is lost, and no piece is asked for before it is needed."""
    reader, writer = pipe
    asked: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(3):
            asked.append(number)
            yield bytes([number]) * 100_000

    feed = Feed(writer, pieces())
    for _ in range(5):
        assert feed.write()
    assert asked == [0]
    read = b""
    while feed.write():
        read += os.read(reader, 2**20)
    assert read == b"".join(bytes([number]) * 100_000 for number in range(3))


def test_a_workload_that_closes_its_input_ends_the_feeding(pipe: Ends) -> None:
    """A workload may close its input without an error."""
    os.close(pipe[0])
    assert not Feed(pipe[1], b"x").write()


def test_pipes_are_closed_once() -> None:
    """Both ends of three pipes are closed, also after the hand-over."""
    before = set(os.listdir("/proc/self/fd"))
    pipes = Pipes(10)
    assert len(set(os.listdir("/proc/self/fd")) - before) == 6
    pipes.hand_over()
    assert len(set(os.listdir("/proc/self/fd")) - before) == 3
    pipes.close()
    pipes.close()
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("kind", "call", "allowed"),
    [
        *((Pipes, "pipe2", number) for number in range(3)),
        *((Streams, "dup", number) for number in range(3)),
        (Streams, "pipe2", 0),
        (at_terminal, "openpty", 0),
        *((at_terminal, "dup", number) for number in range(3)),
    ],
)
def test_streams_that_cannot_be_made_leave_none(
    monkeypatch: pytest.MonkeyPatch, kind: Kind, call: str, allowed: int
) -> None:
    """A shortage at any of the calls that make them."""
    before = set(os.listdir("/proc/self/fd"))
    real = getattr(os, call)
    made: list[object] = []

    def refuse(*arguments: Any) -> Any:
        if len(made) == allowed:
            raise OSError(errno.EMFILE, "Too many open files")
        made.append(arguments)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(OSError, match="Too many"):
            kind(10)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_socket_is_read_and_written_by_its_owner() -> None:
    """The socket is the workload's input; the run waits for one pipe, of its output."""
    with contextlib.closing(Streams(10)) as streams:
        stdin, stdout, stderr = streams.theirs
        watched: list[int] = []
        streams.watch(lambda fd, _event, _act: watched.append(fd))
        assert watched == [streams.drains[0].fd]
        os.write(streams.socket, b"in")
        os.write(stdin, b"back")
        os.write(stdout, b"out")
        os.write(stderr, b"err")
        assert (os.read(stdin, 9), os.read(streams.socket, 9)) == (b"in", b"back")
        streams.drains[0].read()
        assert (streams.stdout.data(), streams.stderr.data()) == (b"", b"outerr")


def test_only_our_ends_are_ended() -> None:
    """A descriptor of someone else's is left open."""
    reader, writer = os.pipe()
    with contextlib.closing(Pipes(10)) as pipes, open(reader, "rb"), open(writer, "wb"):
        pipes.end(writer)
        os.fstat(writer)
        ended = pipes.ours[0]
        pipes.end(ended)
        assert ended not in pipes.ours
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(ended)


@pytest.mark.parametrize("kind", [Pipes, Streams, at_terminal])
def test_a_descriptor_is_not_closed_twice(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C during the close must not close a number that another file has by then."""
    pipes, real = kind(10), os.close
    closed: list[int] = []

    def close(fd: int) -> None:
        closed.append(fd)
        real(fd)
        if len(closed) in (1, 3):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close)
        for act in (pipes.hand_over, pipes.close):
            with pytest.raises(KeyboardInterrupt):
                act()
        pipes.close()
    assert len(closed) == len(set(closed)) >= 5


def test_a_writer_that_never_stops_is_not_read_for_ever(pipe: Ends) -> None:
    """The last read takes at most the size of the pipe."""
    reader, writer = pipe
    os.set_blocking(writer, False)
    capture = Capture(0)

    class Endless(Drain):
        def read(self) -> bool:
            os.write(writer, b"x" * 4096)
            return super().read()

    Endless(reader, capture).rest()
    assert 0 < capture.total <= 2 * fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ)
