"""The program inside a warm sandbox: starts programs, moves bytes, reaps and kills processes.

The sandbox's first process, and so its init. It is started as ``python3 -I -S -E init_process.py``
with one end of a socket pair as descriptor 0. It speaks `frames` with the host until that closes.
Needs Python 3.8 and the standard library alone.

Descriptor 0 is a socket because on releases of gVisor up to 2024, any process of the same user can
open a pipe as /proc/1/fd/0, and a socket it cannot. The program also makes itself undumpable, so
that no program without CAP_SYS_PTRACE can read its memory or, on newer releases, open /proc/1/fd.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import signal
import socket
import struct
import sys

if not __package__:
    # A program: the package is not installed here, and only this folder of it is shown.
    for name in ("pytest_gvisor", "pytest_gvisor.guest"):
        sys.modules[name] = package = type(sys)(name)
        package.__path__ = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]

from pytest_gvisor.guest.warm import inner_relay
from pytest_gvisor.guest.warm.children import Exec, Limits, Program
from pytest_gvisor.guest.warm.flows import Connection, Dial, Get, Put
from pytest_gvisor.guest.warm.killer import kill, kill_user
from pytest_gvisor.guest.warm.loop import READ, Loop, Peer
from pytest_gvisor.guest.wire import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_PEERS: dict[str, Callable[..., Peer]] = {"put": Put, "get": Get, "connect": Connection}
_REMEMBERED = 4096
_NOBODY = 65534

# Python raises ValueError for a NUL byte in a path, and for text that cannot be encoded.
_REFUSED = (OSError, ValueError)


class Guest:
    """The requests of the host, and the recipients of its messages."""

    def __init__(self, host: int, nothing: int) -> None:
        self.loop = Loop(host)
        self.limits = Limits(nothing)
        self.peers: dict[int, Peer] = {}
        self.running: dict[int, Exec] = {}
        self.past: collections.OrderedDict[int, tuple[int, bytes]] = collections.OrderedDict()
        self.relays: dict[int, int] = {}
        """The relays of `on_network` by pid, with the id of the message that waits for the end."""

        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=host)
        self._passed: list[int] = []
        self._strings = b""
        self._ready = False
        self.loop.want(host, READ, self._read)
        self._watch_children()

    def _watch_children(self) -> None:
        ends = socket.socketpair(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        reader, writer = (end.detach() for end in ends)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._wake = reader
        self.loop.want(reader, READ, self._reap)

    def _reap(self) -> None:
        """Reap all that has ended, one or more for each signal."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid in self.running:
                    self._ended(self.running.pop(pid), status)
                elif number := self.relays.pop(pid, 0):
                    self.on_ping({"id": number}, b"")

    def _ended(self, program: Exec, status: int) -> None:
        program.end(status)
        # A part of its tree may still run, and has its mark.
        self.past[program.number] = (program.pid, program.mark)
        if len(self.past) > _REMEMBERED:
            self.past.popitem(last=False)

    def _read(self) -> None:
        try:
            if not self.loop.decoder.read(self.loop.host, self._receive):
                raise SystemExit(0)
        except BlockingIOError:
            return
        for message, payload in self.loop.decoder.frames():
            self._take(message, bytes(payload))

    def _receive(self, _host: int, room: list[memoryview]) -> int:
        """Read from the host, and keep the descriptors that it passes."""
        asked = socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
        count, found, _flags, _address = self._socket.recvmsg_into(room, *asked)
        self._passed += [struct.unpack("i", data[:4])[0] for _level, _kind, data in found]
        return count

    def _take(self, message: dict[str, Any], payload: bytes) -> None:
        op, number = message["op"], message["id"]
        if not self._ready:
            self._hello(message)
        elif op in _PEERS:
            try:
                self.peers[number] = _PEERS[op](self.loop, number, message)
            except _REFUSED as error:
                self._refuse(number, error)
        else:
            # This object or a peer has a method for each message that means something to it.
            for one in (self, self.peers.get(number)):
                act = getattr(one, f"on_{op}", None)
                if act is not None:
                    act(message, payload)
                    return

    def _hello(self, message: dict[str, Any]) -> None:
        tag = bytes.fromhex(message["tag"])
        self.loop.encoder.tag = self.loop.decoder.tag = tag
        self._ready = True
        self.loop.send({"op": "hello", "id": 0, "version": frames.VERSION})

    def on_exit(self, *_: object) -> None:
        """End everything."""
        raise SystemExit(0)

    def on_more(self, _message: dict[str, Any], payload: bytes) -> None:
        """Take a part of the strings of the next program."""
        self._strings += payload

    def on_exec(self, message: dict[str, Any], payload: bytes) -> None:
        """Start a program."""
        number: int = message["id"]
        strings, self._strings = (self._strings + payload).split(b"\0"), b""
        started = Exec(self.loop, number)
        try:
            program = Program(message, strings)
            started.start(program, self.limits, reads=bool(message["reads"]))
        except _REFUSED as error:
            self._refuse(number, error)
            return
        self.peers[number] = self.running[started.pid] = started

    def _refuse(self, number: int, error: Exception) -> None:
        code = (error.errno or 0) if isinstance(error, OSError) else errno.EINVAL
        self.loop.send({"op": "failed", "id": number, "errno": code})

    def _tree(self, number: int) -> tuple[int, bytes]:
        """Return the session and the mark of a program's tree. Raises KeyError if it is unknown."""
        program = self.peers.get(number)
        if isinstance(program, Exec) and not program.exited:
            program.killed = True
            return program.pid, program.mark
        session, mark = self.past[number]
        # If a running program has that number by now, the session of the tree is gone.
        return 0 if session in self.running else session, mark

    def on_kill(self, message: dict[str, Any], _payload: bytes) -> None:
        """Kill the tree of a program, or all processes of its user, step by step."""
        number, user = message["id"], message["uid"]
        try:
            steps = kill_user(user) if user else kill(*self._tree(message["of"]))
        except KeyError:
            self.loop.send({"op": "killed", "id": number, "left": 0})
            return

        def step() -> None:
            try:
                next(steps)
            except StopIteration as end:
                self.loop.send({"op": "killed", "id": number, "left": end.value})
            else:
                self.loop.later(step)

        step()

    def on_ping(self, message: dict[str, Any], _payload: bytes) -> None:
        """Answer."""
        self.loop.send({"op": "answer", "id": message["id"], "n": 1})

    def on_probe(self, message: dict[str, Any], _payload: bytes) -> None:
        """Answer with the error of a connection to a port; 0 is none."""

        def dialled(made: socket.socket | None, error: int) -> None:
            if made is not None:
                made.close()
            self.loop.send({"op": "answer", "id": message["id"], "n": 0 if made else error})

        Dial(self.loop, message["port"], dialled)

    def on_network(self, message: dict[str, Any], _payload: bytes) -> None:
        """Fork a relay for the socket that came with this message."""
        number: int = message["id"]
        try:
            if not self._passed:
                raise OSError(errno.EMFILE, "no descriptor is left for the socket")
            link = self._passed.pop(0)
            others = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd != link]
            pid = inner_relay.fork(message["places"], *others, link=link)
        except _REFUSED as error:
            self._refuse(number, error)
        else:
            self.relays[pid] = 0
            self.loop.send({"op": "answer", "id": number, "n": pid})

    def on_cut(self, message: dict[str, Any], payload: bytes) -> None:
        """Answer when a relay has ended. The host's has, or there is a signal in the message."""
        if message["of"] in self.relays:
            self.relays[message["of"]] = message["id"]
            os.kill(message["of"], message["n"])  # 0 is no signal
        else:
            self.on_ping(message, payload)

    def on_rest(self, message: dict[str, Any], payload: bytes) -> None:
        """Be at rest while the sandbox is saved. A restored copy of this process wakes up here."""
        self.on_ping(message, payload)
        woken = self.loop.rest(bytes.fromhex(message["tag"]))
        if woken["restored"]:
            self.loop.begin_anew(woken["oldest"])
            for peer in self.peers.values():
                peer.abandon()
            self.peers.clear()
            self._hello(woken)

    def serve(self) -> None:
        """Run until the host is gone or ends the guest."""
        while True:
            self.loop.turn()
            for number in [number for number, peer in self.peers.items() if peer.over]:
                del self.peers[number]


def take_host() -> int:
    """Move the socket to the host away from the numbers of standard streams.

    Descriptor 0 is an input at its end from then on, for programs that get no other.
    """
    host = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return host


def hide() -> None:
    """Become undumpable, by a change of the effective user (prctl(2), PR_SET_DUMPABLE)."""
    if os.getpid() == 1 and os.geteuid() == 0:
        os.seteuid(_NOBODY)
        os.seteuid(0)


def main() -> None:
    """Serve the host. With the end of this init, the kernel kills all other processes."""
    hide()
    os.chdir("/")
    if len(sys.argv) > 1:
        inner_relay.fork(sys.argv[1:], 0)
    guest = Guest(take_host(), nothing=0)
    with contextlib.suppress(SystemExit):
        guest.serve()
    os._exit(0)


if __name__ == "__main__":
    main()
