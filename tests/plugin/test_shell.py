"""``--gvisor-shell``: a shell in a failed test's sandbox, on the user's terminal."""

from __future__ import annotations

import contextlib
import re
import sys
import termios
from collections.abc import Iterator

from tests.bundlecheck import ENVIRONMENT
from tests.plugin.conftest import INI, Project
from tests.terminals import User, in_front_of

# Before 2026 gVisor sends SIGINT and gives the shell the key too, which rings the bell.
PROMPT = r"[#$] \x07?\Z"
NEXT = "gvisor: the session goes on"


@contextlib.contextmanager
def user(alone: Project, test: str, *options: str) -> Iterator[User]:
    """Somebody in front of a pytest with ``--gvisor-shell``."""
    alone.write({"pytest.ini": INI}).test(test)
    argv = [sys.executable, "-m", "pytest", "-p", "no:hypothesispytest", "--gvisor-shell"]
    environment = {**ENVIRONMENT, "TERM": "dumb"}  # bash writes no escape sequences then
    with in_front_of([*argv, *options], alone.folder, environment) as somebody:
        yield somebody


def enter(me: User, keys: bytes = b"") -> str:
    """Wait for the shell, and return the output until its prompt."""
    return me.type(keys, rf"exit ends it(?s:.*){PROMPT}")


FAILURES = """
import pytest

def test_status(gvisor):
    print("of the test itself")
    script = "echo left > /tmp/file; sleep 1000 & echo out; exit 3"
    done = gvisor.run(["sh", "-c", script], env={"WHO": "me"}, cwd="/tmp", user=1000)
    assert done.returncode == 0

def test_passes(gvisor):
    assert gvisor.run(["echo", "fine"]).stdout == "fine\\n"

def test_time_out(gvisor):
    gvisor.run(["sh", "-c", "echo begun > /tmp/file; exec sleep 1234"], timeout=10)

def test_missing(gvisor):
    gvisor.run(["nope"])

def test_warm(gvisor_sandbox):
    gvisor_sandbox.put("/tmp/file", "put")
    assert gvisor_sandbox.exec(["false"], cwd="/usr").returncode == 0

def test_without_a_sandbox():
    assert False
"""


def test_a_shell_finds_what_the_workload_has_left(alone: Project) -> None:
    """The shell has the workload's user, folder, variables, files and processes, and a terminal;
    then the session goes on.
    """
    with user(alone, FAILURES) as me:
        told = enter(me)
        assert "assert 3 == 0" in told
        assert "| out" in told
        assert "in the sandbox of sh -c 'echo left" in told
        told = me.type(
            b"id -u; pwd; echo $WHO $TERM; cat file; stty size; cat /proc/[0-9]*/cmdline | "
            b"tr '\\0' ' '; echo; uname -r\n",
            rf"\d\.\d+\.\d+\S*\r\n.*{PROMPT}",
        )
        assert re.search(r"\n1000\r\n/tmp\r\nme dumb\r\nleft\r\n33 77\r\n", told)
        assert "sleep 1000" in told
        me.resize(20, 50)
        me.type(b"stty size\n", rf"20 50\r\n.*{PROMPT}")
        me.type(
            b"sh -c 'echo go-$((1+1)); exec sleep 1000'; test $? -gt 1 || echo not-$((1+1))\n",
            "go-2\r\n",
        )
        assert "not-2" not in me.type(b"\x03", PROMPT)

        told = enter(me, b"exit\n")
        assert NEXT in told
        assert "still running after 10 s" in told
        assert "exec sleep 1234' (timed out)" in told
        keys = b"cat /tmp/file; cat /proc/[0-9]*/cmdline; echo; echo X\n"
        told = me.type(keys, rf"X\r\n.*{PROMPT}")
        assert "begun" in told
        assert "sleep\x001234" not in told

        assert 'program "nope" was not found' in enter(me, b"exit\n")
        assert "in the sandbox of gvisor_sandbox" in enter(me, b"exit 5\n")
        me.type(b"pwd; cat /tmp/file\n", rf"\n/usr\r\nput.*{PROMPT}")
        me.type(b"\x04", NEXT)
        assert me.end() == 1
    assert b"5 failed, 1 passed" in me.text
    assert me.text.count(b"exit ends it") == 4


