"""A debugger in tests inside, with a real pseudo-terminal and with lines from a pipe."""

import contextlib
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.inside.conftest import plain

PATIENCE = 60.0
COMMAND = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--gvisor-strict"]
ANNOUNCED = ">>> gvisor: a debugger INSIDE asks for input: "


class User:
    """Somebody at a terminal, in front of pytest."""

    def __init__(self, *arguments: str) -> None:
        self.ours, theirs = os.openpty()
        self.text = b""
        # With a controlling terminal, so that Ctrl-C is a signal.
        self.pytest = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *COMMAND, *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**os.environ, "TERM": "vt220"},
        )  # fmt: skip
        os.close(theirs)

    def _read(self, seconds: float) -> bool:
        """Read the output that comes within so many seconds; return whether more may come."""
        if select.select([self.ours], [], [], seconds)[0]:
            try:
                self.text += os.read(self.ours, 65536)
            except OSError:
                return False
        return True

    def type(self, keys: str, answer: str = r"\(Pdb\) ") -> str:
        """Press keys, wait until a later output matches, and return that output."""
        start = len(self.text)
        os.write(self.ours, keys.encode())
        deadline = time.monotonic() + PATIENCE
        while not re.search(answer, self.text[start:].decode("utf-8", "replace")):
            assert time.monotonic() < deadline, self.text.decode()
            assert self._read(0.1), self.text.decode()
        time.sleep(0.1)
        self._read(0.0)
        return self.text[start:].decode()

    def end(self) -> int:
        """Return pytest's status."""
        deadline = time.monotonic() + PATIENCE
        while self._read(0.1) and time.monotonic() < deadline:
            pass
        return self.pytest.wait(PATIENCE)


@contextlib.contextmanager
def user(*arguments: str) -> Iterator[User]:
    """Somebody at a terminal, which is closed at the end."""
    somebody = User(*arguments)
    try:
        yield somebody
    finally:
        somebody.pytest.kill()
        somebody.pytest.wait()
        os.close(somebody.ours)


