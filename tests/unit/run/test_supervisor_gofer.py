"""The gofer of a run is found among runsc's descendants."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pytest_gvisor.run.supervisor import _find_gofer

TREE = """
import os, sys, time
depth, name = int(sys.argv[1]), sys.argv[2]
if depth:
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", sys.argv[3], str(depth - 1), *sys.argv[2:]])
else:
    os.execv("/bin/sh", ["sh", "-c", "echo up; read x", "sh", name[::-1]])
sys.stdin.read()
"""


@pytest.fixture
def tree(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a descendant so many generations away, whose command line has a mark."""
    depth, name = request.param
    argv = [
        sys.executable,
        "-c",
        TREE,
        str(depth),
        name[::-1],
        TREE,
    ]  # only the last one has the word
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process


@pytest.mark.parametrize("tree", [(1, "gofer"), (2, "gofer")], indirect=True)
def test_a_child_or_grandchild_is_found(tree: subprocess.Popen[bytes]) -> None:
    """The descriptor reports the end of the process."""
    pidfd = _find_gofer(tree.pid)
    assert pidfd is not None
    assert select.select([pidfd], [], [], 0) == ([], [], [])
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], 20) == ([pidfd], [], [])
    os.close(pidfd)


@pytest.mark.parametrize("tree", [(3, "gofer"), (1, "runsc-gofer"), (1, "boot")], indirect=True)
def test_nothing_else_is_taken_for_it(tree: subprocess.Popen[bytes]) -> None:
    """Neither a more distant process nor one with a similar name is found."""
    assert _find_gofer(tree.pid) is None


def test_a_run_that_is_over_has_none() -> None:
    """The pid of a finished run is free, or a zombie's."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert _find_gofer(process.pid) is None
    process.wait()
    assert _find_gofer(process.pid) is None


@pytest.mark.parametrize("call", ["pidfd_open", "listdir"])
@pytest.mark.parametrize("tree", [(1, "gofer")], indirect=True)
def test_a_shortage_of_descriptors_finds_none(
    tree: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A shortage of descriptors makes no claim about the gofer."""

    def refuse(_: object) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        assert _find_gofer(tree.pid) is None
