"""Events become a trace: folded, bounded, and whole or with gaps that it names."""

import errno
import json
import os
import socket
import struct
from typing import Any

import pytest

from pytest_gvisor.base.errors import TraceError
from pytest_gvisor.base.traced import (
    Command,
    Connection,
    File,
    ListeningSocket,
    TracedProcess,
)
from pytest_gvisor.guest.tests.gate import COLLECTS
from pytest_gvisor.trace import points
from pytest_gvisor.trace.events import TEXT
from pytest_gvisor.trace.points import MOUNTS
from pytest_gvisor.trace.recorder import Recorder
from tests.fakes import events
from tests.fakes.events import field
from tests.unit.trace.recorded import (
    BOTH,
    NEW,
    OLD,
    READ,
    WRITE,
    made,
    on_x86_64,  # noqa: F401 -- a fixture
    renamed,
)


def internet(address: str, port: int) -> bytes:
    """A sockaddr_in."""
    return struct.pack("<H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(address)


@pytest.mark.parametrize(
    ("path", "more", "whole"),
    [
        (b"/a/b", {}, "/a/b"), (b"b", {}, "/here/b"), (b"../b//c/.", {}, "/b/c"),
        (b"/..//a", {}, "/a"), (b"//a", {}, "/a"), (b"b", {"folder": b"/x"}, "/x/b"),
        (b"/a", {"folder": b"/x"}, "/a"), (b".", {"cwd": b"/"}, "/"),
    ],
)  # fmt: skip
def test_a_path_is_made_whole(path: bytes, more: dict[str, Any], whole: str) -> None:
    """From the folder whose descriptor the call had, or from the current one."""
    trace = made((7, events.opened(path, READ, **more)))
    assert [one.path for one in trace.files] == [whole]


@pytest.mark.parametrize(
    ("flags", "ways"),
    [
        (READ, {"read"}),
        (os.O_WRONLY, {"written"}),
        (BOTH, {"read", "written"}),
        (WRITE, {"written", "created"}),
        (READ | os.O_TRUNC, {"read", "written"}),
        (READ | os.O_DIRECTORY, {"listed"}),
        (os.O_TMPFILE | os.O_RDWR, {"read", "written"}),
        (os.O_PATH, set()),
    ],
)
def test_a_file_has_the_ways_in_which_it_was_opened(flags: int, ways: set[str]) -> None:
    """By the flags of the call; a folder that is listed and O_PATH are neither."""
    (one,) = made((7, events.opened(b"/f", flags))).files
    assert {name for name in ("read", "written", "listed", "created") if getattr(one, name)} == ways


def test_creat_has_no_flags() -> None:
    """The call itself creates, empties and writes."""
    trace = made((6, events.raw(85)), (7, events.opened(b"/f", 0, number=85)))
    (one,) = trace.files
    assert trace.complete
    assert (one.read, one.written, one.created) == (False, True, True)


def test_equal_opens_are_one_file() -> None:
    """A set of paths, not a list of opens; the first process that opened it so is named."""
    trace = made(
        *[(7, events.opened(b"/f", READ, process=2)), (7, events.opened(b"/f", READ, 4))] * 50,
        (7, events.opened(b"/f", READ, error=errno.EACCES)),
        (7, events.opened(b"/f", os.O_WRONLY)),
    )
    assert [(one.read, one.error, one.process) for one in trace.files] == [
        (True, "", 2), (True, "EACCES", 1), (False, "", 1),
    ]  # fmt: skip
    assert trace.read == trace.written == {"/f"}


@pytest.mark.parametrize("path", [b"/f", b"/f (deleted)"])
def test_a_close_with_the_same_path_confirms(path: bytes) -> None:
    """The file may have been removed meanwhile."""
    trace = made((7, events.opened(b"/f", READ)), (8, events.closed(3, path)))
    assert trace.files == (File(path="/f", read=True, written=False, confirmed=True),)


def test_a_close_with_another_path_is_a_file_more() -> None:
    """A link, or a lie: the name that the call had is kept, and the path that was opened added."""
    trace = made((7, events.opened(b"/link", WRITE)), (8, events.closed(3, b"/real")))
    assert [(one.path, one.written, one.confirmed) for one in trace.files] == [
        ("/link", True, True), ("/real", True, True),
    ]  # fmt: skip


def test_each_open_has_to_be_closed() -> None:
    """A descriptor that is left open is not confirmed by another's close, nor by a child's."""
    again = [(7, events.opened(b"/f", READ)), (7, events.opened(b"/f", READ, 4))]
    (one,) = made(*again, (2, events.cloned(2)), (8, events.closed(3, b"/f")),
                  (8, events.closed(4, b"/f", process=2))).files  # fmt: skip
    assert not one.confirmed
    (one,) = made(*again, (8, events.closed(3, b"/f")), (8, events.closed(4, b"/f"))).files
    assert one.confirmed


def test_a_child_closes_its_parent_s_descriptor() -> None:
    """The path that the sentry tells there has the ways in which the parent opened it."""
    trace = made(
        (7, events.opened(b"/link", READ)),
        (2, events.cloned(2)),
        (2, events.cloned(3, process=2)),
        (8, events.closed(3, b"/real", process=3)),
    )
    assert trace.read == {"/link", "/real"}
    assert not trace.written


def test_a_descriptor_from_nowhere_may_have_been_read_and_written() -> None:
    """Nothing tells how a file was opened that came by openat2, or that was duplicated."""
    trace = made((8, events.closed(9, b"/real")), (8, events.closed(8, b"/real")))
    assert trace.read == trace.written == {"/real"}
    failed = (7, events.opened(b"/real", READ, error=errno.EACCES))
    assert made(failed, (8, events.closed(9, b"/real"))).written == {"/real"}


def test_a_close_of_a_file_that_is_known_adds_none() -> None:
    """The descriptor was duplicated or inherited, and the file may have been removed meanwhile."""
    opened = (7, events.opened(b"/f", READ))
    trace = made(
        opened,
        (2, events.cloned(2)),
        (8, events.closed(9, b"/f")),
        (8, events.closed(8, b"/f (deleted)")),
        (8, events.closed(3, b"/f (deleted)", process=2)),
    )
    assert [(one.path, one.written) for one in trace.files] == [("/f", False)]


def test_a_process_inherits_of_those_that_made_it_alone() -> None:
    """A process that nobody has made has no descriptors of the first one."""
    opened = (7, events.opened(b"/link", READ))
    trace = made(opened, (8, events.closed(3, b"/real", process=9)))
    assert trace.written == {"/real"}


@pytest.mark.parametrize(
    "path",
    [
        b"pipe:[1]",
        b"socket:[3]",
        b"host:[2]",
        b"/memfd:x (deleted)",
        b"/memfd:x",
        b"/x (deleted)",
        b"",
    ],
)
def test_what_is_no_file_is_none(path: bytes) -> None:
    """Pipes, sockets, files in memory, and descriptors that are closed twice."""
    assert made((8, events.closed(3, path))).files == ()


def test_calls_that_change_files_are_counted_at_their_end() -> None:
    """The same call of a process, with the same error, is one. No path is known."""
    begins = events.context(2) + field(4, 87)
    ends = events.context(2) + events.ended() + field(4, 87)
    trace = made(
        (2, events.cloned(2)), (6, begins), (6, ends), (6, begins), (6, ends),
        (6, events.raw(263, error=errno.ENOENT)), (6, events.raw(1)),
    )  # fmt: skip
    assert [str(one) for one in trace.changes] == [
        "called 2x: unlink", "called 1x: unlinkat (ENOENT)",
    ]  # fmt: skip
    assert [one.process for one in trace.changes] == [2, 1]
    assert (trace.complete, trace.files, trace.unverified) == (True, (), ())


@pytest.mark.parametrize("number", [155, 165, 308, 428, 429, 432])
def test_a_mount_that_succeeds_is_a_gap(number: int) -> None:
    """Files may have other paths from then on. Its begin, and one that fails, are none."""
    begins = (6, events.context() + field(4, number))
    failed = (6, events.raw(number, error=errno.EPERM))
    assert made(begins, failed, begins).complete
    (gap,) = made(begins, (6, events.raw(number))).gaps
    assert gap == f"{', '.join(MOUNTS)} may have given files other paths: 1 calls"


@pytest.mark.parametrize("values", [False, True])
def test_variables_have_values_only_where_they_are_asked_for(values: bool) -> None:
    """The room for texts has both."""
    one = Recorder(NEW, "20260905.0", values=values)
    one.take(3, events.executed([b"x"], b"/x", 1, (b"B=1", b"A=a=b", b"odd")))
    (command,) = one.trace(dropped=0, broken=False, ended=True).executed
    assert command.environment == (("A=a=b", "B=1", "odd") if values else ("A", "B", "odd"))
    names = len("x/x") + 6 * TEXT
    assert one.size == 100 + names + len("A=a=bB=1odd" if values else "ABodd")


def test_commands_are_those_that_were_executed() -> None:
    """The names of variables, not their values; and the first process's, which a start tells."""
    start = field(1, field(1, 7)) + field(2, b"id") + field(4, b"sh") + field(4, b"-c")
    trace = made(
        (1, start),
        (2, events.cloned(2)),
        (3, events.executed([b"true", b"x"], b"/bin/true", 2, (b"B=1", b"A=secret"))),
        (2, events.cloned(3, process=2)),
    )
    assert trace.commands == [["sh", "-c"], ["true", "x"]]
    assert trace.executed == (
        Command(argv=("sh", "-c"), program="sh", process=1),
        Command(argv=("true", "x"), program="/bin/true", process=2, environment=("A", "B")),
    )
    assert trace.processes == (
        TracedProcess(pid=1, parent=0, command=("sh", "-c")),
        TracedProcess(pid=2, parent=1, command=("true", "x")),
        TracedProcess(pid=3, parent=2, command=("true", "x")),
    )


def test_an_attempt_is_what_no_event_of_success_follows() -> None:
    """A search of PATH that ends well leaves none; the same of another process does not count."""
    trace = made(
        *[(11, events.tried([b"true", b"x"], path, 2)) for path in (b"/sbin/true", b"bin/true")],
        (11, events.tried([b"true", b"x"], b"/sbin/true", 3)),
        (11, events.tried([b"sh"], b"sh", 2)),
        (11, events.tried([b"sh"], b"sh", 2)),
        (3, events.executed([b"true", b"x"], b"/here/bin/true", 2)),
    )
    assert trace.commands == [["true", "x"]]
    assert [one.called for one in trace.executed] == ["/here/bin/true"]
    assert trace.attempts == (
        Command(argv=("true", "x"), program="/sbin/true", process=3, reported=False),
        Command(argv=("sh",), program="/here/sh", process=2, reported=False),
    )


def test_a_program_has_the_name_by_which_it_was_executed_last() -> None:
    """Another file was tried in between, and a link may lie on the way."""
    trace = made(
        (2, events.cloned(2)),
        *[(11, events.tried([b"x"], path, 2)) for path in (b"/bin/sh", b"/no", b"/bin/sh")],
        (3, events.executed([b"x"], b"/usr/bin/dash", 2)),
        (3, events.executed([b"y"], b"/y", 2)),
    )
    assert [one.called for one in trace.executed] == ["/bin/sh", ""]
    assert str(trace.executed[0]) == "executed: /usr/bin/dash (as /bin/sh)"
    trace.check(forbid=["exec:bash"])
    for forbidden in ("exec:sh", "exec:/bin/sh", "exec:dash"):
        with pytest.raises(AssertionError, match=r"executed: /usr/bin/dash"):
            trace.check(forbid=[forbidden])
    with pytest.raises(AssertionError, match=r"executed: /usr/bin/dash"):
        trace.check(execute=["sh", "y"])


def test_another_thread_that_tries_the_same_arguments_gives_a_program_no_name() -> None:
    """Its own attempt stays one."""
    other = events.context(1, 7) + field(3, 59) + field(6, b"/no") + field(7, b"x")
    trace = made(
        (11, events.tried([b"x"], b"/bin/sh", 1)), (11, other),
        (3, events.executed([b"x"], b"/usr/bin/dash", 1)),
    )  # fmt: skip
    assert [one.called for one in trace.executed] == ["/bin/sh"]
    assert [one.program for one in trace.attempts] == ["/no"]


def test_a_thread_is_no_process() -> None:
    """A clone within the same group."""
    thread = events.context() + field(3, 2) + field(4, 1)
    assert [one.pid for one in made((2, thread)).processes] == [1]


@pytest.mark.parametrize(
    ("sockaddr", "shown"),
    [
        (internet("10.0.0.1", 443), "10.0.0.1:443"),
        (b"\x0a\0\0\x50" + bytes(4) + bytes(15) + b"\x01" + bytes(4), "[::1]:80"),
        (b"\x0a\0\0\x50" + bytes(14) + b"\xff\xff\x7f\0\0\1" + bytes(4), "127.0.0.1:80"),
        (b"\x01\0/run/x\0\0", "unix:/run/x"),
        (b"\x01\0/run/..//./tmp/x", "unix:/tmp/x"),
        (b"\x01\0run/../x", "unix:run/../x"),
        (b"\x01\0\0name", "unix:@name"),
        (b"\x01\0", "unix:"),
        (b"\x10\0" + bytes(10), "family 16"),
    ],
)
def test_a_connection_has_an_address(sockaddr: bytes, shown: str) -> None:
    """The address is a text, beside the kernel's answer."""
    trace = made((10, events.on_socket(sockaddr, 5, error=errno.EINPROGRESS)))
    assert trace.connections == (
        Connection(address=shown, kind="", error="EINPROGRESS", process=1),
    )


@pytest.mark.parametrize("sockaddr", [b"", b"\0\0", internet("1.2.3.4", 1)[:6], b"\x0a\0\0\x50"])
def test_no_address_is_no_connection(sockaddr: bytes) -> None:
    """A connect that disconnects, and one whose address is cut short."""
    assert made((10, events.on_socket(sockaddr, 5))).connections == ()


def test_a_connect_counts_from_its_begin() -> None:
    """Memory may have another address when it ends, and of a killed program nothing ends."""
    address, other = internet("1.2.3.4", 1), internet("5.6.7.8", 1)
    begun = (10, events.context() + field(3, 42) + field(4, 5) + field(6, address))

    def shown(*more: tuple[int, bytes]) -> list[tuple[str, str]]:
        return [(one.address, one.error) for one in made(begun, *more).connections]

    assert shown() == [("1.2.3.4:1", "EINPROGRESS")]
    refused = events.on_socket(address, 5, error=errno.ECONNREFUSED)
    assert shown((10, refused), begun) == [("1.2.3.4:1", "ECONNREFUSED")]
    assert shown((10, events.on_socket(address, 5))) == [("1.2.3.4:1", "")]
    assert shown((10, events.on_socket(b"\0\0", 5))) == [("1.2.3.4:1", "EINPROGRESS")]
    assert shown((10, events.on_socket(other, 5)))[1] == ("5.6.7.8:1", "")


def test_a_listener_is_known_by_listen_or_by_bind() -> None:
    """Releases before 2026 have no event for listen."""
    address = internet("0.0.0.0", 80)
    bound = [
        (12, events.made_socket(socket.AF_INET, socket.SOCK_STREAM, 5)),
        (24, events.on_socket(address, 5)),
    ]
    listen = events.context() + events.ended() + field(4, 5) + field(7, address) + field(9, 1)
    one = ListeningSocket(address="0.0.0.0:80", kind="stream", process=1)
    assert made(*bound).listeners == ()
    assert made(*bound, (37, listen)).listeners == (one,)
    assert made(*bound, known=OLD).listeners == (one,)
    # No event tells that 9 is a copy of 5, by dup(2).
    (copied,) = made(bound[0], (24, events.on_socket(address, 9))).listeners
    assert (copied.address, copied.kind) == ("0.0.0.0:80", "")


def test_datagrams_are_counted() -> None:
    """Calls that name an address, or may, count once there is a socket that sends datagrams."""
    sends = [
        (6, events.raw(44, address=7)),
        (6, events.raw(44)),
        (6, events.raw(46)),
        (6, events.raw(307)),
    ]
    stream = (12, events.made_socket(socket.AF_INET, socket.SOCK_STREAM, 5))
    datagram = (12, events.made_socket(socket.AF_INET, socket.SOCK_DGRAM, 5))
    bound = (24, events.on_socket(internet("0.0.0.0", 53), 5))
    assert made(stream, *sends).datagrams == 0
    fast = socket.MSG_FASTOPEN
    streams = [
        (6, events.raw(44, address=7, _8=fast)),
        (6, events.raw(46, _7=fast | socket.MSG_DONTWAIT)),
        (6, events.raw(307, _8=fast)),
    ]
    assert made(stream, *streams).datagrams == 3
    registers = [(6, events.raw(44, address=7, _7=fast)), (6, events.raw(46, _8=fast))]
    assert made(stream, (6, events.raw(44, _8=fast)), *registers).datagrams == 0
    trace = made(datagram, bound, *sends)
    assert trace.datagrams == 3
    assert trace.listeners == (ListeningSocket(address="0.0.0.0:53", kind="datagram", process=1),)
    unix, netlink = (events.made_socket(one, socket.SOCK_DGRAM, 5) for one in (1, 16))
    assert made((12, unix), *sends).datagrams == 3
    assert made((12, netlink), *sends).datagrams == 0  # of the C library
    raw = (12, events.made_socket(socket.AF_INET, socket.SOCK_RAW, 5))
    assert made(raw, *sends).datagrams == 3
    # Another thread sends before the end of the call that makes the socket, or has it fail.
    begun = events.context() + field(4, socket.AF_INET) + field(5, socket.SOCK_DGRAM)
    trace = made((12, begun), *sends, (8, events.closed(0, b"/f")))
    assert (trace.datagrams, [one.path for one in trace.files]) == (3, ["/f"])
    for kind, count in (
        (socket.SOCK_STREAM, 0), (socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 3),
        (socket.SOCK_RAW, 3),  # Linux and gVisor make it as SOCK_DGRAM
    ):  # fmt: skip
        pair = events.context() + field(4, 53) + field(6, kind)
        assert made((6, pair), *sends).datagrams == count


def test_an_event_that_gvisor_cannot_encode_is_a_gap() -> None:
    """The call by its number arrives, and the one with its texts does not."""
    assert made((6, events.raw(257)), (7, events.opened(b"/f", READ))).complete
    assert made((6, events.raw(437, error=errno.ENOSYS))).complete
    failed = (6, events.raw(437, error=errno.ENOENT))
    (gap,) = made((6, events.raw(257)), failed).gaps
    assert gap.endswith(": 2")
    (gap,) = made((6, events.raw(257)), (6, events.raw(437))).gaps
    assert gap.startswith("files that were opened without a path that gVisor can report")
    assert gap.endswith(": 2")
    named = events.context() + field(3, 59)
    assert made((6, events.raw(59)), (11, named)).complete
    (gap,) = made((6, events.raw(59)), (6, events.raw(59)), (11, named)).gaps
    assert gap.endswith("which gVisor cannot report: 1")


def test_a_call_of_a_process_that_runs_on_is_no_gap_of_its_own() -> None:
    """Its event is still to come. A call of a thread that has ended has none, and is one."""
    recorder = Recorder(NEW, "", first=1)
    for kind, payload in (
        (2, events.cloned(2)), (2, events.cloned(3)), (6, events.raw(257, thread=2)),
        (6, events.raw(257, thread=3)), (5, events.context(3)),
    ):  # fmt: skip
        recorder.take(kind, payload)
    running, hidden = recorder.trace(dropped=0, broken=False, ended=True, running=1).gaps
    assert running == "1 of its processes had not ended"
    assert hidden.endswith("(a name that is no UTF-8, or openat2): 1")


def test_no_other_event_stands_for_one_that_was_not_sent() -> None:
    """Neither one of another thread, nor a later one of the same thread."""
    opened = (7, events.opened(b"/f", READ, process=2))
    assert made((6, events.raw(257)), opened).gaps
    assert made((6, events.raw(257)), (6, events.raw(257, thread=2)), opened).gaps
    assert made((6, events.raw(2, thread=2)), (6, events.raw(257, thread=2)), opened).gaps


def test_a_recorder_that_begins_anew_keeps_processes_and_descriptors() -> None:
    """A call that goes on meanwhile is a gap of the trace in which it began, and of no other."""
    one = Recorder(NEW, "20260905.0")
    for kind, payload in (
        (2, events.cloned(2)), (2, events.cloned(3)), (5, events.context(3)),
        (7, events.opened(b"/f", READ)), (6, events.raw(257)),
    ):  # fmt: skip
        one.take(kind, payload)
    assert one.trace(dropped=0, broken=False, ended=True).gaps
    one.begin_anew()
    one.take(8, events.closed(3, b"/f"))
    one.take(6, events.raw(257))
    one.take(7, events.opened(b"/g", READ))
    trace = one.trace(dropped=0, broken=False, ended=True)
    assert trace.complete
    assert [one.path for one in trace.files] == ["/g"]
    assert [one.pid for one in trace.processes] == [1, 2]


def test_a_trace_begins_where_the_collection_does() -> None:
    """All that was opened before is forgotten."""
    one = Recorder(NEW, "20260905.0")
    one.mark = COLLECTS
    for path in (b"/before", COLLECTS.encode(), b"/after"):
        one.take(7, events.opened(path, READ, error=errno.ENOENT))
    found = one.trace(dropped=0, broken=False, ended=True).files
    assert [file.path for file in found] == ["/after"]


def test_a_mark_is_no_file() -> None:
    """And it counts once."""
    one = Recorder(NEW, "20260905.0")
    one.mark = "/mark"
    mark = (7, events.opened(b"/mark", READ, error=errno.ENOENT))
    one.take(*mark)
    assert (one.mark, one.trace(dropped=0, broken=False, ended=True).files) == ("", ())
    one.take(*mark)
    assert len(one.trace(dropped=0, broken=False, ended=True).files) == 1


def test_a_relay_is_no_process_of_a_workload_beside_it() -> None:
    """The workload's first process is number 2 then; of one alone, number 1 counts."""
    log = renamed(1) + renamed(2)
    one = Recorder(NEW, "20260905.0", 2)
    for recorded in (one, Recorder(NEW, "20260905.0")):
        for process in (1, 2, 3):
            path = b"/%d" % process
            recorded.take(7, events.opened(path, READ, process=process))
        trace = recorded.trace(dropped=0, broken=False, ended=True, strace=log)
        numbers = [2, 3] if recorded is one else [1, 2, 3]
        assert [each.process for each in trace.files] == numbers
        assert [each.process for each in trace.unverified] == [n for n in numbers if n < 3]
    assert (one.parents, Recorder(NEW, "20260905.0").parents) == ({2: 0}, {1: 0})


def test_only_what_succeeds_listens_and_once() -> None:
    """A bind that fails, and one of another family, as glibc makes, are none."""
    datagram = (12, events.made_socket(socket.AF_INET, socket.SOCK_DGRAM, 5))
    here = internet("127.0.0.1", 53)
    failed = (24, events.on_socket(here, 5, error=errno.EADDRINUSE))
    netlink = (24, events.on_socket(b"\x10\0" + bytes(10), 5))
    nowhere = (24, events.on_socket(b"", 5))
    assert made(datagram, failed, netlink, nowhere).listeners == ()
    twice = made(datagram, (24, events.on_socket(here, 5)), (24, events.on_socket(here, 5)))
    assert [each.address for each in twice.listeners] == ["127.0.0.1:53"]


def test_the_session_asks_for_the_points_that_the_binary_has() -> None:
    """A release without listen is not asked for it."""
    session = json.loads(Recorder(OLD, "20240729.0").session('/a "b"\\'))["trace_session"]
    asked = {one["name"]: one for one in session["points"]}
    assert [*asked] == [*OLD]
    opens = asked["syscall/openat/exit"]
    assert opens["context_fields"] == ["thread_id", "group_id", "cwd"]
    assert opens["optional_fields"] == ["fd_path"]
    assert session["ignore_missing"] is True
    assert session["sinks"][0]["config"]["endpoint"] == '/a "b"\\'


def test_a_binary_without_a_point_or_a_field_cannot_trace() -> None:
    """The error names each: without a folder's path, a path would be made of another."""
    few = {name: fields for name, fields in NEW.items() if name != "sentry/execve"}
    few["syscall/openat/exit"] = ("thread_id", "group_id", "cwd")
    missing = r"20240729.0 cannot trace: it does not have sentry/execve, syscall/openat/exit\n"
    with pytest.raises(TraceError, match=missing):
        Recorder(few, "20240729.0")


def test_the_answer_of_a_binary_has_points_with_fields() -> None:
    """Other lines have none."""
    answer = (
        "POINTS (2)\nName: a/b, optional fields: [x|y], context fields: [time]\n"
        "Name: c, optional fields: [], context fields: [cwd]\n\nSINKS (1)\nName: null\n"
    )
    assert points.parse(answer) == {"a/b": {"x", "y", "time"}, "c": {"", "cwd"}}
    assert points.parse("unknown command") == {}
