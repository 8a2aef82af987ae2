"""The reports of the sentry: read strictly and with limits, from any sender."""

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from typing import cast
from unittest.mock import Mock

import pytest

from pytest_gvisor.run import sentry as sentry_module
from pytest_gvisor.run.sentry import Listener
from pytest_gvisor.trace import points
from pytest_gvisor.trace.recorder import Recorder
from tests.fakes.events import field, message

HANDSHAKE = b"\x08\x01"
START, TASK_EXIT = 1, 5


def task_exit(status: int, *, process: int = 1, thread: int = 1) -> bytes:
    """The report of a thread's end."""
    context = field(2, thread) + field(4, process)
    return message(TASK_EXIT, field(1, context) + field(2, status))


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (field(1, field(2, 1) + field(4, 1)), 0),
        (field(1, field(2, 1) + field(4, 1)) + field(2, 9), 9),
        (field(1, field(2, 7) + field(4, 1)) + field(2, 3 << 8), 3 << 8),
        (field(1, field(2, 2) + field(4, 2)) + field(2, 3 << 8), None),
        (field(1, field(2, 1) + field(4, 1)) + field(2, 1 << 16), None),
        (field(1, b""), None),
    ],
)
def test_only_ends_of_the_first_process_count(payload: bytes, status: int | None) -> None:
    """Ends of any thread of the first process count, with a status that wait(2) could give."""
    assert sentry_module.exit_of_first_process(payload) == status


@pytest.mark.parametrize("payload", [b"", field(2, 0), field(1, 5), field(1, b"") + field(2, b"x")])
def test_a_report_of_another_shape_is_refused(payload: bytes) -> None:
    """A report without a context, or with a status that is no number, is refused."""
    with pytest.raises(ValueError, match="another shape"):
        sentry_module.exit_of_first_process(payload)


@pytest.fixture
def listener(base: str) -> Iterator[Listener]:
    """A listener without a connection."""
    made = Listener(base)
    yield made
    made.close()


@pytest.fixture
def sentry(listener: Listener) -> Iterator[socket.socket]:
    """The other end, connected, hands shaken."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(listener.endpoint)
        assert listener.on_readable()
        peer.send(HANDSHAKE)
        assert listener.on_readable()
        assert peer.recv(100) == HANDSHAKE
        yield peer


def test_a_listener_hears_the_start_and_the_end(listener: Listener, sentry: socket.socket) -> None:
    """The order of the ends is kept, and each status once, where it came last."""
    assert (listener.connected, listener.started) == (True, False)
    for data in (
        message(START, field(1, b"id")),
        task_exit(0, thread=1),
        task_exit(1 << 8, process=2),
        task_exit(7 << 8, thread=2),
        task_exit(0, thread=3),
        message(77, b"what is this"),
    ):
        sentry.send(data)
    assert listener.on_readable()
    assert listener.started
    assert listener.workload_statuses == (7 << 8, 0)
    assert listener.complete
    sentry.close()
    assert not listener.on_readable()


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (field(1, field(1, 1234)) + field(2, b"id"), 1234),
        (field(2, b"id"), None),
        (field(1, 7), None),
        (field(1, field(1, b"now")), None),
        (b"\xff", None),
    ],
)
def test_the_start_is_heard_with_and_without_its_time(
    listener: Listener, sentry: socket.socket, payload: bytes, told: int | None
) -> None:
    """A release that sends no time, or another shape, has started all the same."""
    sentry.send(message(START, payload))
    assert listener.on_readable()
    assert (listener.started, listener.started_at) == (True, told)
    assert listener.complete


def test_a_handshake_that_comes_with_the_connection_is_answered_at_once(listener: Listener) -> None:
    """runsc goes on only when it has the answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as ours:
        ours.connect(listener.endpoint)
        ours.send(HANDSHAKE)
        assert listener.on_readable()
        assert listener.greeted
        assert ours.recv(100, socket.MSG_DONTWAIT) == HANDSHAKE


def test_nobody_there_is_no_end(listener: Listener) -> None:
    """A wake-up for nothing changes nothing."""
    before = listener.fileno()
    assert listener.on_readable()
    assert (listener.fileno(), listener.connected) == (before, False)


def test_the_descriptor_to_wait_on_is_the_sentry_s_once_it_is_there(
    listener: Listener, sentry: socket.socket
) -> None:
    """The descriptor is the listening socket's until the sentry connects."""
    sentry.send(message(START))
    assert select.select([listener], [], [], 5) == ([listener], [], [])


