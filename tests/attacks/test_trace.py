"""A workload that does what a check of its trace forbids, and wants the check to pass."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_gvisor import Completed, Gvisor, LaunchError, NotReady, SandboxCrashed, TraceError
from pytest_gvisor.base.errors import FORBIDDEN
from pytest_gvisor.base.traced import Trace
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.sandbox.execution import Execution
from tests.sandbox.test_allow import relays

EXECUTES = """
    import os, threading, time

    for _ in range(3):
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    os.execv("/bin/sleep", ["sleep", SECONDS])
"""
LIVES_ON = f"""
    import os, time

    if os.fork() == 0:
        os.closerange(0, 3)
        {textwrap.indent(textwrap.dedent(EXECUTES), "        ").strip()}
    time.sleep(2)
"""


def test_no_process_that_has_had_threads_runs_on_unseen(gvisor: Gvisor) -> None:
    """The kernel reports the new program first, and then the end of each of its threads."""
    with gvisor.sandbox(trace=True) as sandbox:
        gaps = []
        for code, seconds in ((LIVES_ON, "1000"), (EXECUTES, "0")):
            program = textwrap.dedent(code).replace("SECONDS", repr(seconds))
            trace = sandbox.exec(["python3", "-I", "-c", program], check=True).trace
            assert trace is not None
            gaps.append(trace.gaps)
    assert gaps == [("1 of its processes had not ended",), ()]


ACTS = {
    "read:/root/**": """
        import ctypes, errno, os
        how = (ctypes.c_uint64 * 3)(0, 0, 0)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(437, -100, b"/root/.ssh/id_ed25519", how, 24)
        if ctypes.get_errno() == errno.ENOSYS:  # in a gVisor that is older
            os.open("/root/.ssh/id_ed25519", os.O_RDONLY)
    """,
    "connect:127.0.0.1:*": """
        import socket
        socket.socket(socket.AF_INET6).connect_ex(("::ffff:127.0.0.1", 80))
    """,
    "connect": """
        import socket
        mailbox, sender = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
        mailbox.bind("\\0mailbox")
        sender.sendto(b"secret", "\\0mailbox")
    """,
    "connect:10.0.0.1:*": """
        import contextlib, socket
        sender, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with contextlib.suppress(ConnectionRefusedError):
            sender.sendto(b"secret", "\\0mailbox-of-a-program-before")
    """,
    "connect:127.0.0.3:*": """
        import ctypes, os, socket, struct, threading, time
        libc, server, peers = ctypes.CDLL(None), socket.create_server(("", 0), backlog=0), []
        port = server.getsockname()[1]
        for _ in range(3):  # no connect ends any more before an accept
            peers.append(socket.socket())
            peers[-1].setblocking(False)
            peers[-1].connect_ex(("127.0.0.2", port))

        def change(seconds):
            time.sleep(seconds)
            address[:2] = bytes(2)
            time.sleep(0.5)
            while True:
                peers.append(server.accept())

        for seconds in (1, 5, 20):  # a busy machine may change it before the call
            address = bytearray(struct.pack("=H", socket.AF_INET) + struct.pack(">H", port))
            address += bytes([127, 0, 0, 3]) + bytes(8)
            client, there = socket.socket(), (ctypes.c_char * 16).from_buffer(address)
            threading.Thread(target=change, args=(seconds,), daemon=True).start()
            libc.connect(client.fileno(), there, 16)
            try:
                client.getpeername()
                os._exit(0)
            except OSError:
                pass
    """,
    "connect:unix:/tmp/there": """
        import os, socket
        os.mkdir("/tmp/folder")
        socket.socket(socket.AF_UNIX).connect_ex("/tmp/folder/..//there")
    """,
    "exec:sh": """
        import os
        os.execv("/bin/sh", ["true", "-c", ""])  # a link to dash, or to another shell
    """,
    "read:/etc/group": """
        import os
        os.chroot("/etc")
        os.open("/group", os.O_RDONLY)  # no close tells its own path
    """,
    "read:/etc/passwd": """
        import ctypes, os
        libc = ctypes.CDLL(None)
        assert libc.unshare(0x10000000 | 0x20000) == 0  # CLONE_NEWUSER | CLONE_NEWNS
        if (folder := libc.syscall(428, -100, b"/etc", 1)) < 0:  # open_tree, OPEN_TREE_CLONE
            open("/etc/passwd").close()  # in a gVisor that is older
        elif libc.syscall(429, folder, b"", -100, b"/tmp", 4):  # move_mount
            raise OSError
        else:
            open("/tmp/passwd").close()
    """,
}


@pytest.mark.parametrize("forbidden", ACTS)
def test_no_other_call_and_no_other_form_of_an_address_hides_an_act(
    gvisor: Gvisor, forbidden: str
) -> None:
    """A file for openat2, IPv4 of IPv6, datagrams of Unix, memory that changes amid a call, a path
    with dots, a link, a root, a mount by new calls.
    """
    command = ["python3", "-I", "-c", textwrap.dedent(ACTS[forbidden])]
    with pytest.raises((AssertionError, TraceError), match=r"not allowed|openat2|other paths"):
        gvisor.run(command, forbid=[forbidden])


FAST = """
import contextlib, socket, sys
with socket.socket() as sender, contextlib.suppress(BlockingIOError):
    sender.sendto(b"secret", socket.MSG_FASTOPEN, ("127.0.0.1", int(sys.argv[1])))
