"""The keeper: a process that no request, no signal and no shortage ends before its work is done."""

import contextlib
import errno
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.programs import leftovers, one_run
from pytest_gvisor.programs.keeper import Keeper as Program
from pytest_gvisor.programs.one_run import Run, State
from pytest_gvisor.programs.order import Order, send
from pytest_gvisor.sessions.launcher import Keeper
from tests.waiting import wait_for, wait_for_end

PATIENCE = 30.0
HANG = "trap '' TERM INT HUP; while :; do sleep 1; done"
Message = dict[str, Any]


def as_message(order: Order) -> Message:
    """The fields of an order as they are sent, to be changed."""
    fields: Message = json.loads(order.to_json())
    return fields


@dataclass(kw_only=True)
class Caller:
    """A caller that sends anything, and reads the keeper's answers."""

    keeper: Keeper
    session: str
    opened: list[socket.socket] = field(default_factory=list)

    def request(self, *argv: str, name: str = "g1") -> Message:
        """A valid request: it runs a program with its ``--root``."""
        folder = f"{self.session}/{name}"
        os.makedirs(f"{folder}/root", exist_ok=True)
        made = Order(
            id=name, argv=argv, term=("true",), env={"A": "b"}, folder=folder,
            root=f"{folder}/root",
        )  # fmt: skip
        return as_message(made)

    def send(self, message: bytes, *, executable: str = "/bin/sh", fds: int = 4) -> socket.socket:
        """Send a message with a control socket and this many other descriptors."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE)
        self.opened.append(ours)
        null = os.open(os.devnull, os.O_RDWR)
        program_fd = os.open(executable, os.O_RDONLY)
        with theirs:
            others = [program_fd, *[null] * 20][:fds]
            socket.send_fds(self.keeper._socket, [message], [theirs.fileno(), *others])
        os.close(null)
        os.close(program_fd)
        return ours

    def shell(self, script: str, name: str = "g1") -> socket.socket:
        """Run a shell script, whose ``--root`` marks it as a process of the session."""
        request = self.request("sh", "-c", script, "sh", "--root", f"{self.session}/{name}/root")
        request = {**request, **self.request(*request["argv"], name=name)}
        return self.send(json.dumps(request).encode())

    def close(self) -> None:
        """Hang up everywhere."""
        for control in self.opened:
            control.close()


def hear(control: socket.socket) -> Message:
    """The next message, or an empty one at the end."""
    data = control.recv(65536)
    message: Message = json.loads(data) if data else {}
    return message


def hear_out(control: socket.socket) -> list[Message]:
    """Everything until the run is cleaned."""
    heard = []
    while message := hear(control):
        heard.append(message)
        if message["state"] == "exited":
            control.send(b'{"op": "release"}')
        if message["state"] == "cleaned":
            break
    return heard


@pytest.fixture
def caller(base: str) -> Iterator[Caller]:
    """A keeper, and a caller of it."""
    session = f"{base}/s-test"
    os.mkdir(session)
    keeper = Keeper(session)
    keeper.await_ready()
    made = Caller(keeper=keeper, session=session)
    yield made
    made.close()
    keeper.close()


def runs(caller: Caller) -> bool:
    """Whether the keeper still takes a run, and lives."""
    states = [message["state"] for message in hear_out(caller.shell("exit 3", name="after"))]
    return states == ["spawned", "exited", "cleaned"] and caller.keeper.alive()


def test_a_run_is_spawned_exits_and_is_cleaned(caller: Caller) -> None:
    """The messages have the pid and the raw wait status."""
    spawned, exited, cleaned = hear_out(caller.shell("exit 3"))
    assert spawned["pid"] > 0
    assert exited["status"] == 3 << 8
    assert cleaned["leaks"] == []
    assert not os.path.exists(f"{caller.session}/g1")


BAD = {
    "empty object": b"{}",
    "no object": b"[1, 2]",
    "no JSON": b"\xff\xfe{",
    "deep": b"[" * 60_000,
    "long": b" " * 150_000 + b"{}",
}


@pytest.mark.parametrize("message", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("fds", [0, 4, 20])
def test_a_request_that_makes_no_sense_fails_and_ends_nothing_else(
    caller: Caller, message: bytes, fds: int
) -> None:
    """The caller of a nonsensical request gets the failure, and another run ends well."""
    other = caller.shell("read x; exit 0", name="other")
    assert hear(other)["state"] == "spawned"
    heard = hear_out(caller.send(message, fds=fds))
    assert [said["state"] for said in heard] == ["failed", "exited", "cleaned"]
    assert heard[0]["stage"] in {"request", "fork"}
    assert [said["state"] for said in hear_out(other)] == ["exited", "cleaned"]
    assert runs(caller)


@pytest.mark.parametrize(
    "change",
    [
        {"argv": "x"}, {"argv": []}, {"argv": ["a\0b"]}, {"argv": [7]}, {"env": []},
        {"env": {"A": None}}, {"folder": 7}, {"root": None}, {"id": []}, {"cgroups": [1]},
        {"delete": ["x"]}, {"term": {}}, {"netns": 1},
    ],
)  # fmt: skip
def test_a_request_with_one_odd_part_fails_and_ends_nothing_else(
    caller: Caller, change: Message
) -> None:
    """A request with an odd part starts nothing, or its child reports the failure."""
    heard = hear_out(caller.send(json.dumps({**caller.request("sh"), **change}).encode()))
    assert [said["state"] for said in heard] == ["failed", "exited", "cleaned"]
    assert heard[1]["status"] == 127 << 8
    assert runs(caller)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("folder", "{outside}"), ("folder", "{session}"), ("folder", "{session}/"),
        ("folder", "{session}/."), ("folder", "{session}/../outside"),
        ("folder", "{session}/g1/root"), ("folder", "{session}-other/g1"),
        ("root", "{outside}"), ("root", "{session}"), ("root", "{session}/g1"),
        ("root", "{session}/g1/../../outside"), ("cgroups", "{outside}"),
        ("cgroups", "/sys/fs/cgroup/pytest-gvisor-x/../other"),
    ],
)  # fmt: skip
def test_an_order_for_anything_outside_is_refused_and_nothing_there_is_touched(
    caller: Caller, tmp_path: Path, name: str, path: str
) -> None:
    """The keeper removes a run's folder and kills what is in its cgroups, perhaps as root."""
    outside = Path(caller.session).parent / "outside"
    outside.mkdir()
    (outside / "canary").touch()
    (Path(caller.session) / "canary").touch()
    named = path.format(outside=outside, session=caller.session)
    request = {
        **caller.request("sh", "-c", "exit 0"),
        name: [named] if name == "cgroups" else named,
    }
    heard = hear_out(caller.send(json.dumps(request).encode()))
    assert [said["state"] for said in heard] == ["failed", "exited", "cleaned"]
    assert heard[0]["stage"] == "request"
    assert "ValueError" in heard[0]["detail"]
    assert (outside / "canary").exists()
    assert (Path(caller.session) / "canary").exists()
    assert os.path.exists(f"{caller.session}/g1/root")
    assert runs(caller)