OTHERS = """
import os
import signal

import pytest
from pytest_gvisor import directory, empty
from pytest_gvisor.programs import leftovers, proc

def test_several(gvisor):
    for number in range(6):
        gvisor.run(["sh", "-c", f"echo {number} > /tmp/file"])
    assert False

def test_no_shell(gvisor):
    with open("/bin/busybox", "rb") as file:
        content = file.read()
    files = {"bin/true": content, "here": b"a file"}
    assert gvisor.run(["/bin/true"], rootfs=empty(files)).returncode == 1

def test_no_place(gvisor, tmp_path):
    (tmp_path / "bin").mkdir()
    with open("/bin/busybox", "rb") as file, open(tmp_path / "bin/false", "wb") as copy:
        copy.write(file.read())
    os.chmod(tmp_path / "bin/false", 0o755)
    done = gvisor.run(["/bin/false"], rootfs=directory(tmp_path), readonly=True)
    assert done.returncode == 0

def test_crash(gvisor_sandbox, gvisor):
    gvisor_sandbox.exec(["true"])
    for pid in leftovers.processes(gvisor._launcher.session().path, everywhere=True):
        if "boot" in proc.words_of(pid):
            os.kill(pid, signal.SIGKILL)
    gvisor_sandbox.exec(["true"])

@pytest.fixture
def broken(gvisor):
    gvisor.run(["sh", "-c", "echo of a fixture > /tmp/file"])
    assert False

def test_fixture(broken): ...
"""


def test_each_kind_of_sandbox_has_a_shell_or_a_sentence(alone: Project) -> None:
    """The user chooses one of several runs. Python stands in for a missing shell, and a sentence
    for a missing sandbox.
    """
    with user(alone, OTHERS) as me:
        told = me.type(b"", r"for none\] \Z")
        assert re.findall(r"\n  (\d)  sh -c 'echo (\d) > /tmp/file' \(exit status 0\)", told) == [
            ("1", "2"), ("2", "3"), ("3", "4"), ("4", "5"),
        ]  # fmt: skip
        assert re.search(r"for none\] \Z", me.type(b"5\n", r"for none\] \Z"))
        enter(me, b"2\n")
        me.type(b"cat /tmp/file\n", rf"\n3\r\n.*{PROMPT}")

        told = me.type(b"exit\n", ">>> ")
        assert "There is no shell in this sandbox" in told
        told = me.type(b"print(open('/here').read())\n", r"\na file\r\n>>> \Z")

        told = enter(me, b"\x04")
        assert re.search(r"no shell in the sandbox of /bin/false .*: .* has no mount point", told)
        assert "no shell in the sandbox of gvisor_sandbox: it is gone" in told
        assert "setup: test_it.py::test_fixture" in told
        me.type(b"cat /tmp/file\n", "of a fixture\r\n")
        me.type(b"exit\n", NEXT)
        assert me.end() == 1
    assert b"4 failed, 1 error" in me.text


def test_it_needs_a_terminal_and_no_workers(alone: Project) -> None:
    """Without a terminal, and with xdist's workers, the option is a usage error with a way out."""
    ran = alone.test("def test_it(): pass").run("--gvisor-shell").exits(4)
    ran.shows("--gvisor-shell needs a terminal as standard input", "--gvisor-keep=failed")
    alone.run(PYTEST_GVISOR_SHELL="1").exits(4).shows("needs a terminal")
    with user(alone, "def test_it(): pass", "-n2") as me:
        assert me.end() == 4
    assert b"--gvisor-shell needs this terminal, which xdist's workers have not. Add -n0" in me.text


def test_the_terminal_is_restored_when_pytest_is_ended(alone: Project) -> None:
    """SIGTERM while the shell runs ends pytest with the terminal as it was."""
    test = "def test_it(gvisor): assert gvisor.run(['false']).returncode == 0"
    with user(alone, test) as me:
        enter(me)
        assert termios.tcgetattr(me.theirs) != me.before
        me.tool.terminate()
        me.end()
