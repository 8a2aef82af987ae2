"""Snapshots: a warm sandbox is saved, and copies of it go on from there."""

import glob
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Gvisor, Sandbox, SandboxCrashed, SnapshotError, UsageError, empty
from pytest_gvisor.programs import leftovers
from pytest_gvisor.programs.proc import words_of
from pytest_gvisor.run import connected
from tests.runsc.conftest import wait_for
from tests.sandbox.conftest import BUSYBOX, alive

COUNTER = """
import socket
with socket.create_server(("127.0.0.1", 8080)) as server:
    print("ready", flush=True)
    count = 0
    while True:
        caller = server.accept()[0]
        with caller:
            count += 1
            caller.sendall(b"%d" % count)
"""


UNIX = COUNTER.replace(
    'socket.create_server(("127.0.0.1", 8080))', "socket.socket(socket.AF_UNIX)"
).replace("as server:", "as server:\n    server.bind('/tmp/counter')\n    server.listen()")
"""The counter on a Unix socket. A TCP listener may be deaf in copies if a connection is just being
closed: gVisor issue 13554."""


def ask_unix(sandbox: Sandbox) -> str:
    """The answer of the counter on a Unix socket."""
    script = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/tmp/counter'); "
    script += "print(s.recv(9).decode())"
    return sandbox.exec(["python3", "-c", script], check=True).stdout.strip()


def ask(sandbox: Sandbox) -> str:
    """The answer of the counter inside."""
    script = "import socket; print(socket.create_connection(('127.0.0.1', 8080)).recv(99).decode())"
    return sandbox.exec(["python3", "-c", script], check=True).stdout.strip()


def test_files_and_processes_come_back_in_each_copy_and_the_sandbox_runs_on(gvisor: Gvisor) -> None:
    """Copies share nothing with each other, nor with the sandbox that was saved."""
    with gvisor.sandbox() as first:
        first.put("/data/file", "before")
        server = first.popen(["python3", "-c", UNIX])
        server.wait_for_output(rb"ready\n")
        assert ask_unix(first) == "1"
        with first.snapshot() as snapshot:
            assert ask_unix(first) == "2"
            first.put("/data/file", "after")
            with gvisor.sandbox(snapshot=snapshot) as one:
                assert one.get("/data/file") == b"before"
                one.put("/data/file", "one")
                assert [ask_unix(one), ask_unix(one)] == ["2", "3"]
                with gvisor.sandbox(snapshot=snapshot) as other:
                    assert other.get("/data/file") == b"before"
                    assert ask_unix(other) == "2"
                    assert one.get("/data/file") == b"one"
        assert first.get("/data/file") == b"after"
        server.kill()


def test_copies_are_started_at_once(gvisor: Gvisor) -> None:
    """In threads, each with programs of its own."""
    with gvisor.sandbox() as first:
        first.put("/data/file", "saved")
        with first.snapshot() as snapshot:

            def read(number: int) -> str:
                with gvisor.sandbox(snapshot=snapshot) as copy:
                    copy.put(f"/data/{number}", "x")
                    return copy.exec(["sh", "-c", "cat /data/file; ls /data"], check=True).stdout

            with ThreadPoolExecutor(3) as pool:
                found = list(pool.map(read, range(3)))
    assert found == [f"saved{number}\nfile\n" for number in range(3)]


def test_a_copy_is_saved_again_and_ids_go_on(gvisor: Gvisor) -> None:
    """Snapshots of copies are as good as the first."""
    with gvisor.sandbox() as first:
        first.put("/data/a", "a")
        one = first.snapshot()
    with one, gvisor.sandbox(snapshot=one) as copy:
        copy.put("/data/b", "b")
        two = copy.snapshot()
    with two, gvisor.sandbox(snapshot=two) as last:
        script = "cat /data/a /data/b"
        assert last.exec(["sh", "-c", script], check=True).stdout == "ab"


def test_the_sandbox_that_was_saved_need_not_live(gvisor: Gvisor) -> None:
    """The copy's host hears nothing of programs that ran before, which run on."""
    first = gvisor.sandbox()
    reader = first.popen(["sh", "-c", "cat; echo over; sleep 1000"])
    writer = first.popen(
        ["python3", "-c", "import time\nwhile True: print('x' * 1000, flush=True)"]
    )
    writer.wait_for_output(rb"x\n")
    first.popen(["sh", "-c", "until test -e /tmp/go; do sleep 0.1; done; echo late"])
    with first.snapshot() as snapshot:
        reader.stdin.write(b"to the first\n")
        reader.wait_for_output(rb"to the first\n")
        first.close()
        with gvisor.sandbox(snapshot=snapshot) as copy:
            assert len(alive(copy, "print(")) == 1
            assert len(alive(copy, "sleep 1000")) == 1
            copy.put("/tmp/go", "")
            wait_for(lambda: not alive(copy, "test -e"), "the end of a program of before")
            done = copy.exec(["sh", "-c", "cat; exit 3"], input="to the copy")
            assert (done.stdout, done.returncode, done.exact) == ("to the copy", 3, True)