@pytest.mark.parametrize("fds", [0, 3])
def test_an_order_without_all_its_descriptors_fails(caller: Caller, fds: int) -> None:
    """The executable or a stream is missing: nothing is started."""
    message = json.dumps(caller.request("sh", "-c", "exit 3")).encode()
    heard = hear_out(caller.send(message, fds=fds))
    assert [said["state"] for said in heard] == ["failed", "exited", "cleaned"]
    assert heard[0]["detail"] == f"ValueError('{fds} descriptors came with the order')"
    assert runs(caller)


@pytest.mark.parametrize("number", [0, 1])
def test_a_request_that_brings_no_socket_is_dropped(caller: Caller, number: int) -> None:
    """A request without a socket has no caller to answer, and the keeper goes on."""
    with open(os.devnull, "rb") as null:
        fds = [null.fileno()] * number
        socket.send_fds(caller.keeper._socket, [b"{}"], fds)
    assert runs(caller)


@pytest.mark.parametrize(
    "message", [b"x", b"{}", b'{"op": "no such wish"}', b'{"op": []}', b"[]", b"\xff" * 5000]
)
def test_a_wish_that_makes_no_sense_ends_its_run_alone(caller: Caller, message: bytes) -> None:
    """The run is failed and killed; the other goes on."""
    one, other = caller.shell(HANG), caller.shell("read x; exit 4", name="other")
    assert hear(one)["state"] == "spawned"
    one.send(message)
    heard = hear_out(one)
    assert [said["state"] for said in heard] == ["failed", "exited", "cleaned"]
    assert heard[0]["stage"] == "request"
    assert heard[1]["status"] == signal.SIGKILL
    assert [said["state"] for said in hear_out(other)] == ["spawned", "exited", "cleaned"]
    assert runs(caller)


def test_another_command_of_the_run_s_program_is_started_and_its_status_is_reported(
    caller: Caller,
) -> None:
    """The run goes on. After its end, no such command is started."""
    control = caller.shell(HANG)
    assert hear(control)["state"] == "spawned"
    for script, status in (("exit 3", 3 << 8), ("kill -9 $$", 9)):
        wish = {"op": "save", "argv": ["sh", "-c", script]}
        control.send(json.dumps(wish).encode())
        assert hear(control) == {"state": "saved", "status": status}
    control.send(b'{"op": "kill"}')
    assert hear(control)["state"] == "exited"
    control.send(b'{"op": "save", "argv": ["sh", "-c", "exit 0"]}')
    assert hear(control) == {"state": "saved", "status": 127 << 8}


