"""Events of a warm sandbox become the traces of its programs, each with its own processes."""

import os
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.base.traced import Trace
from pytest_gvisor.trace import points, programs
from pytest_gvisor.trace.programs import Programs
from tests.fakes import events
from tests.fakes.events import field

KNOWN = {
    one.name: one.context + one.optional
    for one in [*points.USUAL, *points.wanted(points._CALLS["x86_64"])]
}


@pytest.fixture(autouse=True)
def on_x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The events below have that machine's numbers of system calls."""
    monkeypatch.setattr(points, "calls", lambda: points._CALLS["x86_64"])


def made(*messages: tuple[int, bytes]) -> Programs:
    """The programs of a sandbox that has sent these messages."""
    found = Programs(KNOWN, "20260905.0")
    for kind, payload in messages:
        found.take(kind, payload)
    return found


def opened(path: str, process: int) -> tuple[int, bytes]:
    """An open by a process."""
    return 7, events.opened(path.encode(), os.O_RDONLY, process=process)


def ended(process: int, thread: int = 0) -> tuple[int, bytes]:
    """The end of a thread of a process."""
    return 5, events.context(process, thread)


def executed(process: int) -> tuple[int, bytes]:
    """The end of an execve that succeeds."""
    return 3, events.executed([b"x"], b"/x", process)


def cut(found: Programs, pid: int, *, dropped: int = 0) -> Trace:
    """The trace of a program that is asked for now."""
    recorder = found.claim(pid)
    assert recorder is not None
    return found.cut(recorder, dropped=dropped, broken=False)


def read(trace: Trace) -> list[str]:
    """The files of a trace."""
    return [one.path for one in trace.files]


def test_an_event_is_of_the_program_whose_process_came_of_the_guest() -> None:
    """The guest's own events, and those of a process that nobody knows, are of none."""
    found = made(
        (2, events.cloned(7)), opened("/a", 7), (2, events.cloned(8, 7)), opened("/guest", 1),
        (2, events.cloned(9)), opened("/b", 9), opened("/of-8", 8), opened("/unknown", 99),
        ended(8), ended(7),
    )  # fmt: skip
    first, second = cut(found, 7), cut(found, 9)
    assert (read(first), first.complete) == (["/a", "/of-8"], True)
    assert read(second) == ["/b"]
    assert second.gaps == ("the end of the first process was not seen",)


THREAD = (2, field(1, field(2, 7) + field(4, 7)) + field(3, 8) + field(4, 7))
CHILD = (2, events.cloned(8, 7))
ITS_THREAD = (2, events.cloned(8, 8))
RUNS = "1 of its processes had not ended"


@pytest.mark.parametrize(
    ("messages", "gaps"),
    [
        ([ended(7)], ()),
        ([CHILD, ended(7)], (RUNS,)),
        ([THREAD, ended(7)], ("the end of the first process was not seen",)),
        ([THREAD, ended(7), ended(7, 8)], ()),
        ([CHILD, ended(8), CHILD, ended(7)], (RUNS,)),
        ([THREAD, executed(7), ended(7), ended(7)], ()),
        ([THREAD, executed(7), ended(7)], ("the end of the first process was not seen",)),
        ([CHILD, ITS_THREAD, ITS_THREAD, executed(8), ended(8, 9), ended(8), ended(7)], (RUNS,)),
    ],
    ids=[
        "ended", "a child", "a thread", "both threads", "a child of the same number",
        "a thread executes", "a thread has executed", "a thread of a child has executed",
    ],
)  # fmt: skip
def test_a_program_has_ended_with_the_last_thread_of_each_process(
    messages: list[tuple[int, bytes]], gaps: tuple[str, ...]
) -> None:
    """Any that runs on may do more than its trace says.

    A thread that executes ends all others after its event, and takes the number of the process.
    """
    assert cut(made((2, events.cloned(7)), *messages), 7).gaps == gaps


def test_a_program_whose_start_was_dropped_is_not_complete() -> None:
    """And a drop since its start counts, whoever's event it was."""
    assert cut(made(opened("/a", 7)), 7).gaps == ("the end of the first process was not seen",)
    assert "1 events were dropped" in cut(made((2, events.cloned(7)), ended(7)), 7, dropped=1).gaps


