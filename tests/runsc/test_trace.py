"""The files, commands and connections of a real run, as gVisor's kernel reports them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, ProgramNotStarted, Trace, TraceError, WorkloadTimeout, empty
from pytest_gvisor.run import supervisor
from pytest_gvisor.runsc import elf
from tests.runsc.conftest import PATIENCE

BUSY = """
import os, socket, subprocess, sys
os.mkdir("/tmp/work")
os.chdir("/tmp/work")
with open("made", "w") as file:
    file.write("x")
os.symlink("made", "link")
open("link").close()
folder = os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY)
os.close(os.open("work/made", os.O_RDWR, dir_fd=folder))
os.close(folder)
try:
    open("/root/.ssh/id")
except FileNotFoundError:
    pass
with socket.socket() as server, socket.socket() as client:
    server.bind(("127.0.0.1", 4711))
    server.listen()
    client.connect(("127.0.0.1", 4711))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as names:
    try:
        names.sendto(b"x", ("192.0.2.1", 53))
    except OSError:
        pass
subprocess.run(["true", "with", "arguments"], env={"SECRET": "value"})
if not os.fork():
    os.open("/etc/hostname", os.O_RDONLY)
    os._exit(0)
os.wait()
"""


def python(gvisor: Gvisor, code: str, **more: float) -> Trace:
    """The trace of a Python program that imports nothing by itself, and ends well."""
    done = gvisor.run(["python3", "-I", "-S", "-c", code], trace=True, check=True, **more)  # type: ignore[arg-type]
    assert done.trace is not None
    return done.trace


def test_a_run_has_no_trace_unless_it_is_asked_for(gvisor: Gvisor) -> None:
    """And then it costs nothing."""
    assert gvisor.run(["true"]).trace is None


@pytest.mark.gvisor(trace=True)
def test_the_marker_traces_each_run(gvisor: Gvisor) -> None:
    """A call may do without."""
    done = gvisor.run(["true"])
    assert done.trace is not None
    assert (done.trace.commands, done.trace.complete) == ([["true"]], True)
    assert gvisor.run(["true"], trace=False).trace is None


def test_a_trace_tells_what_a_program_did(gvisor: Gvisor) -> None:
    """The program reads, writes, creates, executes, connects, listens and forks."""
    trace = python(gvisor, BUSY)
    assert trace.complete, trace
    assert trace.dropped == 0
    assert trace.read == {"/tmp/work/link", "/tmp/work/made", "/etc/hostname"}
    assert trace.written == {"/tmp/work/made"}
    assert trace.commands == [["python3", "-I", "-S", "-c", BUSY], ["true", "with", "arguments"]]
    made = trace.executed[1]
    assert made.program.endswith("/true")
    assert made.environment == ("SECRET",)
    assert [one.parent for one in trace.processes] == [0, 1, 1]
    assert [one.command[0] for one in trace.processes] == ["python3", "true", "python3"]
    (connection,) = trace.connections
    assert (connection.address, connection.kind) == ("127.0.0.1:4711", "stream")
    assert (connection.error, connection.process) == ("", 1)
    assert [one.address for one in trace.listeners] == ["127.0.0.1:4711"]
    assert trace.datagrams == 1
    files = {(one.path, one.error): one for one in trace.files}
    assert files["/root/.ssh/id", "ENOENT"].read
    assert files["/tmp/work/made", ""].confirmed
    left_open = files["/etc/hostname", ""]
    assert (left_open.confirmed, left_open.process) == (False, trace.processes[2].pid)


CHANGES = """
import os
os.mkdir("/tmp/a"); os.chdir("/tmp/a"); open("f", "w").close()
os.rename("f", "/tmp/a/g"); os.link("/tmp/a/g", "/tmp/a/h"); os.symlink("g", "/tmp/a/s")
os.chmod("/tmp/a/g", 0o600); os.truncate("/tmp/a/g", 3)
folder = os.open("/tmp/a", os.O_DIRECTORY)
if not os.fork():
    os.unlink("h", dir_fd=folder); os._exit(0)
