"""A recorder holds and keeps no more than its bounds, and a trace with a gap says so."""

import contextlib
import errno
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.base.errors import TraceError
from pytest_gvisor.trace import points, recorder
from pytest_gvisor.trace.events import TEXT, parsed
from pytest_gvisor.trace.recorder import Recorder
from tests.fakes import events
from tests.fakes.events import field
from tests.unit.trace.recorded import (
    NEW,
    READ,
    made,
    on_x86_64,  # noqa: F401 -- a fixture
)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"dropped": 3}, "3 events were dropped"),
        ({"broken": True}, "no event"),
        ({"ended": False}, "the end of the first process was not seen"),
        ({"cut": True}, "the strace was too long"),
    ],
)
def test_a_trace_with_a_gap_says_so(more: dict[str, Any], words: str) -> None:
    """Such a trace is not complete, and its check is an error."""
    trace = made((7, events.opened(b"/f", READ)), **more)
    assert not trace.complete
    assert words in repr(trace)
    assert trace.dropped == more.get("dropped", 0)
    with pytest.raises(TraceError, match=words):
        trace.check()


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_KEPT", 20), ("MAX_BYTES", 1200)], ids=["entries", "bytes"]
)
def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    """A hostile sentry may send anything for ever; the trace then says that it is not complete."""
    monkeypatch.setattr(recorder, limit, value)
    one = Recorder(NEW, "20260905.0")
    for number in range(100):
        path = b"/%03d" % number
        one.take(7, events.opened(path, READ, number, process=number + 1))
        one.take(8, events.closed(7, path + b"x", process=number + 1))
        one.take(2, events.cloned(number + 2))
        one.take(3, events.executed([path], path, number))
        one.take(10, events.on_socket(b"\x01\0" + path, number))
        one.take(12, events.made_socket(2, 1, number, process=number))
        one.take(6, events.raw(number))
        one.take(11, events.tried([path], path, number, number=1000 + number))
    held = sum(map(len, one._descriptors.values()))
    assert held == one._held <= recorder.MAX_KEPT
    trace = one.trace(dropped=0, broken=False, ended=True)
    kept = [*trace.files, *trace.executed, *trace.attempts, *trace.connections]
    kept += trace.processes[1:]
    assert 0 < len(kept) == one._kept <= recorder.MAX_KEPT
    assert len(one.pending) + len(one._unnamed) < 20
    assert "had no room" in trace.gaps[0]
    assert trace.dropped > 100


def test_a_connect_that_has_ended_takes_the_room_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may try each port of a machine."""
    monkeypatch.setattr(recorder, "MAX_KEPT", 10)
    one = Recorder(NEW, "20260905.0")
    for number in range(10):
        path = b"\x01\0/%d" % number
        one.take(10, events.context() + events.field(3, 42) + events.field(6, path))
        one.take(10, events.on_socket(path, 5))
    trace = one.trace(dropped=0, broken=False, ended=True)
    assert (trace.complete, len(trace.connections), one._kept) == (True, 10, 10)


def test_the_bounds_are_those_of_the_page() -> None:
    """docs/trace.md has them."""
    assert (recorder.MAX_KEPT, recorder.MAX_BYTES, TEXT) == (100_000, 67_108_864, 60)
    one = Recorder(NEW, "20260905.0")
    for _ in range(2):
        one.act(7, parsed(7, payload := events.opened(b"/f", READ)), payload, room=False)
    trace = one.trace(dropped=1, broken=False, ended=True)
    assert (trace.files, trace.dropped, trace.gaps[1]) == ((), 3, (
        "2 events had no room: a trace has 100000 different entries, and 64 MiB of text"
    ))  # fmt: skip


def test_many_short_arguments_have_the_size_that_they_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such texts take many times the memory of their characters. So do texts of wide ones."""
    monkeypatch.setattr(recorder, "MAX_BYTES", 10_000)
    assert made((3, events.executed([b"ab"] * 150, b"/x", 1))).complete
    assert not made((3, events.executed([b""] * 170, b"/x", 1))).complete
    assert made((7, events.opened(b"/" + b"x" * 9000, READ))).complete
    assert not made((7, events.opened(b"/\xf0\x9f\x8e\x84" + b"x" * 3000, READ))).complete


def test_a_process_that_executes_nothing_has_little_of_long_arguments() -> None:
    """The parent has all of them, and each child has them if they are few."""
    for argv, shown in (
        ([b"ab"] * 100, ("ab",) * 100), ([b"ab"] * 101, (*["ab"] * 5, "…")),
        ([b"x" * 4096], ("x" * 4096,)), ([b"x" * 4097, b"y"], ("x" * 60, "y", "…")),
    ):  # fmt: skip
        trace = made((3, events.executed(argv, b"/x", 1)), (2, events.cloned(2)))
        assert [one.command for one in trace.processes] == [trace.executed[0].argv, shown]


