"""The relay on the host: connects a sandbox to what its allow-list names, and to nothing else.

Started by bootstrap.py with the socket to the relay in the sandbox, a socket to pytest, pytest's
pidfd, and the entries. An entry is ``HOST:PORT``, or ``HOST:PORT=SOCKET`` for a port of another
sandbox, to which that unix socket leads. When the first socket closes, the sandbox is gone, and so
are all connections. When the second closes, pytest needs the relay no more: it sends the last
figures, and ends. It ends with pytest too, even if a fork of pytest has these sockets open. Its
other sockets lead to other sandboxes, or to addresses that it has judged.

A name is resolved anew for each connection, in a thread, and each address of the answer is judged.
The connection goes to one of these addresses, so a name that changes its answer gains nothing. The
sandbox chooses an entry by its number: it can name neither a host nor a port. If the list has an
entry with ``*``, the sandbox may also send HOST:PORT as text. If no entry allows this host and
port, nothing is resolved.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import json
import os
import queue
import resource
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence

from pytest_gvisor.guest.wire import mux
from pytest_gvisor.guest.wire.mux import PROXY, Connection, Mux, MuxError
from pytest_gvisor.programs.addresses import kind_of, literal, no_name
from pytest_gvisor.programs.settling import SETTLE, Counted, Settling

PATIENCE = 30.0
"""Seconds in which a host must answer, for all of its addresses together."""

MOST_NAMES = 100
"""The most names from the sandbox that have counters of their own."""

_LONGEST = 260  # a host name and a port
_THREADS = 8

Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a name by the host's resolver. Raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_kinds, address in found]


def covering(wish: str) -> list[str]:
    """Return the entries that would allow HOST:PORT, the nearest first. Raises `ValueError`."""
    host, _, port = wish.lower().rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) < 6):
        raise ValueError("no HOST:PORT")
    if address := literal(host.strip("[]")):
        return [f"[{address}]:{port}" if ":" in address else f"{address}:{port}"]
    name = host.removesuffix(".")
    if problem := no_name(name):
        raise ValueError(problem)
    labels = name.split(".")
    above = (".".join(labels[at:]) for at in range(1, len(labels)))
    return [f"{name}:{port}", *(f"*.{one}:{port}" for one in above)]


class Target(Counted):
    """An entry of the allow-list, and its counters."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, _, self.path = text.partition("=")
        host, _, port = self.text.rpartition(":")
        self.host, self.port = host.strip("[]"), int(port)
        self.is_wildcard = host.startswith("*")


class Attempt(Connection):
    """A connection to a host of a target, which is tried until it has a socket."""

    def __init__(self, number: int, target: Target, host: str = "", *named: Counted) -> None:
        super().__init__(number)
        self.target, self.host = target, host or target.host
        self.counted = (target, *named)
        self.due = time.monotonic() + PATIENCE
        self.addresses: list[str] = []
        self.trying: socket.socket | None = None

    def count(self, direction: str, size: int) -> None:
        """See `Connection.count`."""
        for one in self.counted:
            one.counts[direction] += size