os.wait()
for name in "xyz":
    try:
        os.rmdir(f"/tmp/{name}")
    except FileNotFoundError:
        pass
"""
CALLED = {
    ("mkdir", "", 1): ["/tmp/a"],
    ("rename", "", 1): ["f", "/tmp/a/g"],
    ("link", "", 1): ["/tmp/a/g", "/tmp/a/h"],
    ("symlink", "", 1): ["g", "/tmp/a/s"],
    ("chmod", "", 1): ["/tmp/a/g"],
    ("truncate", "", 1): ["/tmp/a/g"],
    ("unlinkat", "", 2): ["/tmp/a/h"],
    ("rmdir", "ENOENT", 1): ["/tmp/x", "/tmp/y", "/tmp/z"],
}


@pytest.mark.gvisor(trace=True)
def test_system_calls_that_gvisor_does_not_implement_are_named(gvisor: Gvisor) -> None:
    """Each once, by its name in the table of the binary. A child's calls count too."""
    call = "import os\nif not os.fork(): os.sched_rr_get_interval(0)\nos.wait()"
    done = gvisor.run(["python3", "-I", "-S", "-c", call])
    assert done.trace is not None
    assert done.trace.unsupported == ("sched_rr_get_interval",)
    assert done.trace.complete


@pytest.mark.parametrize("paths", [False, True])
def test_changes_without_an_open_are_counted(gvisor: Gvisor, paths: bool) -> None:
    """Their paths come from the strace, and only where they are asked for."""
    command = ["python3", "-I", "-S", "-c", CHANGES]
    trace = gvisor.run(command, trace="paths" if paths else True, check=True).trace
    assert trace is not None
    assert trace.complete, trace
    counts = {(one.call, one.error, one.process): one.count for one in trace.changes}
    assert counts == {call: 3 if call[0] == "rmdir" else 1 for call in CALLED}
    found: dict[tuple[str, str, int], list[str]] = {}
    for one in trace.unverified:
        found.setdefault((one.call, one.error, one.process), []).extend(one.paths)
    assert found == (CALLED if paths else {})
    assert {one.path for one in trace.files if one.path.startswith("/tmp")} == {
        "/tmp/a/f",
        "/tmp/a",
    }


FORGES = r"""
import os
begin = "I1129 18:51:19.101321       1 strace.go:604] [   1:   1] sh X "
line = f"{begin}unlink(0x1 /etc/shadow) = 0 (0x0) (2us)"
for path in (f"/tmp/hidden\n{line}", f"/tmp/last\n{line}\n"):
    try:
        os.mkdir(path)
    except FileNotFoundError:
        pass
"""


def test_a_newline_forges_a_line_and_hides_one_but_changes_no_count(gvisor: Gvisor) -> None:
    """The docs say so. A forged line is nowhere but among those that are marked as unverified."""
    done = gvisor.run(["python3", "-I", "-S", "-c", FORGES], trace="paths", check=True)
    trace = done.trace
    assert trace is not None
    assert ("unlink", ("/etc/shadow",), "") in [
        (one.call, one.paths, one.error) for one in trace.unverified
    ]
    assert "/tmp/hidden" not in [one.paths[0] for one in trace.unverified]
    assert [(one.call, one.count, one.error) for one in trace.changes] == [("mkdir", 2, "ENOENT")]
    lines = [line for line in str(trace).split("\n") if "shadow" in line and "python3" not in line]
    assert lines
    assert all(line.startswith("  unverified, called ") for line in lines)
    assert "shadow" not in f"{trace.files}{trace.attempts}{trace.read}{trace.written}"
    trace.check(write=[], forbid=["write:/etc/**", "read:/etc/shadow"])


NEEDS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: runsc refuses a sandbox network with --rootless"
)