def test_a_descriptor_without_room_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """So is a call whose event with texts may be missing."""
    monkeypatch.setattr(recorder, "MAX_KEPT", 2)
    stream = [(12, events.made_socket(socket.AF_INET, socket.SOCK_STREAM, fd)) for fd in (3, 4, 5)]
    assert made(*stream[:2], *stream[:2]).dropped == 0
    assert made(*stream).dropped == 1
    raw = [(6, events.raw(257, thread=thread)) for thread in (1, 2, 3)]
    assert made(*raw[:2]).dropped == 0
    assert made(*raw).dropped == 1


def test_a_text_that_fills_the_room_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """One character more has no room, and is one event."""
    monkeypatch.setattr(recorder, "MAX_BYTES", TEXT + len("/f"))
    assert made((7, events.opened(b"/f", READ))).complete
    assert made((7, events.opened(b"/ff", READ))).dropped == 1


def test_all_that_is_held_has_a_size() -> None:
    """Descriptors, calls whose events with texts come next, and changes with their errors."""
    one, sizes = Recorder(NEW, "20260905.0"), [0]
    for kind, payload in (
        (12, events.made_socket(socket.AF_INET, socket.SOCK_STREAM, 5)), (6, events.raw(257)),
        (6, events.raw(87, error=errno.ENOENT)), (2, events.cloned(2)),
    ):  # fmt: skip
        one.take(kind, payload)
        sizes.append(one.size)
    assert sizes == [0, 100, 200, 300 + 2 * TEXT + len("unlinkENOENT"), sizes[3] + 100]


def test_a_program_has_ended_when_the_last_thread_of_its_first_process_has() -> None:
    """Its other processes with a thread run on. A process that nobody has made is not counted."""
    one = Recorder(NEW, "20260905.0", 2)
    found = [one.ends()]
    thread = events.context(3) + field(3, 4) + field(4, 3)
    for kind, payload in (
        (2, events.cloned(2)), (2, events.cloned(3, process=2)), (2, thread),
        (5, events.context(3, 4)), (5, events.context(2)), (5, events.context(9)),
        (5, events.context(3)),
    ):  # fmt: skip
        one.act(kind, parsed(kind, payload), payload)
        found.append(one.ends())
    assert found == [
        (False, 0), (False, 0), (False, 1), (False, 1), (False, 1), (True, 1), (True, 1), (True, 0),
    ]  # fmt: skip


def test_an_attempt_that_ends_well_takes_no_room() -> None:
    """Its path is that of the folder whose descriptor execveat(2) had."""
    one = Recorder(NEW, "20260905.0")
    one.take(3, events.executed([b"x"], b"/bin/x", 1))
    size, kept = one.size, one._kept
    one.take(11, events.tried([b"x"], b"x", 1) + field(5, b"/opt"))
    one.take(11, events.tried([b"x"], b"/bin/x", 1))
    (first, second) = one.trace(dropped=0, broken=False, ended=True).attempts
    assert (first.program, second.program) == ("/opt/x", "/bin/x")
    one.take(3, events.executed([b"x"], b"/bin/x", 1))
    assert (one._kept, one.size) == (2 * kept, 2 * size + len("/bin/x"))


def test_processes_that_nobody_has_made_leave_nothing() -> None:
    """A hostile sentry may name ever new ones."""
    one = Recorder(NEW, "20260905.0")
    for process in range(2, 100):
        one.take(7, events.opened(b"/f", READ, process=process))
        one.take(8, events.closed(3, b"/f", process=process))
        one.take(3, events.executed([b"x"], b"/x", process))
    assert (one._descriptors, dict(one._threads)) == ({}, {})


def test_an_exit_forgets_the_descriptors_of_a_process() -> None:
    """The end of its main thread is one; that of another thread is none."""
    one = Recorder(NEW, "20260905.0")
    one.take(7, events.opened(b"/f", READ, process=2))
    one.take(5, events.context(process=2, thread=3))
    assert one._held == 1
    one.take(5, events.context(process=2))
    assert (one._held, one._descriptors) == (0, {})


KINDS = st.sampled_from([1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 24, 37, 77])


parts = st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=40))


values = st.dictionaries(st.integers(1, 12), st.one_of(parts, parts.map(lambda one: field(1, one))))


@given(st.lists(st.tuples(KINDS, st.one_of(st.binary(max_size=200), values.map(
    lambda found: b"".join(field(*one) for one in found.items()))))))  # fmt: skip
def test_any_messages_are_a_trace_or_a_value_error(messages: list[tuple[int, bytes]]) -> None:
    """And the trace can be shown, with nothing in it that moves a cursor."""
    numbers = points._CALLS["x86_64"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "calls", lambda: numbers)
        one = Recorder(NEW, "20260905.0")
    for kind, payload in messages:
        with contextlib.suppress(ValueError):
            one.take(kind, payload)
    trace = one.trace(dropped=0, broken=False, ended=True)
    assert all(line.isprintable() for line in f"{trace}\n{trace!r}".split("\n"))
