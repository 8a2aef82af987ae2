"""An interactive shell in a warm sandbox, at the user's terminal.

The program `guest.shell` makes a terminal in the sandbox and runs the shell there. Keys and the
terminal's sizes go to it as frames. What the shell writes goes to the user's terminal as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import select
import signal
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from pytest_gvisor.errors import GvisorError, InsideError
from pytest_gvisor.guest.shell import KEYS, START, frame, size_frame
from pytest_gvisor.run import threads
from pytest_gvisor.sandbox.process import Process
from pytest_gvisor.setting_values import LONGEST

if TYPE_CHECKING:
    from types import FrameType

    from pytest_gvisor.run.terminal import Terminal
    from pytest_gvisor.sandbox.plan import Start

_PIECE = 4096
_RESIZED, _OVER = b"r", b"o"


class Attached:
    """The user's terminal, connected with a process that is `guest.shell`."""

    def __init__(self, process: Process, terminal: Terminal) -> None:
        self._process = process
        self._terminal = terminal
        self._error: GvisorError | None = None
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self, start: Start) -> int:
        """Run the shell to its end, and return its status. Raises `SandboxCrashed`."""
        wanted = {**dataclasses.asdict(start), "size": _size(self._terminal)}
        self._send(frame(START, json.dumps(wanted).encode()))
        output = threading.Thread(target=self._copy_output, name="gvisor-shell", daemon=True)
        threads.start(output)
        try:
            with self._signals():
                self._copy_keys()
        finally:
            if self._process.poll() is None:
                self._process.kill()
            output.join()
            os.close(self._reader)
            os.close(self._writer)
        if self._error is not None:
            raise self._error
        return self._process.wait()

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(InsideError):  # it has ended, which its output says as well
            self._process.stdin.write(data, timeout=LONGEST)

    def _copy_output(self) -> None:
        try:
            while piece := self._process.stdout.read1(_PIECE, timeout=LONGEST):
                _write(self._terminal.screen, piece)
        except GvisorError as error:
            self._error = error
        finally:
            os.write(self._writer, _OVER)

    def _copy_keys(self) -> None:
        keys = self._terminal.keys
        while True:
            ready, _, _ = select.select([keys, self._reader], [], [])
            if self._reader in ready:
                told = os.read(self._reader, _PIECE)
                if _OVER in told:
                    return
                self._send(size_frame(*_size(self._terminal)))
            if keys in ready:
                try:
                    piece = os.read(keys, _PIECE)
                except OSError:  # EIO: the terminal hung up
                    piece = b""
                if not piece:
                    return
                self._send(frame(KEYS, piece))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Take SIGWINCH, and end in order at signals that would leave the terminal as it is."""

        def resized(*_: object) -> None:
            with contextlib.suppress(BlockingIOError):
                os.write(self._writer, _RESIZED)

        def end(number: int, _frame: FrameType | None) -> NoReturn:
            raise SystemExit(128 + number)

        acts: dict[int, Callable[[int, FrameType | None], None]]
        acts = {signal.SIGWINCH: resized, signal.SIGTERM: end, signal.SIGHUP: end}
        before = {number: signal.signal(number, act) for number, act in acts.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _size(terminal: Terminal) -> tuple[int, int]:
    """Return the lines and columns of a terminal; 24 and 80 where it has none."""
    with contextlib.suppress(OSError):
        answer = fcntl.ioctl(terminal.screen, termios.TIOCGWINSZ, bytes(8))
        lines, columns = struct.unpack("HHHH", answer)[:2]
        if lines and columns:
            return lines, columns
    return 24, 80


def _write(screen: int, data: bytes) -> None:
    """Write to a terminal that may be slow, or gone."""
    view = memoryview(data)
    with contextlib.suppress(OSError):
        while view:
            try:
                view = view[os.write(screen, view) :]
            except BlockingIOError:
                select.select([], [screen], [], 1.0)
