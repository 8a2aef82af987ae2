"""Programs that the guest starts: their streams, their end, their background processes.

Standard library only; part of the program `init_process`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import resource
import signal
import struct
import termios

from pytest_gvisor.guest.warm.killer import MARK
from pytest_gvisor.guest.warm.loop import Loop, Peer, Sink, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_MOST_FILES = 65536
_DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"
_GOES_ON = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)
_SIGNALS = signal.valid_signals()


class Limits:
    """The limits on open files: one for programs, and a higher one for the guest.

    Also has two facts for all programs: the guest's own user, and an input that is at its end.
    """

    def __init__(self, nothing: int) -> None:
        self.me = (os.getuid(), os.getgid(), os.getgroups())
        self.nothing = nothing
        self._theirs = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = min(hard, _MOST_FILES) if hard != resource.RLIM_INFINITY else _MOST_FILES
        self._ours = (max(soft, most), hard)
        self._low = [os.dup(nothing) for _ in range(3)]
        resource.setrlimit(resource.RLIMIT_NOFILE, self._ours)

    @contextlib.contextmanager
    def of_a_program(self, streams: list[int]) -> Iterator[list[int]]:
        """Set the limit of programs while one starts; yield its streams, perhaps renumbered.

        posix_spawn refuses streams whose numbers are above the limit.
        """
        far = max(streams) >= self._theirs[0]
        moved = list(zip(streams, self._low)) if far else []  # noqa: B905 -- Python 3.8
        try:
            for stream, low in moved:
                os.dup2(stream, low, inheritable=False)
            resource.setrlimit(resource.RLIMIT_NOFILE, self._theirs)
            yield self._low if far else streams
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._ours)
            for _stream, low in moved:
                os.dup2(self.nothing, low, inheritable=False)


class Program:
    """The command to start, and its user."""

    def __init__(self, message: dict[str, Any], strings: list[bytes]) -> None:
        count = message["args"]
        self.args = strings[:count]
        pairs = [pair.partition(b"=") for pair in strings[count:]]
        self.env = {name: value for name, _, value in pairs}
        self.cwd = message["cwd"].encode("utf-8", "surrogateescape")
        self.user = (message["uid"], message["gid"], list(message["groups"]))
        self.mark = os.urandom(8).hex().encode()
        self.env[MARK.encode()] = self.mark

    def start(self, limits: Limits, streams: list[int]) -> int:
        """Start the program in a session of its own; return its pid. Raises OSError."""
        me = limits.me
        other = (self.user[0], self.user[1], sorted(self.user[2])) != (*me[:2], sorted(me[2]))
        try:
            with limits.of_a_program(streams) as low:
                if other:
                    return self._fork(low)
                os.chdir(self.cwd)
                return self._search(functools.partial(self._spawn, low))
        finally:
            os.chdir("/")

    def _spawn(self, streams: list[int], path: bytes) -> int:
        """Start it by posix_spawn: a fork copies page tables, which takes much longer in gVisor.

        All signals are named as ones to reset. For each other signal, glibc would make a system
        call to ask for its action, before it sets the action.
        """
        moves = [(fd, target) for target, fd in enumerate(streams) if fd != target]
        return os.posix_spawn(
            path,
            self.args,
            self.env,
            file_actions=[(os.POSIX_SPAWN_DUP2, *move) for move in moves],
            setsid=True,
            setsigmask=(),
            setsigdef=_SIGNALS,
        )

    def _fork(self, streams: list[int]) -> int:
        """Start the program as another user, by a fork: only the child may ever be that user.

        kill(2) compares real user ids. For a posix_spawn, this process would have to take the id of
        the other user for a moment, in which the program could kill it.
        """
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as answer:
            try:
                pid = os.fork()
                if pid == 0:
                    self._become(streams, writer)
            finally:
                os.close(writer)
            problem = answer.read()
        if problem:
            os.waitpid(pid, 0)
            raise OSError(int(problem), "cannot be started")
        return pid

    def _become(self, streams: list[int], writer: int) -> None:
        """Become the program in the child. The error's number goes to ``writer``."""
        number = errno.EIO
        try:
            os.setsid()
            for signal_number in _SIGNALS:
                if signal.getsignal(signal_number) is signal.SIG_IGN:
                    signal.signal(signal_number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            for target, fd in enumerate(streams):
                os.dup2(fd, target)
            os.setgroups(self.user[2])
            os.setresgid(self.user[1], self.user[1], self.user[1])
            os.setresuid(self.user[0], self.user[0], self.user[0])
            os.chdir(self.cwd)
            self._search(lambda path: os.execve(path, self.args, self.env))
        except OSError as error:
            number = error.errno or number
        finally:
            os.write(writer, b"%d" % number)
            os._exit(127)

    def _search(self, start: Callable[[bytes], int]) -> int:
        """Start the first file of the program's name that can be executed."""
        problem: OSError | None = None
        for path in self._paths():
            try:
                return start(path)
            except OSError as error:
                # After a file that may not be executed the search goes on, as in execvp(3).
                if error.errno not in _GOES_ON:
                    raise
                if problem is None or error.errno == errno.EACCES:
                    problem = error
        raise problem or OSError(errno.ENOENT, "no such program")

    def _paths(self) -> Iterator[bytes]:
        name = self.args[0]
        if b"/" in name or not name:
            yield name
            return
        for folder in self.env.get(b"PATH", _DEFAULT_PATH).split(b":"):
            path = os.path.join(folder or b".", name)
            if os.path.lexists(path):
                yield path


class Exec(Peer):
    """One program and its streams for the host."""

    def __init__(self, loop: Loop, number: int) -> None:
        super().__init__(loop, number)
        self.pid = 0
        self.mark = b""
        self.exited = self.killed = False

    def start(self, program: Program, limits: Limits, *, reads: bool) -> None:
        """Start the program. Raises OSError.

        Everything is made ready before, so that this process is at rest while the program starts.
        """
        theirs: list[int] = []
        try:
            for stream in (0, 1, 2) if reads else (1, 2):
                pair = os.pipe()
                theirs.append(pair[1 if stream else 0])
                self._take(stream, pair[0 if stream else 1])
            self.pid = program.start(limits, theirs if reads else [limits.nothing, *theirs])
        except (OSError, ValueError):
            self.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self.mark = MARK.encode() + b"=" + program.mark
        self.tell("started", pid=self.pid)

    def _take(self, stream: int, fd: int) -> None:
        """Take the guest's end of a stream."""
        os.set_blocking(fd, False)
        if stream:
            done = functools.partial(self._at_end, stream)
            self.sources[stream] = Source(self.loop, fd, (self.number, stream), done)
        else:
            self.sink = Sink(self.loop, fd, self.number, self._stdin_broke)

    def _at_end(self, stream: int, _error: int) -> None:
        self.tell("eof", s=stream)

    def _stdin_broke(self, _number: int) -> None:
        """Report that nobody reads standard input any more."""
        if self.sink is not None:
            self.sink.close()
            self.tell("eof", s=0)

    @property
    def over(self) -> bool:  # type: ignore[override]
        """Whether everything has been reported to the host."""
        return self.exited and all(source.ended for source in self.sources.values())

    def on_eof(self, *_: object) -> None:
        """Take the end of its standard input."""
        if self.sink is not None:
            self.sink.finish(self.sink.close)

    def on_signal(self, message: dict[str, Any], _payload: bytes) -> None:
        """Send the program a signal, unless it has ended."""
        if not self.exited:
            with contextlib.suppress(OSError):
                os.kill(self.pid, message["n"])

    def end(self, status: int) -> None:
        """Take the wait status of the program, which has ended.

        All of its own output is in the pipes by now. Processes that it has started may still have
        the pipes open. Their later output is read, so that they get no SIGPIPE, and dropped.
        """
        self.exited = True
        # While a tree is stopped to be killed, a process that leaves the program's group makes
        # gVisor send SIGHUP to the group (handleOrphan in pkg/sentry/kernel/sessions.go). A program
        # takes it first, also if SIGKILL was sent before. So the kill was its end.
        status = signal.SIGKILL if self.killed and status == signal.SIGHUP else status
        if self.sink is not None:
            self.sink.close()
        self.tell("exit", status=status)
        for source in self.sources.values():
            source.finish(_waiting(source.fd) if source.fd >= 0 else 0)

    def abandon(self) -> None:
        """Let the program run on: it waits for input in vain, and its output goes nowhere."""
        for end in (self.sink, *self.sources.values()):
            if end is not None:
                end.abandon()


def _waiting(fd: int) -> int:
    """Return the number of bytes to read."""
    count: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]
    return count