"""


def test_no_stream_connects_unseen_by_its_first_data(gvisor: Gvisor) -> None:
    """On the host's network gVisor passes the flag on, and no event tells of a connect."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        command = ["python3", "-I", "-S", "-c", FAST, port]
        with pytest.raises(AssertionError, match=r"sent: 1 datagrams"):
            gvisor.run(command, network="host", forbid=["connect:127.0.0.1:*"])
        server.settimeout(10)
        server.accept()[0].close()


COPIED = """
import os, socket
first = socket.socket(type=socket.SOCK_DGRAM)
socket.socket(fileno=os.dup(first.fileno())).bind(("127.0.0.1", 4711))
"""


def test_no_copy_of_a_descriptor_hides_where_datagrams_are_waited_for(gvisor: Gvisor) -> None:
    """No event tells of the copy, so the kind of its socket is not known."""
    trace = gvisor.run(["python3", "-I", "-S", "-c", COPIED], trace=True, check=True).trace
    assert trace is not None
    assert [(one.address, one.kind) for one in trace.listeners] == [("127.0.0.1:4711", "")]


TWO_THREADS = """
import ctypes, os, threading, time
libc, argv = ctypes.CDLL(None), (ctypes.c_char_p * 4)(b"true", b"-c", b"", None)
def others():
    while True:
        libc.execve(b"/no", argv, None)
for _ in range(10):
    if os.fork() == 0:
        threading.Thread(target=others, daemon=True).start()
        time.sleep(0.01)
        libc.execve(b"/bin/sh", argv, None)
    os.wait()
"""


def test_no_other_thread_changes_the_name_of_a_program(gvisor: Gvisor) -> None:
    """The other one tries to execute a missing file with the same arguments."""
    trace = gvisor.run(["python3", "-I", "-S", "-c", TWO_THREADS], trace=True, check=True).trace
    assert trace is not None
    assert [one.called for one in trace.executed[1:]] == ["/bin/sh"] * 10
    assert {one.program for one in trace.attempts} == {"/no"}