def test_what_runs_on_after_its_program_is_in_no_trace() -> None:
    """Nor is a program whose trace nobody wants, or that could not be started."""
    found = made((2, events.cloned(6)), (2, events.cloned(7)), (2, events.cloned(8, 7)), ended(7))
    cut(found, 7)
    found.take(*opened("/later", 8))
    found.take(*opened("/refused", 6))
    found.take(2, events.cloned(9))
    assert found.claim(9, wanted=False) is None
    found.take(*opened("/unwanted", 9))
    assert found._size == 0
    assert not found._new


def test_a_number_that_comes_again_is_of_the_new_process() -> None:
    """Numbers of processes are used again when all have been."""
    found = made((2, events.cloned(7)), ended(7))
    cut(found, 7)
    for message in ((2, events.cloned(7)), opened("/b", 7), ended(7)):
        found.take(*message)
    assert read(cut(found, 7)) == ["/b"]


def test_what_a_hostile_sentry_sends_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes, in programs that nobody has asked for, and in all together."""
    monkeypatch.setattr(programs, "MAX_KEPT", 50)
    monkeypatch.setattr(programs, "_MAX_NEW", 10)
    monkeypatch.setattr(programs, "_MAX_SIZE", 1000)
    found = made(*((2, events.cloned(n)) for n in range(2, 50)))
    assert len(found._new) == 10
    for n in range(100):
        found.take(*opened(f"/{n}", 48))
        found.take(*opened(f"/{n}", 49))
    assert found._size < 1500
    assert "had no room" in cut(found, 49).gaps[1]
    found.take(2, events.cloned(50))
    found.take(2, events.cloned(51))
    with pytest.raises(ValueError, match="more processes"):
        found.take(2, events.cloned(52))


FIELDS = st.lists(
    st.tuples(
        st.integers(1, 10), st.integers(0, 20) | st.binary(max_size=9) | st.just(field(4, 1))
    ).map(lambda pair: field(*pair)),
    max_size=6,
).map(b"".join)


@given(st.lists(st.tuples(st.integers(0, 40), FIELDS), max_size=20))
def test_any_messages_are_traces_or_a_value_error(messages: list[tuple[int, Any]]) -> None:
    """And the sum of all that is kept goes back to nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "calls", lambda: points._CALLS["x86_64"])
        found = Programs(KNOWN, "20260905.0")
    for kind, payload in messages:
        try:
            found.take(kind, payload)
        except ValueError:
            break
    for pid in list(found._new):
        str(cut(found, pid))
    assert found._size == 0


SENDS, RECEIVES, GETS = ((6, events.context(3) + field(4, number)) for number in (46, 47, 438))
"""sendmsg(2), recvmsg(2) and pidfd_getfd(2) of process 3."""


def made_socket(kind: socket.SocketKind) -> tuple[int, bytes]:
    """A socket of process 2."""
    return 12, events.made_socket(socket.AF_INET, kind, 5, process=2)


@pytest.mark.parametrize(
    ("messages", "count"),
    [
        ([made_socket(socket.SOCK_DGRAM), RECEIVES, SENDS], 1),
        ([RECEIVES, made_socket(socket.SOCK_DGRAM), SENDS], 1),
        ([made_socket(socket.SOCK_DGRAM), GETS, SENDS], 1),
        ([made_socket(socket.SOCK_DGRAM), SENDS], 0),
        ([GETS, SENDS], 1),
        ([RECEIVES, SENDS], 0),
        ([made_socket(socket.SOCK_STREAM), RECEIVES, SENDS], 0),
        ([(6, events.context(9) + field(4, 46)), RECEIVES, SENDS], 1),
    ],
    ids=[
        "received",
        "waits first",
        "taken",
        "none received",
        "taken of a copy",
        "of no other",
        "of streams",
        "of a copy",
    ],
)
def test_a_received_socket_may_send_datagrams(
    messages: list[tuple[int, bytes]], count: int
) -> None:
    """If another program has made such a socket, or a process runs on in a copy."""
    found = made(*[(2, events.cloned(pid)) for pid in (2, 3)], *messages)
    assert found.claim(2, wanted=False) is None
    assert cut(found, 3).datagrams == count