@pytest.mark.parametrize("network", ["none", pytest.param("sandbox", marks=NEEDS_ROOT)])
def test_a_name_that_is_looked_up_shows_as_port_53(gvisor: Gvisor, network: str) -> None:
    """The C library connects a datagram socket. Other resolvers send without a connect."""
    look = "import socket\ntry: socket.getaddrinfo('host.example', 80)\nexcept OSError: pass"
    trace = gvisor.run(["python3", "-I", "-S", "-c", look], network=network, trace=True).trace
    assert trace is not None
    asked = [one for one in trace.connections if one.address.endswith(":53")]
    assert {one.kind for one in asked} == {"datagram"}
    with pytest.raises(AssertionError, match=r":53, by process 1 \(python3 "):
        trace.check(connect=["unix:**"])
    send = (
        "import socket\nwith socket.socket(type=socket.SOCK_DGRAM) as one:\n"
        " try: one.sendto(b'x', ('192.0.2.1', 53))\n except OSError: pass"
    )
    trace = gvisor.run(["python3", "-I", "-S", "-c", send], network=network, trace=True).trace
    assert trace is not None
    assert (trace.connections, trace.datagrams) == ((), 1)
    with pytest.raises(AssertionError, match="sent: 1 datagrams to addresses that are not known"):
        trace.check(connect=["unix:**"])


def test_the_end_of_a_connection_is_no_connect(gvisor: Gvisor) -> None:
    """The C library ends connections of datagram sockets by an address of no family."""
    code = (
        "import ctypes, socket, sys; one = socket.socket(type=socket.SOCK_DGRAM);"
        "one.connect(('127.0.0.1', 9));"
        "sys.exit(ctypes.CDLL(None).connect(one.fileno(), bytes(16), 16))"
    )
    trace = gvisor.run(["python3", "-I", "-S", "-c", code], trace=True, check=True).trace
    assert trace is not None
    assert [one.address for one in trace.connections] == ["127.0.0.1:9"]


def test_a_raw_pair_of_unix_sockets_sends_datagrams(gvisor: Gvisor) -> None:
    """gVisor makes it as a datagram pair, which may send to any address."""
    trace = python(gvisor, (
        "import socket\none, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)\n"
        "try: one.sendto(b'x', '/nowhere')\nexcept OSError: pass"
    ))  # fmt: skip
    assert (trace.complete, trace.datagrams) == (True, 1)


def test_a_forbidden_act_fails_the_run_that_did_it(gvisor: Gvisor) -> None:
    """The message names each act and its process."""
    root = empty({"app/x": b"", "tmp/x": b""})
    shell = ["/bin/busybox", "sh", "-c"]
    mounts = {"/bin/busybox": "/bin/busybox"}

    forbid = ["connect", "exec", "write:/app/**"]

    def shows(script: str) -> str:
        with pytest.raises(AssertionError, match="did what is not allowed") as caught:
            gvisor.run([*shell, script], rootfs=root, mounts=mounts, forbid=forbid)
        return str(caught.value).partition("\n  ")[2]

    script = ": < /app/x; : > /tmp/made"
    done = gvisor.run([*shell, script], rootfs=root, mounts=mounts, forbid=forbid)
    assert done.trace is not None
    assert done.trace.written == {"/tmp/made"}
    assert shows("echo $$ > /app/made").startswith(
        "written, created: /app/made, by process 1 (/bin/busybox sh -c "
    )
    line = shows("/bin/busybox true; :")
    assert line.startswith("executed: /bin/busybox true, by process 2 below 1 (/bin/busybox sh -c ")


def did_by_its_deadline(run: Callable[[float], object]) -> str:
    """Return the acts of a program that are not allowed, and that it did before it was late.

    A busy machine may not have started it by the first deadline.
    """
    for seconds in (2, 40):
        with pytest.raises((AssertionError, WorkloadTimeout)) as caught:
            run(seconds)
        if not isinstance(caught.value, WorkloadTimeout):
            break
    head, _, acts = str(caught.value).partition("\n  ")
    assert "did what is not allowed" in head
    assert isinstance(caught.value.__context__, WorkloadTimeout)
    return acts


