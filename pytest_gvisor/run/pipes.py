"""The standard streams of a run: pipes, a socket, or a terminal; our ends and the workload's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import socket
import weakref
from collections.abc import Callable, Iterable

from pytest_gvisor.base.errors import on_error, stage
from pytest_gvisor.guest.tests import byte_code
from pytest_gvisor.run.capture import Capture, Drain

_SOCKET_BUFFER = 1024 * 1024

Input = bytes | Iterable[bytes] | None
Change = Callable[[int, int, Callable[[], bool]], None]
"""`Supervisor.change`."""


class Feed:
    """A writer of the workload's standard input as it is read, which closes it at its end.

    An iterator is asked for its next piece in the loop of the run. While it makes one, nothing else
    goes on, and one that blocks holds up the deadline.
    """

    def __init__(self, fd: int, data: Input) -> None:
        self.fd = fd
        os.set_blocking(fd, False)
        self._chunks = iter([data or b""] if isinstance(data, bytes | None) else data)
        self._rest = memoryview(b"")

    def write(self) -> bool:
        """Write once; return False when all is written or nobody reads any more.

        Raises `LaunchError` if the kernel refuses it, for want of memory say: the workload would
        take the end of a part for the end of all.
        """
        try:
            # One piece a turn: an iterator that yields empty pieces for ever must not hold up the
            # deadline.
            self._rest = self._rest or memoryview(next(self._chunks))
        except StopIteration:
            return False
        with stage("pipes", "the workload's input cannot be written"):
            try:
                self._rest = self._rest[os.write(self.fd, self._rest) :]
            except BlockingIOError:
                return True
            except BrokenPipeError:  # the workload has closed its input, which is its right
                return False
        return True


class Pipes:
    """The three pipes of a run: our ends, and the workload's until they are handed over."""

    terminal = False
    socket = -1
    """Our end of the socket, where there is one. Its owner reads and writes it."""

    memory = -1
    """Our descriptor of the file in memory, if there is one."""

    def __init__(self, max_output: int, *, feed: Input = None) -> None:
        self.theirs: list[int] = []
        """The descriptors that become the workload's 0, 1 and 2, in this order."""

        self.ours: list[int] = []
        self.drains: list[Drain] = []
        self.stdout = Capture(max_output)
        self.stderr = Capture(max_output)
        self._feed: Feed | None = None
        with on_error(self.close):
            self._open(feed)

    def _open(self, feed: Input, /) -> None:
        _with_input.add(self)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.theirs.append(reader)
        self.ours.append(writer)
        self._feed = Feed(writer, feed)
        self._open_output(self.stdout)
        self._open_output(self.stderr)

    def _open_output(self, capture: Capture) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.theirs.append(writer)
        self.ours.append(reader)
        self.drains.append(Drain(reader, capture))

    def feed(self, change: Change) -> None:
        """Wait until the workload takes input; a second call does nothing."""
        if self._feed is not None:
            change(self._feed.fd, selectors.EVENT_WRITE, self._feed.write)
            self._feed = None

    def watch(self, change: Change) -> None:
        """Wait for output. A callback returns False at the end of its stream."""
        for drain in self.drains:
            change(drain.fd, selectors.EVENT_READ, drain.read)

    def is_open(self) -> bool:
        """Whether the workload may still write. Its standard input does not count."""
        return any(drain.fd in self.ours for drain in self.drains)

    def is_slow(self) -> bool:
        """Whether output is still on its way half a second after runsc's end."""
        return False

    def hand_over(self) -> None:
        """Close the workload's ends here: a stream ends only when nobody holds its other end."""
        while self.theirs:
            os.close(self.theirs.pop())

    def end(self, fd: int) -> None:
        """Close one of our ends; leave any other descriptor alone."""
        if fd in self.ours:
            self.ours.remove(fd)
            os.close(fd)

    def close(self) -> None:
        """Close the remaining ends."""
        # Out of the list first: if a Ctrl-C came between the two steps, a second call would close
        # a number that may belong to another file by then.
        for fds in (self.theirs, self.ours):
            while fds:
                with contextlib.suppress(OSError):
                    os.close(fds.pop())


_with_input: weakref.WeakSet[Pipes] = weakref.WeakSet()


def _close_in_fork() -> None:
    """Close a fork's copies: as long as one is open, the workload's input has no end."""
    for pipes in list(_with_input):
        pipes.close()


os.register_at_fork(after_in_child=_close_in_fork)


class Streams(Pipes):
    """A socket as standard input, and one pipe as standard output and error.

    A process in the sandbox can open the pipe of another process as /proc/PID/fd/1, but not its
    socket. The socket must stay one file inside: if a second file of it is made and closed, gVisor
    shuts the socket down on the host.
    """

    def _open(self, _feed: Input, /) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
            ours.setblocking(False)
            self.socket = os.dup(ours.fileno())
            self.ours.append(self.socket)
            self.theirs.append(os.dup(theirs.fileno()))
        self._open_output(self.stderr)
        self.theirs.append(os.dup(self.theirs[-1]))


class SharedStreams(Streams):
    """`Streams` with a file in memory as standard output, which both sides read and write.

    The other side is untrusted. So the file is sealed at its size, because a shorter one would kill
    this process by SIGBUS, and its content is checked like any other bytes.
    """

    size = byte_code.PLACE + byte_code.MOST
    """Bytes for `guest.tests.unsent`, followed by those for `guest.tests.byte_code`.

    A page that nobody writes takes no memory."""

    def _open(self, feed: Input, /) -> None:
        super()._open(feed)
        self.memory = os.memfd_create("pytest-gvisor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.ours.append(self.memory)
        os.ftruncate(self.memory, byte_code.PLACE)
        with contextlib.suppress(OSError):  # RLIMIT_FSIZE counts here too
            os.ftruncate(self.memory, self.size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.memory, fcntl.F_ADD_SEALS, seals)
        os.dup2(self.memory, self.theirs[1], inheritable=False)
