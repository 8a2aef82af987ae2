"""Somebody at a terminal, in front of a program: presses keys, and waits for answers."""

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PATIENCE = 60.0


class User:
    """Somebody at a terminal of 33 lines of 77 characters, in front of the tool."""

    def __init__(self, argv: Sequence[str], cwd: Path | None, env: Mapping[str, str]) -> None:
        self.ours, self.theirs = os.openpty()
        self.resize(33, 77)
        self.before = termios.tcgetattr(self.theirs)
        self.text = b""
        self.tool = subprocess.Popen(
            argv, stdin=self.theirs, stdout=self.theirs, stderr=self.theirs,
            start_new_session=True, cwd=cwd, env={**os.environ, "TERM": "vt220", **env},
        )  # fmt: skip

    def resize(self, lines: int, columns: int) -> None:
        """Give the terminal another size."""
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        # The kernel tells the foreground process group; here the tool has no controlling terminal.
        with contextlib.suppress(AttributeError):
            os.kill(self.tool.pid, signal.SIGWINCH)

    def read(self, seconds: float) -> None:
        """Read the output that comes within so many seconds."""
        if select.select([self.ours], [], [], seconds)[0]:
            self.text += os.read(self.ours, 65536)

    def type(self, keys: bytes, answer: str) -> str:
        """Press keys, wait until a later output matches, and return that output."""
        start = len(self.text)
        os.write(self.ours, keys)
        deadline = time.monotonic() + PATIENCE
        while not re.search(answer, self.text[start:].decode("utf-8", "replace")):
            assert time.monotonic() < deadline, self.text
            self.read(0.1)
        return self.text[start:].decode()

    def end(self, patience: float = PATIENCE) -> int:
        """The tool's status; the terminal is as it was."""
        deadline = time.monotonic() + patience
        while self.tool.poll() is None:
            assert time.monotonic() < deadline, self.text
            self.read(0.05)
        # A read returns a part of what there is.
        while select.select([self.ours], [], [], 0.1)[0]:
            self.read(0.0)
        assert termios.tcgetattr(self.theirs) == self.before
        return self.tool.wait()


@contextlib.contextmanager
def in_front_of(
    argv: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[User]:
    """Somebody at a terminal, which is closed at the end."""
    somebody = User(argv, cwd, env or {})
    try:
        yield somebody
    finally:
        somebody.tool.kill()
        somebody.tool.wait()
        os.close(somebody.ours)
        os.close(somebody.theirs)