def test_nothing_is_left_of_copies_and_images(gvisor: Gvisor) -> None:
    """The session folder is as before; runsc's own folders are gone."""
    with gvisor.sandbox() as first:
        session = Path(gvisor._launcher.session().path)
        before = sorted(session.iterdir())
        with first.snapshot() as snapshot:
            assert Path(snapshot.folder).parent == session
            assert Path(snapshot.folder).stat().st_mode & 0o777 == 0o700
            assert 0 < snapshot.size < 64 * 1024**2
            with gvisor.sandbox(snapshot=snapshot) as copy:
                root = copy._record.argv[copy._record.argv.index("--root") + 1]
                assert leftovers.processes(root, everywhere=True)
            assert leftovers.processes(root, everywhere=True) == []
        assert sorted(session.iterdir()) == before
    records = [record.completed for record in gvisor.records if record.completed]
    assert [record.leaks for record in records if record.leaks] == []


RENEWALS = {
    "nothing": "",
    "a request": "random.seed(); ssl.RAND_add(os.urandom(48), 48)",
    "a fork": "os.fork() and os.wait() and os._exit(0)",
}


@pytest.mark.parametrize("renewal", RENEWALS)
def test_programs_of_a_copy_have_fresh_randomness_and_those_that_run_repeat_theirs(
    renewal: str, gvisor: Gvisor
) -> None:
    """The kernel's numbers are new. The state of a generator is a part of its process.

    A program that gets a request can change that, in the two ways that docs/sandbox.md names.
    """
    draws = COUNTER.replace("import socket", "import os, random, socket, ssl\nssl.RAND_bytes(1)")
    draws = draws.replace("count += 1", RENEWALS[renewal] or "pass")
    numbers = "f'{random.random()} {ssl.RAND_bytes(8).hex()}'.encode()"
    draws = draws.replace('b"%d" % count', numbers)
    fresh, drawn = set(), []
    with gvisor.sandbox() as first:
        first.popen(["python3", "-c", draws]).wait_for_output(rb"ready\n")
        with first.snapshot() as snapshot:
            for _ in range(2):
                with gvisor.sandbox(snapshot=snapshot) as copy:
                    draw = "import os, random; print(os.urandom(4), random.random(), hash('a'))"
                    fresh.add(copy.exec(["python3", "-c", draw], check=True).stdout)
                    drawn.append(ask(copy).split())
    assert len(fresh) == 2
    alike = [first == second for first, second in zip(*drawn, strict=True)]
    assert alike == [renewal == "nothing"] * 2


@pytest.mark.parametrize("rootfs", ["static", "readonly"])
def test_other_root_file_systems_are_saved_too(gvisor: Gvisor, rootfs: str) -> None:
    """One without Python, and one that nobody writes to."""
    options: dict[str, Any] = {"readonly": True}
    if rootfs == "static":
        options = {"rootfs": empty({"bin/busybox": BUSYBOX.read_bytes()})}
    shell = ["/bin/busybox", "sh", "-c"] if rootfs == "static" else ["sh", "-c"]
    with gvisor.sandbox(**options) as first:
        first.exec([*shell, "echo saved > /tmp/file"], check=True)
        with first.snapshot() as snapshot, gvisor.sandbox(snapshot=snapshot) as copy:
            assert copy.exec([*shell, "read x < /tmp/file; echo $x"]).stdout == "saved\n"


def test_defaults_of_programs_are_the_snapshot_s_or_the_copy_s_own(gvisor: Gvisor) -> None:
    """env, cwd and user are no part of what was saved."""
    with gvisor.sandbox(env={"A": "1", "B": "1"}, cwd="/tmp") as first, first.snapshot() as kept:
        with gvisor.sandbox(snapshot=kept) as same:
            assert same.exec(["sh", "-c", "echo $A$B $PWD"]).stdout == "11 /tmp\n"
        with gvisor.sandbox(snapshot=kept, env={"B": "2"}, cwd="/usr", user=1000) as other:
            assert other.exec(["sh", "-c", "echo $A$B $PWD $(id -u)"]).stdout == "12 /usr 1000\n"


def test_a_copy_with_other_settings_is_a_usage_error(gvisor: Gvisor) -> None:
    """All that differ are named. Nothing is started."""
    with gvisor.sandbox() as first, first.snapshot() as snapshot:
        with pytest.raises(UsageError, match=r"pids=500 \(saved with None\)"):
            gvisor.sandbox(snapshot=snapshot, pids=500)
        with pytest.raises(UsageError, match="its own rootfs"):
            gvisor.sandbox(snapshot=snapshot, rootfs=empty())
    with pytest.raises(SnapshotError, match="is closed"):
        gvisor.sandbox(snapshot=snapshot)