def test_a_caller_that_hangs_up_ends_its_run_alone(caller: Caller) -> None:
    """The run is killed and its folder removed; the other goes on."""
    one, other = caller.shell(HANG), caller.shell(HANG, name="other")
    pid = hear(one)["pid"]
    assert hear(other)["state"] == "spawned"
    one.close()
    wait_for(lambda: not os.path.exists(f"{caller.session}/g1"), "the removal of the run")
    assert not os.path.exists(f"/proc/{pid}")
    other.send(b'{"op": "kill"}')
    assert [said["state"] for said in hear_out(other)] == ["exited", "cleaned"]


def test_the_keeper_is_in_a_session_of_its_own_with_one_thread(caller: Caller) -> None:
    """A session of its own receives no signal of the terminal; one thread makes fork safe."""
    assert os.getsid(caller.keeper.pid) == caller.keeper.pid
    assert os.listdir(f"/proc/{caller.keeper.pid}/task") == [str(caller.keeper.pid)]


ORPHAN = """
sh -c 'echo $$ > FILE; while :; do sleep 1; done' sh WORDS &
while ! [ -s FILE ]; do :; done
"""


def orphan(caller: Caller, words: str) -> int:
    """Start a run that leaves an orphan with this text on its command line; return its pid."""
    file = Path(os.path.dirname(caller.session), "pid")
    script = ORPHAN.replace("FILE", str(file)).replace("WORDS", words)
    heard = hear_out(caller.shell(script))
    assert [said["state"] for said in heard] == ["spawned", "exited", "cleaned"]
    assert heard[-1]["leaks"] == []
    return int(file.read_text())


def test_an_orphan_of_a_run_is_killed_with_it(caller: Caller) -> None:
    """The keeper is its new parent, and knows it by its command line."""
    pid = orphan(caller, '--root "$2"')
    wait_for_end(pid)  # killed; the keeper may still have to reap it


def test_an_orphan_that_nobody_knows_is_killed_with_the_keeper(caller: Caller) -> None:
    """A process that became a child of the keeper was started by one of its runs."""
    pid = orphan(caller, "unknown")
    assert os.path.exists(f"/proc/{pid}")
    caller.keeper.close()
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.fault("D8")
def test_a_failed_execve_is_told_before_the_end(caller: Caller) -> None:
    """The child's 127 must not look like a workload's, even if both arrive at once."""
    for _ in range(20):
        request = json.dumps(caller.request("x")).encode()
        heard = hear_out(caller.send(request, executable="/etc/passwd"))
        assert [said["state"] for said in heard] == ["failed", "exited", "cleaned"]
        assert heard[0]["stage"] == "execve"


@pytest.mark.fault("D2")
def test_what_a_turn_has_closed_is_not_taken_for_what_has_its_number_now(
    alone: Callable[..., Any], tmp_path: Path
) -> None:
    """A child's end closes its report, and the socket of the next request gets that number."""
    assert (
        alone(
            """
        import socket
        from pytest_gvisor.programs import keeper
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        owner = keeper.Keeper(theirs, os.pidfd_open(os.getpid()), session)
        order = [owner.wake_reader, theirs.fileno()]
        ready = owner.selector.select
        owner.selector.select = lambda timeout: sorted(
            ready(timeout), key=lambda one: order.index(one[0].fd) if one[0].fd in order else 9
        )
        shell, null = os.open("/bin/sh", os.O_RDONLY), os.open(os.devnull, os.O_RDWR)

        def ask():
            control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with other:
                fds = [other.fileno(), shell, null, null, null]
                socket.send_fds(ours, [request.encode()], fds)
            return control

        def states(control):
            found = []
            while data := control.recv(65536):
                found.append(json.loads(data)["state"])
            return found

        first = ask()
        owner.on_request()
        os.waitid(os.P_PID, owner.runs[0].pid, os.WEXITED | os.WNOWAIT)
        while os.dup(null) < owner.runs[0].report:
            pass
        second = ask()
        ours.shutdown(socket.SHUT_WR)
        owner.serve()
        result = [states(first), states(second)]
        """,
            request=request_in(tmp_path).decode(),
            session=str(tmp_path),
        )
        == [["spawned", "exited", "cleaned"]] * 2
    )


# --- one run, without a process around it


