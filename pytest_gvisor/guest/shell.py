"""A shell at a terminal of its own, in a warm sandbox: started there beside other programs.

Standard input has frames: a kind, a size, and so many bytes (`frame`). The first one is the `START`
as JSON; those after it are keys, and sizes of the user's terminal. Standard output is the output of
the terminal, byte for byte. Standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import sys
import termios
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING or __package__:
    from pytest_gvisor.guest import checked_json
    from pytest_gvisor.guest.killer import MARK
else:
    # -I leaves the script's folder out of sys.path.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import checked_json
    from killer import MARK

if TYPE_CHECKING:
    from collections.abc import Iterator

START, KEYS, SIZE = 0, 1, 2
"""The kinds of frames: how to start the shell, keys, and a size (lines and columns)."""

SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh", "/bin/ash", "/busybox/sh")
"""The shells that are looked for, in this order."""

NO_SHELL = "There is no shell in this sandbox. This is the Python that pytest-gvisor has put there."

_HEAD = struct.Struct(">BI")
_SIZE = struct.Struct(">HH")
_PIECE = 65536
_MUCH = 65536


def frame(kind: int, payload: bytes) -> bytes:
    """Return a frame."""
    return _HEAD.pack(kind, len(payload)) + payload


def size_frame(lines: int, columns: int) -> bytes:
    """Return the frame of a size."""
    return frame(SIZE, _SIZE.pack(lines, columns))


class Frames:
    """A reader of frames from bytes as they come."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take bytes, and yield the frames that are whole by now."""
        self._rest += data
        while len(self._rest) >= _HEAD.size:
            kind, size = _HEAD.unpack_from(self._rest)
            end = _HEAD.size + size
            if len(self._rest) < end:
                return
            payload, self._rest = self._rest[_HEAD.size : end], self._rest[end:]
            yield kind, payload


def _become(wanted: dict[str, Any]) -> NoReturn:
    """Become the shell, in the child whose terminal is its standard streams."""
    try:
        uid, gid, groups = wanted["user"]
        os.fchown(0, uid, gid)
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        # A folder that is gone since, or that this user may not enter, is no reason for no shell.
        for folder in (wanted["cwd"], "/"):
            with contextlib.suppress(OSError):
                os.chdir(folder)
                break
        environment = dict(wanted["env"])
        environment[MARK] = os.environ.get(MARK, "")
        for path in SHELLS:
            if os.access(path, os.X_OK):
                os.execve(path, [path], environment)
        os.environ.clear()
        os.environ.update(environment)
        import code  # noqa: PLC0415 -- heavy, and seldom needed

        code.interact(banner=NO_SHELL, exitmsg="")
        sys.stdout.flush()
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 -- nothing of this program may go on in the child
        with contextlib.suppress(OSError):
            os.write(2, f"no shell could be started: {error}\r\n".encode("utf-8", "replace"))
    os._exit(127)


class Terminal:
    """The terminal of a shell, and the frames for it."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self._frames = Frames()
        self._keys = b""
        self._pid, self._master = _fork(wanted)
        os.set_blocking(self._master, False)
        self._wake, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self, rest: bytes) -> int:
        """Pass keys and output on until the shell ends; return its status as shells have it."""
        self._take(rest)
        while True:
            done, status = os.waitpid(self._pid, os.WNOHANG)
            if done:
                self._copy_output()
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
            reads = [self._master, self._wake]
            # While the shell does not read, the user's keys wait for it on the host.
            reads += [0] if len(self._keys) < _MUCH else []
            ready, writable, _ = select.select(reads, [self._master] if self._keys else [], [])
            if self._wake in ready:
                os.read(self._wake, 4096)
            if writable:
                self._write()
            if self._master in ready:
                self._copy_output(_PIECE)
            if 0 in ready:
                self._take(os.read(0, _PIECE) or self._hang_up())

    def _take(self, data: bytes) -> None:
        for kind, payload in self._frames.feed(data):
            if kind == KEYS:
                self._keys += payload
            elif kind == SIZE:
                size = struct.pack("HHHH", *_SIZE.unpack(payload), 0, 0)
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
        self._write()

    def _write(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._keys:
                self._keys = self._keys[os.write(self._master, self._keys) :]

    def _hang_up(self) -> NoReturn:
        with contextlib.suppress(OSError):
            os.killpg(self._pid, signal.SIGHUP)
        raise SystemExit(129)

    def _copy_output(self, most: int = _MUCH * 16) -> None:
        """Copy what the terminal has; nothing where its other end is closed."""
        with contextlib.suppress(OSError):
            while most > 0 and (piece := os.read(self._master, _PIECE)):
                most -= len(piece)
                view = memoryview(piece)
                while view:
                    view = view[os.write(1, view) :]


def _fork(wanted: dict[str, Any]) -> tuple[int, int]:
    """Start the shell at a new terminal, its controlling one; return its pid and our end."""
    ours, theirs = os.openpty()
    lines, columns = wanted["size"]
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    pid = os.fork()
    if not pid:
        os.close(ours)
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        for target in (0, 1, 2):
            os.dup2(theirs, target)
        if theirs > 2:
            os.close(theirs)
        _become(wanted)
    os.close(theirs)
    return pid, ours


def main() -> int:
    """Read the first frame, and serve the shell that it asks for."""
    frames, data = Frames(), b""
    while True:
        piece = os.read(0, _PIECE)
        if not piece:
            return 129
        data += piece
        for _, payload in frames.feed(piece):
            rest = data[len(frame(START, payload)) :]
            return Terminal(checked_json.loads(payload)).serve(rest)


if __name__ == "__main__":
    sys.exit(main())
