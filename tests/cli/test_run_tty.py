"""``pytest-gvisor run --tty``: a terminal inside, connected with a real pseudo-terminal here."""

import contextlib
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest

from pytest_gvisor import is_gvisor_kernel
from tests.runsc.conftest import wait_for
from tests.terminals import User, in_front_of


@contextlib.contextmanager
def user(*arguments: str) -> Iterator[User]:
    """Somebody at a terminal in front of ``pytest-gvisor run --tty``."""
    argv = [sys.executable, "-m", "pytest_gvisor", "run", "--tty", *arguments]
    with in_front_of(argv) as somebody:
        yield somebody


@pytest.mark.parametrize("platform", ["systrap", "ptrace"])
def test_a_shell_can_be_worked_in(platform: str) -> None:
    """A shell has a terminal with size and TERM; Ctrl-C ends its job, Ctrl-D its input."""
    with user(f"--platform={platform}", "--", "sh") as me:
        me.type(b"", "# ")
        told = me.type(
            b"for i in 0 1 2; do test -t $i && echo is-$i; done; stty size; "
            b"echo $TERM-; uname -r\n",
            r"\r\nvt220-\r\n\S+\r\n# ",
        )
        assert is_gvisor_kernel(told.split("\r\n")[-2])
        assert "is-0\r\nis-1\r\nis-2\r\n33 77\r\nvt220-\r\n" in told
        # From the program that is in front: between a fork and the execve, dash swallows a SIGINT.
        sleeping = b"sh -c 'echo go-$((1+1)); exec sleep 1000'; echo not-$((1+1))\n"
        me.type(sleeping, "go-2\r\n")
        assert "not-2" not in me.type(b"\x03", r"\^C\r\n# ")
        me.type(b"cat\n", "cat\r\n")
        me.type(b"line\n", "line\r\nline\r\n")
        me.type(b"\x04", "# ")
        me.resize(20, 50)
        me.type(b"stty size\n", r"20 50\r\n# ")
        me.type(b"exit 7\n", "exit 7\r\n")
        assert me.end() == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT])
def test_the_terminal_is_restored_when_the_tool_is_ended(number: signal.Signals) -> None:
    """The terminal is restored although a workload still uses it."""
    with user("--", "sh", "-c", "echo go; sleep 1000") as me:
        me.type(b"", "go\r\n")
        assert termios.tcgetattr(me.theirs) != me.before
        me.tool.send_signal(number)
        assert me.end() == 128 + number
        wait_for(lambda: not subprocess.run(
            ["pgrep", "-P", str(me.tool.pid)], capture_output=True, check=False
        ).stdout, "the sandbox to end")  # fmt: skip


def test_the_deadline_and_a_failure_are_told_on_a_terminal_that_is_as_it_was() -> None:
    """Status 124 and 127; lines end where lines of a terminal end."""
    for seconds in (5, 50):  # a busy machine may take longer to start it
        with user(f"--timeout={seconds}", "--", "sh", "-c", "echo go; sleep 1000") as me:
            assert me.end(patience=100) == 124
        if b"go" in me.text:
            break
    told = rf"go\r\npytest-gvisor run: .* still running after {seconds} s"
    assert re.match(told.encode(), me.text)
    with user("--", "/nonexistent") as me:
        assert me.end() == 127
        assert b"/nonexistent" in me.text


def test_it_needs_a_terminal() -> None:
    """The option `--tty` needs a terminal; `run` without it takes pipes."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest_gvisor", "run", "--tty", "true"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"--tty needs a terminal" in done.stderr