@pytest.mark.parametrize(
    "garbage", [b"\x00", b"\x08\x00\x05\x00", message(TASK_EXIT, b"\xff"), message(TASK_EXIT)]
)
def test_garbage_breaks_the_connection_for_good(
    listener: Listener, sentry: socket.socket, garbage: bytes
) -> None:
    """Messages before the garbage count, later ones do not, and the sentry is not kept waiting."""
    sentry.send(message(START))
    sentry.send(garbage)
    sentry.send(task_exit(0))
    assert not listener.on_readable()
    assert listener.broken
    assert not listener.complete
    assert listener.started
    listener.drain()
    assert listener.workload_statuses == ()
    with pytest.raises(BrokenPipeError):
        sentry.send(task_exit(0))


@pytest.mark.fault("G6")
def test_an_event_that_there_is_no_memory_for_breaks_the_connection(
    listener: Listener, sentry: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event is lost, so a trace has a gap, and no later event closes it."""
    monkeypatch.setattr(listener, "_take", Mock(side_effect=MemoryError))
    sentry.send(message(START))
    assert not listener.on_readable()
    assert listener.broken
    with pytest.raises(BrokenPipeError):
        sentry.send(task_exit(0))


@pytest.mark.parametrize("starts", [False, True])
def test_a_second_handshake_is_not_answered(
    listener: Listener, sentry: socket.socket, *, starts: bool
) -> None:
    """A second handshake at any time breaks the connection."""
    if starts:
        sentry.send(message(START))
    sentry.send(HANDSHAKE)
    sentry.send(task_exit(0))
    assert not listener.on_readable()
    assert (listener.broken, listener.started) == (True, starts)
    assert listener.workload_statuses == ()
    assert sentry.recv(100) == b""


def test_dropped_messages_are_known(listener: Listener, sentry: socket.socket) -> None:
    """The header of a later message counts them."""
    sentry.send(message(77, dropped=3))
    assert listener.on_readable()
    assert listener.dropped == 3
    assert not listener.complete


def test_a_flood_does_not_keep_the_listener(listener: Listener, sentry: socket.socket) -> None:
    """One call takes a bounded number of messages; `drain` takes all that there are."""
    sentry.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sentry.send(task_exit(sent))
            sent += 1
    assert sent > 100
    assert listener.on_readable()
    assert len(listener.workload_statuses) < sent
    listener.drain()
    assert len(listener.workload_statuses) == sent


def test_a_flood_that_never_stops_is_not_taken_for_ever(
    listener: Listener, sentry: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drain has a time limit, because the run has a deadline and the sentry may be hostile."""
    monkeypatch.setattr(sentry_module, "_DRAIN_SECONDS", 0.1)
    taken = listener._take

    def take(data: bytes) -> None:
        sentry.send(task_exit(0, process=2))
        taken(data)

    monkeypatch.setattr(listener, "_take", take)
    sentry.send(task_exit(0, process=2))
    before = time.thread_time()
    listener.drain()
    assert 0.1 <= time.thread_time() - before < 0.5
    assert listener.complete


def test_a_report_that_is_longer_than_any_is_refused(
    listener: Listener, sentry: socket.socket
) -> None:
    """An oversized report is refused, since gVisor sends none and reading takes long."""
    sentry.send(message(TASK_EXIT, field(1, field(4, 1)) + field(9, 1) * 5000))
    assert not listener.on_readable()
    assert listener.broken


@pytest.mark.parametrize(("size", "broken"), [(-1, False), (0, True), (1000, True)])
def test_a_message_that_may_have_been_cut_is_refused(
    listener: Listener, sentry: socket.socket, size: int, *, broken: bool
) -> None:
    """The kernel leaves out the rest of a message that is longer than its reader's buffer."""
    sentry.send(message(77, bytes(64 * 1024 - 8 + size)))
    listener.on_readable()
    assert listener.broken == broken


def test_a_traced_run_takes_longer_messages_and_more_kinds(base: str) -> None:
    """Each message goes to the recorder, the usual ones too."""
    taken: list[tuple[int, int]] = []

    class Took:
        """A recorder."""

        session = staticmethod(points.session)

        def take(self, kind: int, payload: bytes) -> None:
            """Note it."""
            taken.append((kind, len(payload)))

    listener = Listener(base, cast("Recorder", Took()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(listener.endpoint)
        for data in (HANDSHAKE, message(START), message(8, bytes(100_000)), task_exit(0)):
            peer.send(data)
        assert listener.on_readable()
    listener.close()
    assert [kind for kind, _ in taken] == [START, 8, TASK_EXIT]
    assert taken[1][1] == 100_000
    assert (listener.complete, listener.workload_statuses) == (True, (0,))


def test_a_folder_that_is_not_there_leaves_no_descriptor(base: str) -> None:
    """The socket is closed again when it cannot be bound."""
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        Listener(f"{base}/nowhere")
    assert set(os.listdir("/proc/self/fd")) == before