GIVES = """
import ctypes, os, socket
ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_long(-1))  # PR_SET_PTRACER, PR_SET_PTRACER_ANY
with socket.socket(socket.AF_UNIX) as server, socket.socket(type=2) as given:
    server.bind("\\0giver")
    server.listen()
    print("listens", os.getpid(), given.fileno(), flush=True)
    while True:
        with server.accept()[0] as peer:
            socket.send_fds(peer, [b"it"], [given.fileno()])
"""
TAKES = """
import ctypes, socket, sys
if sys.argv[1] == "sent":
    with socket.socket(socket.AF_UNIX) as giver:
        giver.connect("\\0giver")
        taken = socket.recv_fds(giver, 100, 1)[1][0]
else:
    libc, (process, number) = ctypes.CDLL(None), map(int, sys.argv[2:])
    taken = libc.syscall(438, libc.syscall(434, process, 0), number, 0)  # pidfd_getfd
# A gVisor that is older has no such call.
with socket.socket(fileno=taken) if taken >= 0 else socket.socket(type=2) as sender:
    sender.sendto(b"secret", ("127.0.0.3", 9))
"""


@pytest.mark.parametrize("how", ["sent", "taken"])
@pytest.mark.parametrize("saved", [False, True])
def test_no_socket_of_another_program_hides_a_datagram(
    gvisor: Gvisor, how: str, *, saved: bool
) -> None:
    """An earlier program has made it, perhaps in the saved sandbox of a copy, and sleeps there."""
    with gvisor.sandbox(trace=not saved) as box:
        giver = box.popen(["python3", "-I", "-S", "-c", GIVES])
        told = giver.wait_for_output(rb"listens (\d+) (\d+)\n").groups()
        with contextlib.ExitStack() as ends:
            last = box
            if saved:
                snapshot = ends.enter_context(box.snapshot())
                last = ends.enter_context(gvisor.sandbox(snapshot=snapshot, trace=True))
            command = ["python3", "-I", "-S", "-c", TAKES, how, *map(os.fsdecode, told)]
            trace = last.exec(command, check=True).trace
    assert trace is not None
    with pytest.raises(AssertionError, match=r"sent: 1 datagrams"):
        trace.check(connect=["unix:@giver"])


WAITS = """
import socket, sys, time

if sys.argv[1:] == ["connects"]:
    socket.socket().connect_ex(("127.0.0.1", 9))
elif sys.argv[1:] == ["hides"]:
    open(b"/tmp/\\xff", "w").close()  # no event has such a name
print("did it", flush=True)
time.sleep(100)
"""


ENDS: dict[str, tuple[type[BaseException], str]] = {
    "connects": (AssertionError, r"connected: 127\.0\.0\.1:9"),
    "hides": (TraceError, r"no UTF-8"),
}


def check(run: Callable[[float, str], object], otherwise: type[BaseException]) -> None:
    """Check how runs of so many seconds end that do something forbidden, or nothing.

    A busy machine may be in the midst of a start by then, and has longer tries.
    """
    for act in ("connects", "hides", "nothing"):
        ends, text = ENDS.get(act, (otherwise, ""))
        for seconds in (0.8, 3, 40):
            with pytest.raises((AssertionError, TraceError, otherwise)) as caught:
                run(seconds, act)
            if found := isinstance(caught.value, ends) and re.search(text, str(caught.value)):
                break
        assert found, repr(caught.value)


@pytest.mark.parametrize("warm", [False, True])
def test_a_cancellation_hides_no_forbidden_act(gvisor: Gvisor, *, warm: bool) -> None:
    """The test's own deadline cancels a slow program; one that did nothing fails no test."""

    async def run(seconds: float, act: str) -> Completed:
        command = ["python3", "-I", "-S", "-c", WAITS, act]
        if not warm:
            return await asyncio.wait_for(gvisor.arun(command, forbid=["connect"]), seconds)
        async with gvisor.asandbox(forbid=["connect"]) as box:
            return await asyncio.wait_for(box.exec(command), seconds)

    check(lambda seconds, act: asyncio.run(run(seconds, act)), TimeoutError)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("raised", [ValueError, pytest.skip.Exception, NotReady])
