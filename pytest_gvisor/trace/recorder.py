"""Folds the events of a run into a `Trace` while they arrive: a set of paths, not a list of opens.

The sender may have been taken over by untrusted code, so all that is kept is bounded.
"""

from __future__ import annotations

import collections
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace

from pytest_gvisor.base import traced
from pytest_gvisor.guest.tests.gate import COLLECTS
from pytest_gvisor.trace import events, points
from pytest_gvisor.trace.events import Event, address_of, changes, file_of, parsed, size_of, whole
from pytest_gvisor.trace.points import Known
from pytest_gvisor.trace.protobuf import texts

MAX_KEPT = 100_000
"""Different files, commands, connections and processes."""

MAX_BYTES = 64 * 1024 * 1024
"""Of all texts that are kept, as `size_of` counts."""

_DELETED = " (deleted)"
_CREATES = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_KINDS: Mapping[int, str] = {1: "stream", 2: "datagram", 3: "raw"}
"""By Linux's numbers of kinds of sockets."""


class Recorder:
    """The recorder of one program. `take` takes each message, `trace` is the result."""

    def __init__(
        self, known: Known, version: str, first: int = 1, *, values: bool = False,
        unsupported: Mapping[int, str] = {},
    ) -> None:  # fmt: skip
        """``known`` are the points and fields of the runsc of this version, and ``unsupported`` the
        system calls that it does not implement.

        ``first`` is the program's first process; by default it is the sandbox's own. ``values`` is
        whether variables are kept with their values.

        Raises `TraceError`, which names points that it does not have.
        """
        numbers = points.calls()
        self._points = [*points.of_trace(known, version), *map(points.entered, unsupported)]
        self._opens = {numbers[name] for name in points.OPENS if name in numbers}
        self._execs = {numbers[name] for name in points.EXECS}
        self._creat, self._openat2 = numbers.get("creat"), numbers["openat2"]
        self._sends = {numbers[name]: flags for name, flags in points.SENDS.items()}
        self._receiving = {numbers[name] for name in points.RECEIVES}
        self._sendto, self._socketpair = numbers["sendto"], numbers["socketpair"]
        self._mounts = {numbers[name] for name in points.MOUNTS}
        self._mounted = 0
        """How many calls may have given files other paths, also for what comes later."""

        # Of the calls that gVisor does not implement, some answer ENOSYS, others EPERM or EINVAL.
        self._changing, self._values, self._lacking = points.changes(), values, unsupported
        self._listens = points.LISTEN in known
        self._descriptors: dict[int, dict[int, events.Opened | str]] = {}
        """For each process its open descriptors: files, and the kinds of sockets."""

        self._held = 0
        """How many descriptors there are."""

        self._first = first
        self.parents: dict[int, int] = {first: 0}
        """For each process of the program the one that made it; 0 for the first one."""

        self._threads: collections.Counter[int] = collections.Counter()
        """How many threads of each process were started, and have not ended."""

        self._last: dict[int, tuple[str, ...]] = {}
        self.pending: dict[int, int] = {}
        """The numbers of calls whose events with texts come next in their threads; or 0, if the
        missing event was counted."""

        self.has_datagrams = self._receives = False
        """Whether a socket has been made that sends datagrams, and whether one may have come."""

        self.others_have = False
        """Whether another program of the sandbox has had a socket that sends datagrams."""

        self.mark = ""
        """A path whose open is no act, and empties this. `COLLECTS` begins the trace anew."""

        self.begin_anew()
        self._acts: dict[int, Callable[[Event, bytes], None]] = {
            1: self._start, 2: self._clone, 3: self._exec, 5: self._exit, 6: self._call,
            7: self._open, 8: self._close, 10: self._connect, 11: self._try,
            12: self._socket, 24: self._bind, 37: self._listen,
        }  # fmt: skip
        """By enum MessageType of common.proto."""

    def begin_anew(self) -> None:
        """Forget what was done so far. Processes and their descriptors stay known."""
        self._files: dict[traced.File, events.Opened] = {}
        self._paths: set[str] = set()
        self._commands: list[traced.Command] = []
        self._connections: dict[tuple[str, str, str, bool], traced.Connection] = {}
        self._listeners: dict[traced.ListeningSocket, None] = {}
        self._tried: dict[tuple[int, int, tuple[str, ...]], dict[str, None]] = {}
        """The files that each process tried to execute, so far in vain, by its thread and the
        arguments. Of another thread's call that comes meanwhile, nothing is known."""

        self._unnamed: collections.Counter[int] = collections.Counter()
        """How many calls of each number had no event with texts."""

        self.pending = dict.fromkeys(self.pending, 0)
        self._datagrams = 0
        self.unsupported: dict[str, None] = {}
        """The names of calls that gVisor does not implement, in the order of their first ones."""

        self._changes: collections.Counter[tuple[str, str, int]] = collections.Counter()
        for pid in [pid for pid, count in self._threads.items() if count <= 0]:
            del self._threads[pid]
            self.parents.pop(pid, None)
            self._last.pop(pid, None)
        self._kept, self._bytes, self._left_out = len(self.parents) - 1, 0, 0

    def session(self, endpoint: str) -> str:
        """Return the text of the ``--pod-init-config`` file that has all events sent there."""
        return points.session(endpoint, self._points, ignore_missing=True)

    def take(self, kind: int, payload: bytes) -> None:
        """Take a message. Raises ValueError for one of another shape."""
        if kind in self._acts:
            event = parsed(kind, payload)
            # Where the workload's first process is another one, process 1 is a relay.
            if event.process != 1 or self._first == 1:
                self.act(kind, event, payload)

    def act(self, kind: int, event: Event, payload: bytes, *, room: bool = True) -> None:
        """Take a message that is parsed. Where there is no ``room``, the trace has a gap."""
        if not room:
            self._left_out += 1
        elif kind in self._acts:
            self._acts[kind](event, payload)

    @property
    def size(self) -> int:
        """About how many bytes are kept."""
        return self._bytes + 100 * (self._kept + self._held + len(self.pending))

    def ends(self) -> tuple[bool, int]:
        """Return whether the first process has ended, and how many others have not."""
        alive = {pid for pid, count in self._threads.items() if count > 0}
        return self._threads.get(self._first) == 0, len(alive - {self._first})

    def _room(self, *kept: str) -> bool:
        """Whether there is room for one thing more, with these texts."""
        size = size_of(*kept)
        if self._kept >= MAX_KEPT or self._bytes + size > MAX_BYTES:
            self._left_out += 1
            return False
        self._kept += 1
        self._bytes += size
        return True

    # --- processes

    def _start(self, _event: Event, payload: bytes) -> None:
        # Start of container.proto: 4 is args.
        argv, first = texts(payload, 4), self._first
        self._note(traced.Command(argv=argv, program=argv[0] if argv else "", process=first))

    def _exec(self, event: Event, payload: bytes) -> None:
        given = texts(payload, 4)
        shown = given if self._values else [pair.partition("=")[0] for pair in given]
        names = tuple(sorted({*shown}))
        argv, program, process = texts(payload, 3), event.text(2), event.process
        # A search of PATH tries the same arguments with one file after another.
        called = ""
        for called in self._tried.pop((process, event.thread, argv), ()):
            self._kept -= 1
            self._bytes -= size_of(called, *argv)
        self._note(traced.Command(
            argv=argv, program=program, process=process, called=called, environment=names,
        ))  # fmt: skip

    def _note(self, command: traced.Command) -> None:
        if self._room(*command.argv, command.program, command.called, *command.environment):
            self._commands.append(command)
            self._last[command.process] = command.argv

    def _try(self, event: Event, payload: bytes) -> None:
        """Note what a process is about to execute. No event has the error if it fails."""
        self.pending.pop(event.thread, None)
        program, argv = whole(event.text(5) or event.cwd, event.text(6)), texts(payload, 7)
        key = event.process, event.thread, argv
        known = self._tried.get(key, {})
        if program in known or self._room(program, *argv):
            known[program] = known.pop(program, None)  # the last one is what may be executed
            self._tried[key] = known

    def _clone(self, event: Event, _payload: bytes) -> None:
        made = event.number(4)
        if made != event.process and made not in self.parents and self._room():
            self.parents[made] = event.process
            self._last[made] = events.inherited(self._last.get(event.process, ()))
        if made in self.parents:
            self._threads[made] += 1

    def _exit(self, event: Event, _payload: bytes) -> None:
        if event.process in self.parents:
            self._threads[event.process] -= 1
        self._unnamed[self.pending.pop(event.thread, 0)] += 1
        if event.thread == event.process:
            self._held -= len(self._descriptors.pop(event.process, ()))

    # --- files

    def _open(self, event: Event, _payload: bytes) -> None:
        number = event.number(3)
        flags = _CREATES if number == self._creat else event.number(7)
        path = whole(event.text(5) or event.cwd, event.text(6))
        self.pending.pop(event.thread, None)
        if path == self.mark:
            self.mark = ""
            if path == COLLECTS:
                self.begin_anew()
            return
        opened = self._opened(file_of(path, flags, event.error), event.process)
        if opened is not None and not event.error:
            self._hold(event, opened)

    def _hold(self, event: Event, what: events.Opened | str) -> None:
        """Note the descriptor that a call returned."""
        known = event.result in self._descriptors.get(event.process, ())
        if not known and self._held >= MAX_KEPT:
            self._left_out += 1
            return
        self._held += not known
        self._descriptors.setdefault(event.process, {})[event.result] = what

    def _opened(self, file: traced.File, process: int) -> events.Opened | None:
        """Count a file that was opened so, and return it; None if there is no room."""
        found = self._files.get(file)
        if found is None and self._room(file.path):
            found = self._files[file] = events.Opened(file, process)
            if not file.error:
                self._paths.add(file.path)
        if found is not None:
            found.opened += 1
        return found

    def _close(self, event: Event, _payload: bytes) -> None:
        number, path = event.number(4), event.text(5)
        held = self._descriptors.get(event.process, {})
        own = held.pop(number, None)
        self._held -= own is not None
        if not held:
            self._descriptors.pop(event.process, None)
        if isinstance(own, str) or not path.startswith("/"):
            return
        if own is not None:
            own.closed += 1
            if path in (own.file.path, own.file.path + _DELETED):
                return
        elif path in self._paths or path.removesuffix(_DELETED) in self._paths:
            return
        # A descriptor of a link's target, one that was inherited or duplicated, or one that was
        # opened by a call without a path.
        known = own or self._inherited(event.process, number)
        if isinstance(known, events.Opened):
            if self._files.get(known.file) is known:  # and not before this trace
                self._add(replace(known.file, path=path), event.process)
        elif not path.startswith("/memfd:") and not path.endswith(_DELETED):
            self._add(traced.File(path=path, read=True, written=True), event.process)

    def _add(self, file: traced.File, process: int) -> None:
        """Count a file whose path the sentry reported at a close."""
        if (found := self._opened(file, process)) is not None:
            found.closed += 1

    def _inherited(self, process: int, number: int) -> events.Opened | str | None:
        """Return the descriptor of a process or of the nearest one above that has it."""
        for _ in range(100):
            found = self._descriptors.get(process, {}).get(number)
            if found is not None or not process:
                return found
            process = self.parents.get(process, 0)
        return None

    # --- the network

    def _socket(self, event: Event, _payload: bytes) -> None:
        self.has_datagrams |= events.makes_datagrams(12, event, 0)
        if 2 in event.fields and not event.error:
            self._hold(event, _KINDS.get(event.number(5) & 0xF, ""))

    def _kind(self, event: Event) -> str:
        known = self._inherited(event.process, event.number(4))
        return known if isinstance(known, str) else ""

    def _connect(self, event: Event, _payload: bytes) -> None:
        """Note a connect when it begins, and when it ends: memory may have another address then."""
        address, kind = address_of(event.fields.get(6, b"")), self._kind(event)
        error = event.error if (ended := 2 in event.fields) else "EINPROGRESS"
        key = (address, kind, error, ended)
        if ended and self._connections.pop((address, kind, "EINPROGRESS", False), None) is not None:
            self._kept, self._bytes = self._kept - 1, self._bytes - size_of(address)
        one = traced.Connection(address=address, kind=kind, error=error, process=event.process)
        if address and key not in self._connections and self._room(address):
            self._connections[key] = one

    def _bind(self, event: Event, _payload: bytes) -> None:
        kind = self._kind(event)
        # No event tells of a dup(2), so a kind that is not known may be that of datagrams.
        if kind in ("", "datagram") or (kind == "stream" and not self._listens):
            self._hears(event, event.fields.get(6, b""), kind)

    def _listen(self, event: Event, _payload: bytes) -> None:
        self._hears(event, event.fields.get(7, b""), _KINDS.get(event.number(9) & 0xF, ""))

    def _hears(self, event: Event, address: int | bytes, kind: str) -> None:
        shown = address_of(address)
        one = traced.ListeningSocket(address=shown, kind=kind, process=event.process)
        # A netlink socket, which glibc binds, is of another family.
        listens = not event.error and shown and not shown.startswith("family")
        if listens and one not in self._listeners and self._room(shown):
            self._listeners[one] = None

    def _call(self, event: Event, _payload: bytes) -> None:
        """Count a call by its number; its fields are registers."""
        number = event.number(4)
        if number in self._sends:
            # sendto(2) without an address, field 9, goes where the socket is connected to.
            addressed = number != self._sendto or event.number(9)
            # On the host's network, a stream connects and sends by it (tcp(7)).
            fast = event.number(self._sends[number]) & socket.MSG_FASTOPEN
            may = fast or self.has_datagrams or (self._receives and self.others_have)
            self._datagrams += bool(may and addressed)
        elif number in self._receiving:
            self._receives = True
        elif number == self._socketpair:
            self.has_datagrams |= events.makes_datagrams(6, event, number)
        elif number == self._openat2:  # its end, and no other event comes
            # An attempt is an act too, unless this gVisor has no such call.
            self._unnamed[number] += event.error != "ENOSYS"
        elif number in self._mounts:
            self._mounted += 2 in event.fields and not event.error
        elif number in self._changing:
            key = self._changing[number], event.error, event.process
            # Field 2 is there at the end of a call.
            if 2 in event.fields and (key in self._changes or self._room(*key[:2])):
                self._changes[key] += 1
        elif number in self._lacking:
            self.unsupported[self._lacking[number]] = None
        elif number not in self._opens and number not in self._execs:
            return
        elif len(self.pending) >= MAX_KEPT:
            self._left_out += 1
        else:
            # If the thread has another one pending, the event of that was not sent.
            self._unnamed[self.pending.get(event.thread, 0)] += 1
            self.pending[event.thread] = number

    # --- the result

    def trace(
        self, *, dropped: int, broken: bool, ended: bool, running: int = 0, strace: str = "",
        cut: bool = False,
    ) -> traced.Trace:  # fmt: skip
        """Return the trace. ``ended`` is whether the end of the first process was seen.

        ``running`` is how many processes run on, whose events are not waited for. ``strace`` has
        the paths of changes, and was ``cut`` if it was too long.
        """
        # A process that runs on may be amid a call, whose event with texts is still to come.
        missing = self._unnamed + collections.Counter([] if running else self.pending.values())
        ended_at = {key[:2] for key in self._connections if key[3]}
        unnamed = [sum(map(missing.__getitem__, one)) for one in (self._opens, self._execs)]
        gaps = {
            "the end of the first process was not seen": not ended,
            f"{running} of its processes had not ended": running,
            f"{dropped} events were dropped": dropped,
            "the strace was too long, so paths of changes are missing": cut,
            "the sandbox sent what is no event": broken,
            f"{self._left_out} events had no room: a trace has {MAX_KEPT} different entries, and "
            f"{MAX_BYTES // 1024**2} MiB of text": self._left_out,
            "files that were opened without a path that gVisor can report (a name that is no "
            f"UTF-8, or openat2): {unnamed[0]}": unnamed[0],
            f"{', '.join(points.MOUNTS)} may have given files other paths: {self._mounted} "
            "calls": self._mounted,
            "programs that may have been executed with a name, an argument or a variable that is "
            f"no UTF-8, which gVisor cannot report: {unnamed[1]}": unnamed[1],
        }
        return traced.Trace(
            files=tuple(
                replace(one.file, process=one.process, confirmed=one.opened == one.closed)
                for one in self._files.values()
            ),
            executed=tuple(self._commands),
            attempts=tuple(
                traced.Command(argv=argv, program=program, process=process, reported=False)
                for (process, _thread, argv), programs in self._tried.items()
                for program in programs
            ),
            connections=tuple(
                one for key, one in self._connections.items() if key[3] or key[:2] not in ended_at
            ),
            listeners=tuple(self._listeners),
            datagrams=self._datagrams,
            changes=tuple(
                traced.Change(call=call, error=error, process=process, count=count)
                for (call, error, process), count in self._changes.items()
            ),
            unverified=tuple(c for c in changes(strace) if c.process != 1 or self._first == 1),
            unsupported=tuple(self.unsupported),
            processes=tuple(
                traced.TracedProcess(pid=pid, parent=parent, command=self._last.get(pid, ()))
                for pid, parent in self.parents.items()
            ),
            dropped=dropped + self._left_out,
            gaps=tuple(sentence for sentence, holds in gaps.items() if holds),
        )