def test_an_image_that_is_broken_is_a_snapshot_error_and_leaves_nothing(gvisor: Gvisor) -> None:
    """The error has the messages of runsc."""
    with gvisor.sandbox() as first, first.snapshot() as snapshot:
        for file in Path(snapshot.folder).iterdir():
            file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(SnapshotError, match="cannot be restored"):
            gvisor.sandbox(snapshot=snapshot)
        assert first.exec(["true"]).returncode == 0


def test_a_sandbox_that_cannot_be_saved_says_why_and_runs_on(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of runsc is in the error."""
    monkeypatch.setattr(
        connected, "save_argv", lambda _, folder: ("runsc", "--root", f"{folder}/root", "?")
    )
    with gvisor.sandbox() as first:
        with pytest.raises(SnapshotError, match="could not be saved"):
            first.snapshot()
        assert first.exec(["echo", "on"]).stdout == "on\n"


def test_a_sandbox_that_is_too_large_to_save_runs_on(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image of it is left."""
    monkeypatch.setattr(connected, "LARGEST", 1_000_000)
    with gvisor.sandbox() as first:
        before = sorted(Path(gvisor._launcher.session().path).rglob("image*"))
        with pytest.raises(SnapshotError, match="more than 1000000 bytes"):
            first.snapshot()
        assert sorted(Path(gvisor._launcher.session().path).rglob("image*")) == before
        assert first.exec(["echo", "on"]).stdout == "on\n"


def test_a_sandbox_that_is_not_saved_in_time_is_killed(gvisor: Gvisor) -> None:
    """Its guest was at rest, and runsc may be in the middle of it."""
    with gvisor.sandbox() as first:
        with pytest.raises(SnapshotError, match="was not saved within"):
            first.snapshot(timeout=0.001)
        with pytest.raises(SandboxCrashed, match="could not be saved in time"):
            first.exec(["true"])


def test_in_a_copy_root_cannot_open_the_guest_s_socket(gvisor: Gvisor) -> None:
    """The guest has stayed undumpable."""
    script = "import os; os.open('/proc/1/fd/%d' % 3, os.O_RDWR)"
    look = "ls -l /proc/1/fd 2>&1; cat /proc/1/environ >/dev/null 2>&1; echo $?"
    with (
        gvisor.sandbox() as first,
        first.snapshot() as snapshot,
        gvisor.sandbox(snapshot=snapshot) as copy,
    ):
        ends = [box.exec(["python3", "-c", script]).returncode for box in (first, copy)]
        seen = [box.exec(["sh", "-c", look]).stdout.splitlines()[-1] for box in (first, copy)]
    assert ends == [1, 1]
    assert seen[0] == seen[1]


def test_while_a_sandbox_is_saved_other_threads_wait(gvisor: Gvisor) -> None:
    """Their programs run before or after it, and none is lost."""
    with gvisor.sandbox() as first, ThreadPoolExecutor(2) as pool:

        def echo(number: int) -> str:
            return first.exec(["cat"], input=f"{number}" * 300_000).stdout[:1]

        found = pool.map(echo, [number % 10 for number in range(20)])
        for _ in range(3):
            with first.snapshot() as snapshot, gvisor.sandbox(snapshot=snapshot) as copy:
                assert copy.exec(["echo", "copy"]).stdout == "copy\n"
        assert "".join(found) == "0123456789" * 2


KILLED = r"""
import sys, pytest_gvisor
with pytest_gvisor.session(**eval(sys.argv[1])) as gvisor:
    with gvisor.sandbox() as sandbox:
        code = "import os; kept = os.urandom(2**20) * 100; print('ready', flush=True); input()"
        sandbox.popen(["python3", "-c", code]).wait_for_output(rb"ready\n")
        print(gvisor._launcher.session().path, flush=True)
        while True:
            sandbox.snapshot().close()
"""


def test_a_process_that_is_killed_while_it_saves_leaves_nothing(gvisor: Gvisor) -> None:
    """The keeper kills runsc's checkpoint with the sandbox, and removes the half of an image."""
    options = {"platform": gvisor.platform, "runsc": gvisor.runsc.path}
    argv = [sys.executable, "-c", KILLED, repr({k: str(v) for k, v in options.items()})]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        session = Path(process.stdout.readline().strip())
        # A Path's own glob raises an error for an image that is removed meanwhile.
        wait_for(lambda: glob.glob(f"{session}/*/image/*"), "an image that is being written")
        process.kill()
    wait_for(lambda: not session.exists(), "the removal of the session folder")
    found = leftovers.processes(str(session), everywhere=True)
    # The keeper may end meanwhile: then it has no words.
    assert [pid for pid in found if "runsc" in "".join(words_of(pid)[:1])] == []
