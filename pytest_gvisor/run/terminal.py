"""A run at a terminal: the workload has its own pseudo-terminal, and ours is passed through.

With ``terminal: true`` and no console socket, runsc takes the terminal that its standard streams
are. It is the controlling terminal of runsc's session. So Ctrl-C on it is a SIGINT for runsc, which
passes it on to the foreground process group inside. A new window size goes the same way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import os
import selectors
import signal
import termios
import tty
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_gvisor.base.completed import Completed
from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.programs import clock
from pytest_gvisor.programs.linux import closing, ready
from pytest_gvisor.run import runner
from pytest_gvisor.run.capture import Capture
from pytest_gvisor.run.pipes import Change, Input, Pipes
from pytest_gvisor.run.request import Hooks, Record, Request
from pytest_gvisor.sessions.launcher import Launcher

_PIECE = 4096
_MAX_KEPT = 64 * 1024
_SCREEN_PATIENCE = 10.0


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """The user's terminal: descriptors to read keys from and to write to."""

    keys: int
    screen: int


@contextlib.contextmanager
def raw(stdin: int, stdout: int) -> Iterator[Terminal]:
    """Yield the terminal of these descriptors in raw mode, and restore it at the end.

    Call it in the main thread: only there can Python set the handler of SIGWINCH. Raises
    `UsageError` if one of the two is no terminal.
    """
    if not (os.isatty(stdin) and os.isatty(stdout)):
        raise UsageError("--tty needs a terminal as standard input and output")
    before = termios.tcgetattr(stdin)
    with closing(_own_description(stdout)) as screen:
        try:
            tty.setraw(stdin, termios.TCSADRAIN)
            yield Terminal(keys=stdin, screen=screen)
        finally:
            # A terminal that hung up has nothing to restore.
            with contextlib.suppress(termios.error):
                termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _own_description(fd: int) -> int:
    """Open a terminal again, without blocking.

    To set the flag on ``fd`` would set it for the shell too, which shares its open file.
    """
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(os.ttyname(fd), flags)
    except OSError:  # its name is another mount namespace's
        return os.dup(fd)


def run(request: Request, launcher: Launcher, record: Record, terminal: Terminal) -> Completed:
    """Run a request at a terminal, to its end. Raises the errors of `runner.run`."""
    settings = dataclasses.replace(request.settings, max_output=_MAX_KEPT)
    streams = functools.partial(TerminalPipes, terminal)
    asked = dataclasses.replace(request, settings=settings, streams=streams, input=None)
    return runner.run(asked, launcher, record, Hooks())


class TerminalPipes(Pipes):
    """One terminal as all three streams; our end twice, for reading and for writing.

    Keys, output, and the size of the user's terminal are passed on.
    """

    terminal = True
    _resized: object = None
    _output: _Pump | None = None
    _patient_until = 0.0

    def __init__(self, user: Terminal, max_output: int, *, feed: Input = None) -> None:
        self.user = user
        super().__init__(max_output, feed=feed)

    def _open(self, _feed: Input, /) -> None:
        ours, theirs = os.openpty()
        self.ours.append(ours)
        self.theirs.append(theirs)
        self.ours.append(os.dup(ours))
        for _ in range(2):
            self.theirs.append(os.dup(theirs))
        os.set_blocking(ours, False)
        self.resize()

    def resize(self, *_: object) -> None:
        """Give the workload's terminal the size of the user's, unless that one is gone."""
        if self.ours:
            with contextlib.suppress(OSError):
                size = fcntl.ioctl(self.user.screen, termios.TIOCGWINSZ, bytes(8))
                fcntl.ioctl(self.ours[-1], termios.TIOCSWINSZ, size)

    def watch(self, change: Change) -> None:
        """Have the keys, the output and the terminal's size waited for."""
        super().watch(change)
        reader, writer = self.ours
        _Pump(change, self.user.keys, writer).start()
        self._output = _Pump(change, reader, self.user.screen, self.stdout)
        self._output.start()
        self._resized = signal.signal(signal.SIGWINCH, self.resize)
        self.resize()

    def is_open(self) -> bool:
        """Whether there may be more output."""
        return self._output is not None and not self._output.over

    def is_slow(self) -> bool:
        """Whether output is on its way to the screen, at most for as long as a slow one takes."""
        now = clock.monotonic()
        self._patient_until = self._patient_until or now + _SCREEN_PATIENCE
        return self._output is not None and self._output.busy() and now < self._patient_until

    def close(self) -> None:
        """Close the remaining ends, and leave the user's terminal alone."""
        if self._resized is not None:
            signal.signal(signal.SIGWINCH, self._resized)  # type: ignore[arg-type]
            self._resized = None
        super().close()


class _Pump:
    """A copier from one descriptor to another, as fast as the slower of the two."""

    def __init__(self, change: Change, source: int, to: int, seen: Capture | None = None) -> None:
        self._change = change
        self._source = source
        self._to = to
        self._seen = seen
        self._rest = memoryview(b"")
        self.over = False

    def start(self) -> None:
        """Wait for the source."""
        self._change(self._source, selectors.EVENT_READ, self._read)

    def _read(self) -> bool:
        try:
            piece = os.read(self._source, _PIECE)
        except BlockingIOError:
            return True
        except OSError:  # EIO: the other end of a terminal is closed
            piece = b""
        if not piece:
            self.over = True
            return False
        if self._seen is not None:
            self._seen.feed(memoryview(piece))
        self._rest = memoryview(piece)
        if not self._write():
            self._change(self._source, 0, self._read)
            self._change(self._to, selectors.EVENT_WRITE, self._flush)
        return True

    def busy(self) -> bool:
        """Whether bytes wait for the target, or at the source."""
        if self._rest or self.over:
            return bool(self._rest)
        return bool(ready(self._source, seconds=0))

    def _flush(self) -> bool:
        if self._write():
            self._change(self._to, 0, self._flush)
            self.start()
        return True

    def _write(self) -> bool:
        """Write; return whether nothing is left to write. A closed target takes everything."""
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._to, self._rest) :]
        except BlockingIOError:
            return False
        except OSError:
            self._rest = memoryview(b"")
        return True
