"""The frames of a shell's terminal, and the program itself on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_gvisor.guest import shell

PROGRAM = Path(shell.__file__)


def test_frames_come_whole_however_they_are_cut() -> None:
    """A frame is complete when its last byte is there."""
    sent = (
        shell.frame(shell.KEYS, b"keys") + shell.size_frame(33, 77) + shell.frame(shell.KEYS, b"")
    )
    frames = shell.Frames()
    came = [one for byte in sent for one in frames.feed(bytes([byte]))]
    assert came == [(shell.KEYS, b"keys"), (shell.SIZE, b"\0\x21\0\x4d"), (shell.KEYS, b"")]
    assert list(shell.Frames().feed(sent)) == came


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes the workload's user")
def test_a_shell_has_the_user_and_the_environment_that_are_asked_for() -> None:
    """The output is that of a terminal, the status is the shell's, and a missing folder is /."""
    wanted = {
        "env": {"PATH": os.defpath, "WHO": "me", "TERM": "dumb"}, "cwd": "/nowhere",
        "user": [12, 34, [56]], "size": [33, 77],
    }  # fmt: skip
    keys = b"id -u; id -g; pwd; echo $WHO; stty size; exit 7\n"
    data = shell.frame(shell.START, json.dumps(wanted).encode()) + shell.frame(shell.KEYS, keys)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(data)
        program.stdin.flush()
        output = program.stdout.read()
        assert program.wait(30) == 7
    assert b"12\r\n34\r\n/\r\nme\r\n33 77\r\n" in output