class Relay(Mux):
    """The relay of one sandbox."""

    def __init__(
        self, link: socket.socket, control: socket.socket, entries: Sequence[str],
        resolver: Resolve = resolve,
    ) -> None:  # fmt: skip
        super().__init__(link)
        self._targets = [Target(text) for text in entries]
        direct = [t for t in self._targets if not t.path and literal(t.host)]
        self._allowed = {(t.host, t.port) for t in direct}
        self._entries = {target.text: target for target in self._targets}
        self._has_proxy = any(target.is_wildcard for target in self._targets)
        self._names: dict[str, Counted] = {}
        self._resolver = resolver
        self._error = ""
        self._question = b""  # the number of pytest's last one
        self._attempts: dict[int, Attempt] = {}
        self._settling = Settling(functools.partial(self.send, mux.SYNC, 0))
        self._control, self._is_last = control, False
        self.watch(control, self._on_control)
        self._questions: queue.SimpleQueue[Attempt | None] = queue.SimpleQueue()
        self._answers: collections.deque[tuple[Attempt, Sequence[str] | OSError]]
        self._answers = collections.deque()
        self._woken, self._waker = socket.socketpair()
        self.watch(self._woken, self._on_answers)
        self._threads = 0

    def serve(self) -> None:
        """Relay until the sandbox is gone, and answer pytest until that needs the relay no more.

        The last report comes when nothing is connected any more.
        """
        try:
            while self.turn(self._patience()) and not self._is_last:
                now = time.monotonic()
                open_now = self.connections.values() if self._settling.due else ()
                waits = any(one.sock is None or one.out for one in open_now)
                if (problem := self._settling.problem(waits=waits)) is not None:
                    self._report(problem)
                for late in [one for one in self._attempts.values() if one.due <= now]:
                    self._refuse(late, f"no answer in {PATIENCE:g} s")
        except MuxError as error:
            self._error = str(error)
        self.close()
        if self._settling.due:
            self._report()
        while not self._is_last:
            self._on_control(0)
        self._report()
        self._control.close()

    def _patience(self) -> float | None:
        dues = [one.due for one in self._attempts.values()]
        if self._settling.due:
            dues.append(self._settling.due)
        return min(dues) - time.monotonic() if dues else None

    def close(self) -> None:
        """See `Mux.close`; the threads end as soon as the resolver has answered."""
        for one in self.connections.values():
            one.read_all |= one.shut  # its host has all, and sees an end and no reset
        super().close()
        for _ in range(self._threads):
            self._questions.put(None)
        self._woken.close()
        self._waker.close()

    def _on_control(self, _events: int) -> None:
        """Answer pytest, which asks for the counters; now, or when all is added."""
        asked = b""
        with contextlib.suppress(OSError):
            asked = self._control.recv(32)
        self._is_last = not asked
        if self._is_last:
            self._question = b"the end"
            return
        asked, _, self._question = asked.partition(b" ")
        if asked == SETTLE and self.link.fileno() >= 0:
            self._settling.begin()
        else:
            self._report()

    def synced(self) -> None:
        """Take the sandbox's answer: it has passed on what had come before the question."""
        self._settling.answered()

    def _report(self, problem: str = "") -> None:
        self._settling.due = 0.0
        with contextlib.suppress(OSError):
            names = [{"entry": name, **one.told()} for name, one in self._names.items()]
            answer = {
                "to": self._question.decode(),
                "error": self._error or problem,
                "entries": [one.told() for one in self._targets],
                "sending": sum(not one.shut for one in self.connections.values()),
            }
            self._control.send(json.dumps({**answer, "names": names}).encode())

    # A connection's way: opened, resolved, judged, tried, begun.

    def opened(self, number: int, payload: bytes) -> None:
        """Take the wish of the sandbox for a connection. Raises `MuxError` for an odd one."""
        if number <= self.last:
            raise MuxError(f"connection {number} is opened after {self.last}")
        self.last = number
        one = self._attempt(number, payload)
        if one is None:
            self.send(mux.RESET, number)
        elif len(self.connections) >= mux.MOST:
            self._refuse(one, f"more than {mux.MOST} connections at once")
        elif self._questions.qsize() >= mux.MOST:  # of connections that the sandbox has given up
            self._refuse(one, "too many names wait for the resolver")
        else:
            self.connections[number] = self._attempts[number] = one
            if one.target.path:
                self._dial(one)
                return
            if literal(one.host):
                self._judge(one, [one.host])
                return
            if self._threads < _THREADS:
                self._threads += 1
                threading.Thread(target=self._resolve_all, daemon=True).start()
            self._questions.put(one)

    def _attempt(self, number: int, payload: bytes) -> Attempt | None:
        """Return the attempt that is wished for; None for a host that the list does not have."""
        entry = int.from_bytes(payload[:2], "big")
        if entry == PROXY and self._has_proxy:
            return self._asked(number, payload[2:].decode("latin-1"))
        if len(payload) != 2 or entry >= len(self._targets) or self._targets[entry].is_wildcard:
            raise MuxError(f"connection {number} is opened by {payload[:100]!r}")
        return Attempt(number, self._targets[entry])

    def _asked(self, number: int, wish: str) -> Attempt | None:
        try:
            texts = covering(wish)
        except ValueError as error:
            self._named(ascii(wish)[1:-1][:_LONGEST]).refuse(str(error))
            return None
        for target in filter(None, map(self._entries.get, texts)):
            host = texts[0].rpartition(":")[0].strip("[]")
            named = [self._named(texts[0])] if target.is_wildcard else []
            return Attempt(number, target, host, *named)
        self._named(texts[0]).refuse(f"not in the list: allow '{texts[0]}' if that is meant")
        return None

    def _named(self, name: str) -> Counted:
        if name not in self._names and len(self._names) >= MOST_NAMES:
            name = "others"
        return self._names.setdefault(name, Counted())

    def _resolve_all(self) -> None:
        while (one := self._questions.get()) is not None:
            try:
                self._answers.append((one, self._resolver(one.host, one.target.port)))
            except OSError as error:
                self._answers.append((one, error))
            with contextlib.suppress(OSError):  # the relay has ended
                self._waker.send(b"a")

    def _on_answers(self, _events: int) -> None:
        self._woken.recv(4096)
        while self._answers:
            one, answer = self._answers.popleft()
            if one.number not in self._attempts:
                pass  # the sandbox has given it up
            elif isinstance(answer, OSError):
                self._refuse(one, f"the name does not resolve: {answer.strerror or answer}")
            else:
                self._judge(one, answer)

    def _judge(self, one: Attempt, addresses: Sequence[str]) -> None:
        """Try the addresses, or refuse all of them because of one that is not allowed."""
        port = one.target.port
        for address in addresses:
            kind = kind_of(address)
            if kind and (literal(address), port) not in self._allowed:
                own = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
                told = f"the name answers with {address}, which is {kind}"
                self._refuse(one, f"{told}: allow '{own}' too if that is meant")
                return
        one.addresses = list(dict.fromkeys(addresses))
        self._try_next(one, "the name has no address")

    def _try_next(self, one: Attempt, problem: str) -> None:
        while one.addresses:
            address = one.addresses.pop(0)
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError as error:  # of descriptors, say
                problem = f"{address}: {error.strerror}"
                continue
            code = sock.connect_ex((address, one.target.port))
            if code in (0, errno.EINPROGRESS):
                one.trying = sock
                act = functools.partial(self._tried, one, sock, address)
                self.watch(sock, act, selectors.EVENT_WRITE)
                return
            sock.close()
            problem = f"{address}: {os.strerror(code)}"
        self._refuse(one, problem)

    def _tried(self, one: Attempt, sock: socket.socket, address: str, _events: int) -> None:
        one.trying = None
        self.unwatch(sock)
        try:
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code))
            # Without a listener, a port of the loopback may be given to this very socket (tcp(7)).
            if sock.getsockname() == sock.getpeername():
                raise OSError(errno.ECONNREFUSED, "nothing listens there")
        except OSError as error:  # the host may reset the connection at any moment
            sock.close()
            self._try_next(one, f"{address}: {error.strerror}")
        else:
            self._begin(one, sock)

    def _dial(self, one: Attempt) -> None:
        """Try another sandbox, which says with one byte when its server has the connection."""
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self._refuse(one, f"{error.strerror}")
            return
        if code := sock.connect_ex(one.target.path):
            sock.close()
            gone = code in (errno.ENOENT, errno.ECONNREFUSED)
            self._refuse(one, "the other sandbox is closed" if gone else os.strerror(code))
            return
        one.trying = sock
        self.watch(sock, functools.partial(self._dialled, one, sock))

    def _dialled(self, one: Attempt, sock: socket.socket, _events: int) -> None:
        one.trying = None
        self.unwatch(sock)
        answer = b""
        with contextlib.suppress(OSError):
            answer = sock.recv(1)
        if answer == b"\0":
            self._begin(one, sock)
            return
        sock.close()
        why = os.strerror(answer[0]) if answer else "no answer"
        self._refuse(one, f"from the other sandbox: {why}")

    def _begin(self, one: Attempt, sock: socket.socket) -> None:
        del self._attempts[one.number]
        one.count("reached", 1)
        self.begin(one, sock)

    def _refuse(self, one: Attempt, problem: str) -> None:
        for counted in one.counted:
            counted.refuse(problem)
        self.fail(one)

    def drop(self, one: Connection) -> None:
        """See `Mux.drop`; an attempt ends."""
        super().drop(one)
        attempt = self._attempts.pop(one.number, None)
        if attempt is not None and attempt.trying is not None:
            self.unwatch(attempt.trying)
            attempt.trying.close()


def _end_with(process: int) -> None:
    """End this program at the end of the process of a pidfd, whatever it waits for."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.poll()
    os._exit(0)


def main(arguments: list[str]) -> None:
    """Relay, with ``LINK_FD CONTROL_FD PIDFD ENTRY…``."""
    # A low limit is for select(2) alone (getrlimit(2)), and a full relay refuses connections.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    threading.Thread(target=_end_with, args=(int(arguments[2]),), daemon=True).start()
    link, control = (socket.socket(fileno=int(number)) for number in arguments[:2])
    Relay(link, control, arguments[3:]).serve()