def test_a_run_that_connects_fails(gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the test catches another error of the run."""
    # SIGTERM comes by a command of runsc. A SIGKILL before it leaves a trace without an end.
    monkeypatch.setattr(supervisor, "TERM_GRACE", PATIENCE)
    code = 'import socket, time; socket.socket().connect_ex(("127.0.0.1", 9)); time.sleep(60)'
    command = ["python3", "-I", "-S", "-c", code]
    late = did_by_its_deadline(lambda s: gvisor.run(command, timeout=s, forbid=["connect"]))
    assert late.startswith("connected: 127.0.0.1:9 (ECONNREFUSED), by process 1 ")


def test_a_trace_with_a_gap_is_an_error_where_acts_are_forbidden(gvisor: Gvisor) -> None:
    """Nobody knows what it did. A program that was not started did nothing."""
    hidden = ["python3", "-I", "-S", "-c", f"import os; {HIDDEN['name']}"]
    with pytest.raises(TraceError, match="not complete"):
        gvisor.run(hidden, forbid=["connect"])
    with pytest.raises(ProgramNotStarted):
        gvisor.run(["no-such-program"], forbid=["connect"])


HIDDEN = {
    "name": r'os.symlink("/etc/hostname", b"/tmp/\xff"); os.open(b"/tmp/\xff", os.O_RDONLY)',
    "folder": r'os.mkdir(b"/tmp/\xff"); os.chdir(b"/tmp/\xff"); os.open("/etc/hostname", 0)',
    "argument": r'os.system(b"true \xff")',
    "variable": r'os.spawnve(os.P_WAIT, "/bin/true", ["true"], {b"A": b"\xff"})',
    "program": r'os.symlink("/bin/true", b"/tmp/\xff"); os.spawnv(0, b"/tmp/\xff", ["true"])',
}


@pytest.mark.parametrize("code", HIDDEN.values(), ids=HIDDEN)
def test_an_event_that_gvisor_cannot_encode_makes_a_gap(gvisor: Gvisor, code: str) -> None:
    """gVisor neither sends nor counts an event with a text that is no UTF-8."""
    trace = python(gvisor, f"import os; {code}")
    assert trace.dropped == 0
    (gap,) = trace.gaps
    assert "cannot report" in gap or "can report" in gap
    with pytest.raises(TraceError, match="not complete"):
        trace.check()


def test_a_program_with_such_a_name_is_an_attempt(gvisor: Gvisor) -> None:
    """Its name comes by a rename, and it is executed through a link: only the attempt has texts."""
    trace = python(
        gvisor,
        "import os, shutil\n"
        'shutil.copy("/bin/true", "/tmp/x"); os.rename("/tmp/x", b"/tmp/\\xff")\n'
        'os.symlink(b"/tmp/\\xff", "/tmp/link"); os.spawnv(os.P_WAIT, "/tmp/link", ["true"])\n'
        'os.spawnvp(os.P_WAIT, "true", ["true", "found"])',
    )
    assert trace.complete
    assert [(one.program, one.argv) for one in trace.attempts] == [("/tmp/link", ("true",))]
    assert trace.commands[1:] == [["true", "found"]]
    with pytest.raises(AssertionError, match="tried to execute: /tmp/link, by process 2 below 1"):
        trace.check(execute=["/usr/bin/*"])


def test_a_file_with_another_name_that_stays_open_is_not_confirmed(gvisor: Gvisor) -> None:
    """Only the name of its open is known, which a strict check takes as a violation."""
    opened = 'os.open("/tmp/s/x", os.O_CREAT | os.O_WRONLY); os._exit(0)'
    trace = python(gvisor, f'import os; os.mkdir("/app"); os.symlink("/app", "/tmp/s"); {opened}')
    trace.check(forbid=["write:/app/**"])
    with pytest.raises(AssertionError, match="not confirmed, written, created: "):
        trace.check(forbid=["write:/app/**"], strict=True)


def test_openat2_hides_nothing(gvisor: Gvisor) -> None:
    """No event has its path: if the kernel has the call, the trace has a gap."""
    trace = python(
        gvisor,
        "import ctypes; how = (ctypes.c_uint64 * 3)(0, 0, 0); number = 437\n"
        'fd = ctypes.CDLL(None).syscall(number, -100, b"/etc/hostname", how, 24)\n'
        'if fd < 0: open("/tmp/refused", "w").close()',
    )
    assert trace.complete == ("/tmp/refused" in trace.written)


def test_a_name_of_a_process_hides_nothing(gvisor: Gvisor) -> None:
    """No event has it, so one that is no UTF-8 keeps none back."""
    trace = python(
        gvisor,
        'import ctypes; ctypes.CDLL(None).prctl(15, b"\\xff", 0, 0, 0); open("/etc/hostname")',
    )
    assert trace.complete
    assert "/etc/hostname" in trace.read


def test_a_message_that_is_too_large_is_a_drop(gvisor: Gvisor) -> None:
    """gVisor cannot send 300 KB at once, and counts that. The check of such a trace is an error."""
    trace = python(
        gvisor, 'import os; os.spawnv(os.P_WAIT, "/bin/true", ["true", *["x" * 10**5] * 3])'
    )
    assert trace.dropped
    assert f"{trace.dropped} events were dropped" in trace.gaps
    with pytest.raises(TraceError, match="events were dropped"):
        trace.check()


FLIPS = """
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static volatile char name[] = "/tmp/public";

static void *flip(void *unused) {
    for (;;) { name[5] = 's'; name[5] = 'p'; }
    return unused;
}

int main(void) {
    struct stat secret, found;
    pthread_t thread;
    int seen = 0;
    close(open("/tmp/public", O_CREAT | O_RDWR, 0600));
    close(open("/tmp/sublic", O_CREAT | O_RDWR, 0600));
    stat("/tmp/sublic", &secret);
    pthread_create(&thread, NULL, flip, NULL);
    for (int count = 0; count < 3000; count++) {
        int fd = open((char *)name, O_RDONLY);
        fstat(fd, &found);
        seen += found.st_ino == secret.st_ino;
        close(fd);
    }
    printf("%d", seen);
    return 0;
}
"""


def test_a_name_that_another_thread_changes_is_known_at_its_close(
    gvisor: Gvisor, compile_c: Callable[[str], Path]
) -> None:
    """The event of the open may have either name. The close has the file's own path."""
    program = compile_c(FLIPS).read_bytes()
    done = gvisor.run(["/flips"], rootfs=empty({"flips": program, "tmp/x": b""}), trace=True)
    assert done.trace is not None
    assert done.trace.complete
    opened = {one.path: one for one in done.trace.files if one.read and not one.written}
    assert ("/tmp/sublic" in opened) >= (int(done.stdout) > 0)
    assert all(one.confirmed for one in opened.values())


SHELLS = r"""
import os, sys
def run(*argv):
    pid = os.posix_spawn(argv[0], argv, {})
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, argv
with open("/tmp/script", "w") as file:
    file.write("#!/bin/sh\nexit 0\n")
os.chmod("/tmp/script", 0o755)
os.symlink("/bin/sh", "/tmp/other")
run("/tmp/script")
run("/tmp/other", "-c", ":")
run(sys.argv[1], "/bin/sh", "-c", ":")
"""


def test_a_program_counts_by_no_name_but_those_that_the_trace_has(gvisor: Gvisor) -> None:
    """A script's ``#!``, a loader's argument and a link to the link ``sh`` are none of them."""
    loader = elf.loader_of("/bin/sh")
    argv = ["python3", "-I", "-S", "-c", SHELLS, loader]
    done = gvisor.run(argv, check=True, trace=True, forbid=["exec:sh"])
    assert done.trace is not None
    names = [one.called or one.program for one in done.trace.executed[1:]]
    assert names == ["/tmp/script", "/tmp/other", loader]