def piped(lines: str, *arguments: str) -> pytest.RunResult:
    """Run pytest with lines from a pipe. Both its streams are one, as those of tests inside are."""
    began = time.monotonic()
    done = subprocess.run(
        [*COMMAND, *arguments], input=lines, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    return pytest.RunResult(done.returncode, done.stdout.splitlines(), [], time.monotonic() - began)


def same(lines: str, *arguments: str) -> pytest.RunResult:
    """Run pytest inside and on the host with the same lines, compare, and return the first."""
    inside, host = piped(lines, "--in-gvisor", *arguments), piped(lines, "--no-gvisor", *arguments)
    kept = [line for line in plain(inside) if line and not line.startswith(ANNOUNCED)]
    assert "\n".join(kept) == "\n".join(line for line in plain(host) if line)
    assert inside.ret == host.ret
    return inside


THREE = """
import pytest

@pytest.fixture
def broken():
    yield 1
    gone = 5
    assert gone == 6

def test_fails():
    there = 41
    print("written before")
    assert there == 42

def test_stops():
    number = 1
    breakpoint()
    number = 2
    pytest.set_trace()
    print("written after")

def test_teardown(broken): pass
"""
KINDS = '''
import subprocess, sys, unittest
import pytest

class TestCase(unittest.TestCase):
    def setUp(self): self.thing = 7
    def tearDown(self): self.thing = None
    def test_case(self):
        for number in range(2):
            with self.subTest(number=number):
                self.assertEqual(number, 1)
        self.fail("at last")

def double(number):
    """
    >>> double(2)
    5
    """
    return 2 * number

def test_child():
    breakpoint()
    subprocess.run([sys.executable, "-c", "print('from a child')"])
    there = 3

def test_exit():
    pytest.exit("that is enough", returncode=9)
'''


def test_lines_from_a_pipe_debug_as_on_the_host(project: pytest.Pytester) -> None:
    """With ``--pdb``, failures in each phase and breakpoints read the same lines."""
    project.makepyfile(THREE)
    lines = ["p there", "list", "c", "p number", "n", "p number", "c", "up", "c", "p gone", "c"]
    result = same("\n".join([*lines, "c", "c", "c", ""]), "--pdb")
    result.stdout.fnmatch_lines(
        ["*captured stdout*", "written before", "*PDB post_mortem*", "(Pdb) 41", "*def test_fails*"]
    )
    assert result.parseoutcomes() == {"passed": 2, "failed": 1, "errors": 1}


def test_a_pipe_that_stays_silent_holds_no_session(project: pytest.Pytester) -> None:
    """A test inside may open a debugger where nobody has asked for one."""
    project.makepyfile("def test_it(): breakpoint()\ndef test_next(): pass")
    command = [*COMMAND, "--in-gvisor", "--gvisor-timeout=2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as session:
        assert session.wait(PATIENCE) == pytest.ExitCode.TESTS_FAILED
        assert session.stdout is not None
        shown = session.stdout.read()
    assert b"did not end within 2 s" in shown or b"BdbQuit" in shown
    assert b"1 failed, 1 passed" in shown


def test_without_a_standard_input_a_breakpoint_fails_its_test(project: pytest.Pytester) -> None:
    """Later tests run, as on the host."""
    project.makepyfile("def test_it(): breakpoint()\ndef test_next(): pass")
    result = project.run("sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "--in-gvisor")
    assert result.parseoutcomes() == {"passed": 1, "failed": 1}


def test_each_kind_of_test_debugs_as_on_the_host(project: pytest.Pytester) -> None:
    """Doctests, subtests, output of child processes, ``interact``, and `pytest.exit` at the end."""
    project.makepyfile(KINDS)
    lines = ["p number", "c", "p self.thing", "c", "p self.thing", "c", "n", "n", "interact"]
    result = same("\n".join([*lines, "print(there)", "1/0", ""]), "--pdb", "--doctest-modules")
    assert result.ret == 9
    result.stdout.fnmatch_lines(["*from a child", ">>> 3", "*ZeroDivision*", "*that is enough*"])


@pytest.mark.parametrize("capture", ["-s", "--capture=sys"])
def test_trace_and_quit_are_as_on_the_host(capture: str, project: pytest.Pytester) -> None:
    """With ``--trace`` each test begins in a debugger; ``q`` ends the session, and tears down."""
    project.makepyfile(
        "import os, pytest\n"
        "@pytest.fixture(autouse=True, scope='session')\n"
        "def whole(): yield; print('torn down')\n"
        "def test_one():\n    print('one')\n    os.system('echo child')\n"
        "def test_two(): print('two')\n"
    )
    result = same("n\nn\nn\nn\nq\n", "--trace", capture)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        ["*one", "*child", "*torn down", "*Exit: Quitting debugger*", "*1 passed*"]
    )


FAILING = """
def test_fails():
    there = 41
    assert there == 42

def test_passes(): pass
"""


def test_at_a_terminal_the_deadline_is_halted(project: pytest.Pytester) -> None:
    """A user who thinks for longer than the deadline goes on, and the next test runs."""
    project.makepyfile(FAILING)
    with user("--in-gvisor", "--pdb", "--gvisor-timeout=5") as me:
        shown = me.type("")
        assert ANNOUNCED + "test_at_a_terminal_the_deadline_is_halted.py::test_fails" in shown
        assert "post_mortem" in shown
        time.sleep(6)
        assert "41" in me.type("p there\n")
        me.type("c\n", "1 failed, 1 passed in ")
        assert me.end() == pytest.ExitCode.TESTS_FAILED


def test_ctrl_d_quits(project: pytest.Pytester) -> None:
    """The end of the input ends the session, as on the host."""
    project.makepyfile(FAILING)
    with user("--in-gvisor", "--pdb") as me:
        me.type("")
        assert "Exit: Quitting debugger" in me.type("\x04", "1 failed in")
        assert me.end() == pytest.ExitCode.INTERRUPTED


def test_ctrl_c_reaches_the_debugger(project: pytest.Pytester) -> None:
    """At the prompt Ctrl-C drops the line; while the test runs it stops there, in the debugger."""
    project.makepyfile(
        "import time\n"
        "def test_it():\n"
        "    breakpoint()\n"
        "    for number in range(1000):\n"
        "        print('going', number)\n"
        "        time.sleep(0.1)\n"
    )
    with user("--in-gvisor", "-s") as me:
        me.type("")
        assert "--KeyboardInterrupt--" in me.type("p 1 +\x03")
        me.type("c\n", "going 3")
        assert "Program interrupted" in me.type("\x03")
        assert re.search(r"\b500\b", me.type("p 499 + 1\n"))
        assert "Quitting debugger" in me.type("q\n", "no tests ran in")
        assert me.end() == pytest.ExitCode.INTERRUPTED