@dataclass
class Stub:
    """A substitute for the keeper of a run."""

    session: str
    watched: dict[int, Callable[[], None]] = field(default_factory=dict)

    def watch(self, fd: int, act: Callable[[], None]) -> None:
        """See `Keeper.watch`."""
        self.watched[fd] = act

    def unwatch(self, fd: int) -> None:
        """See `Keeper.unwatch`."""
        self.watched.pop(fd, None)

    def executable(self, fd: int, order: Order) -> int:
        """See `Keeper.executable`."""
        del order
        return fd


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[tuple[Run, Callable[[], list[Message]]]]:
    """A run, and a function that returns its new messages."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    run = Run(Stub(str(tmp_path)), theirs)

    def told() -> list[Message]:
        heard: list[Message] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(hear(ours))
        return heard

    yield run, told
    run.close()
    ours.close()


Lone = tuple[Run, Callable[[], list[Message]]]


def request_in(folder: Path) -> bytes:
    """A request for one run in this folder."""
    (folder / "g1/root").mkdir(parents=True)
    return order_in(folder).to_json()


def order_in(folder: Path) -> Order:
    """An order whose commands are no programs."""
    return Order(
        id="g1", argv=("x",), term=("x",), env={}, folder=f"{folder}/g1",
        root=f"{folder}/g1/root",
    )  # fmt: skip


def test_a_run_is_removed_after_its_last_command(lone: Lone, tmp_path: Path) -> None:
    """A command before its execve names no folder in its command line, and is waited for too."""
    run, told = lone
    run.order = order_in(tmp_path)
    run.commands.add(os.getpid())
    run.enter(State.LEAVES, seconds=60)
    assert not run.clean(time.monotonic())
    assert told() == []
    run.command_ended(os.getpid(), 0)
    assert run.clean(time.monotonic())
    assert told() == [{"state": "cleaned", "leaks": []}]


def test_a_report_that_comes_with_the_end_is_told_first(lone: Lone) -> None:
    """The report is read although the child's end was seen first."""
    run, told = lone
    reader, writer = os.pipe()
    os.write(writer, b"no_new_privs 1 not permitted")
    os.close(writer)
    run.report, run.pid = reader, 1
    run.reaped(127 << 8)
    assert [said["state"] for said in told()] == ["failed", "exited"]


def test_cleaning_waits_for_better_times_but_not_for_ever(
    lone: Lone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper retries without descriptors, and reports the remains after a while."""
    run, told = lone
    run.order = order_in(tmp_path)
    run.reaped(0)
    told()
    run.release()

    def refuse(*_: object) -> Any:
        raise OSError(errno.EMFILE, "no descriptors")

    monkeypatch.setattr(leftovers, "processes", refuse)
    now = time.monotonic()
    assert not run.clean(now)
    assert not run.clean(now + one_run.EXIT_GRACE)
    assert told() == []
    assert run.clean(now + 3 * one_run.EXIT_GRACE + one_run.DEATH_GRACE)
    (cleaned,) = told()
    assert "no descriptors" in cleaned["leaks"][0]


def test_the_remains_of_a_fork_bomb_are_told(
    lone: Lone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes no message on all of them, and without one the keeper would be killed."""
    run, told = lone
    run.order = order_in(tmp_path)
    monkeypatch.setattr(leftovers, "processes", lambda _root: range(2**22, 2**22 + 20_000))
    monkeypatch.setattr(leftovers, "kill", lambda *_: None)
    run.enter(State.CLEARS, seconds=-1)
    assert run.clean(time.monotonic())
    (cleaned,) = told()
    assert (cleaned["leaks"][0], len(cleaned["leaks"])) == (f"process {2**22}", 1001)
    assert cleaned["leaks"][-1] == "19000 more processes"


class Refusing:
    """A socket for which the kernel has no memory some times."""

    def __init__(self, number: int, times: int) -> None:
        self.number, self.times = number, times
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        """Refuse the data, or take them."""
        if self.times:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number))
        self.sent.append(data)


@pytest.mark.parametrize(
    ("number", "count"), [(errno.ENOBUFS, 1), (errno.ENOMEM, 1), (errno.EPIPE, 0)]
)
def test_no_message_is_lost_while_there_is_no_memory_for_it(number: int, count: int) -> None:
    """Without the end of a run, a run that has ended well would be reported as timed out."""
    sock: Any = Refusing(number, 3)
    send(sock, state="exited", status=0)
    assert sock.sent == [b'{"state": "exited", "status": 0}'] * count


def test_a_run_that_cannot_be_watched_fails_alone() -> None:
    """The keeper, and so its other sandboxes, live on."""

    def refused(_fd: int, _act: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    keeper: Any = SimpleNamespace(runs=[], watch=refused, session="/nonexistent")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        Program._take(keeper, b"{}", [theirs.detach()], cut=False)
        assert [hear(ours)["state"], hear(ours)["state"], hear(ours)] == ["failed", "exited", {}]
    assert keeper.runs == []