def test_no_error_of_the_input_hides_a_forbidden_act(
    gvisor: Gvisor, raised: type[BaseException], *, warm: bool
) -> None:
    """Whatever an iterable raises ends the program; one that did nothing fails no test."""

    def run(seconds: float, act: str) -> None:
        def pieces() -> Iterator[bytes]:
            yield b"first"
            time.sleep(seconds)
            raise raised("its own")

        command = ["python3", "-I", "-S", "-c", WAITS, act]
        if not warm:
            gvisor.run(command, input=pieces(), forbid=["connect"])
        with gvisor.sandbox(forbid=["connect"]) as box:
            box.exec(command, input=pieces())

    check(run, raised)


class Raised(Exception):
    """An exception of a signal's handler."""


@pytest.mark.parametrize(
    ("owner", "name", "times"),
    [
        (Runner, "finish", 1), (Runner, "clean", 1), (Runner, "_completed", 1),
        (Runner, "_completed", 2), (Trace, "check", 1), (Execution, "_note", 1),
    ],
)  # fmt: skip
def test_no_handler_that_raises_hides_a_forbidden_act(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, times: int
) -> None:
    """A handler raises while the run is checked, perhaps twice, and the test catches that."""
    real, left = getattr(owner, name), [Raised] * times

    def called(*arguments: Any, **options: Any) -> Any:
        if left:
            raise left.pop()
        return real(*arguments, **options)

    def run() -> None:
        with contextlib.suppress(Raised):
            if owner is Execution:
                with gvisor.sandbox(forbid=["exec"]) as box:
                    box.exec(["sh", "-c", "true; exec true"])
            else:
                gvisor.run(["sh", "-c", "true; exec true"], forbid=["exec"])

    monkeypatch.setattr(owner, name, called)
    # The second exception leaves nothing to be known.
    expected, text = (AssertionError, "executed: ") if times == 1 else (TraceError, "unknown")
    with pytest.raises(expected, match=text) as caught:
        run()
    assert not left
    assert FORBIDDEN in vars(caught.value)


MEETS = """
import socket, sys

with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as peer:
    peer.recv(1)
"""


@pytest.mark.parametrize("warm", [False, True])
def test_no_relay_that_is_killed_hides_a_forbidden_act(gvisor: Gvisor, *, warm: bool) -> None:
    """The test catches its error. Root in a warm sandbox can make the relay too busy to answer."""

    def meet() -> None:
        with server.accept()[0]:
            for pid in relays():
                os.kill(pid, signal.SIGKILL)

    def act() -> None:
        with contextlib.suppress(LaunchError):
            if warm:
                with gvisor.sandbox(**settings) as box:
                    box.exec(command)
            else:
                gvisor.run(command, **settings)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread, port = threading.Thread(target=meet), server.getsockname()[1]
        thread.start()
        settings: dict[str, Any] = {"allow": [f"127.0.0.1:{port}"], "forbid": ["connect"]}
        command = ["python3", "-I", "-S", "-c", MEETS, str(port)]
        with pytest.raises(AssertionError, match=rf"connected: 127\.0\.0\.1:{port}"):
            act()
        thread.join()


def test_no_end_of_the_guest_before_it_reports_a_start_hides_a_forbidden_act(
    gvisor: Gvisor,
) -> None:
    """The guest reports a start when it has started all that it was asked for at once."""
    found: dict[int, BaseException] = {}

    def run(number: int, command: str, user: int) -> None:
        try:
            sandbox.exec(["sh", "-c", command], user=user)
        except (AssertionError, LaunchError, SandboxCrashed, TraceError) as error:
            found[number] = error

    # The guest forks for another user, which takes long, and the others wait meanwhile.
    more = [(number, ":", 1000) for number in range(2, 25)]
    with gvisor.sandbox(forbid=["write:/tmp/**"]) as sandbox:
        threads = [
            threading.Thread(target=run, args=args)
            for args in ((0, ":", 1000), (1, ": > /tmp/made; kill -9 1", 0), *more)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert isinstance(found[1], (AssertionError, TraceError))
