"""The sentry's own reports on a run: the workload's start, and its end.

runsc's exit status cannot tell ``exit 137`` from SIGKILL, nor the workload's end from the
sandbox's. gVisor's runtime monitoring can. A trace session named ``Default`` in the file given with
``--pod-init-config`` makes the sentry send ``container/start`` and ``sentry/task_exit``. They go to
an AF_UNIX SOCK_SEQPACKET address. Source: pkg/sentry/seccheck/README.md and sinks/remote/README.md,
pkg/sentry/seccheck/points/{container,sentry,common}.proto of gVisor.

The peer is the sandbox's sentry, which untrusted code may have taken over. Messages are bounded and
read strictly, and a report counts only if it agrees with runsc's own exit status. In a traced run
the same session reports what the workload does, and a `Recorder` takes that.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

from pytest_gvisor.base.errors import on_error
from pytest_gvisor.runsc.command import EVENTS
from pytest_gvisor.trace import points
from pytest_gvisor.trace.protobuf import fields

if TYPE_CHECKING:
    from pytest_gvisor.trace.programs import Programs
    from pytest_gvisor.trace.recorder import Recorder

_HANDSHAKE = b"\x08\x01"  # protobuf: field 1 (version), varint 1
_HEADER = struct.Struct("<HHI")  # header size, message type, dropped count
_CONTAINER_START = 1  # enum MessageType of common.proto
_TASK_EXIT = 5
_MAX_MESSAGE, _MAX_TRACED = 64 * 1024, 256 * 1024
_BATCH = 64
_MAX_TASK_EXIT = 4096  # the fields that are asked for take some 40 bytes
_DRAIN_SECONDS = 1.0  # of the processor's time: what a socket's buffer holds takes milliseconds


def exit_of_first_process(payload: bytes, first: int = 1) -> int | None:
    """Return the raw wait status in a TaskExit message, if it is of a thread of the process."""
    message = fields(payload)
    context = message.get(1)
    status = message.get(2, 0)
    if not isinstance(context, bytes) or not isinstance(status, int):
        raise ValueError("a TaskExit message of another shape")  # noqa: TRY004 -- one error for all
    # ContextData of common.proto: 4 is thread_group_id.
    if fields(context).get(4) != first or not 0 <= status <= 0xFFFF:
        return None
    return status


def time_of_start(payload: bytes) -> int | None:
    """Return the time in a Start message, in nanoseconds since the epoch; None if it has none."""
    with contextlib.suppress(ValueError):
        context = fields(payload).get(1)
        # ContextData of common.proto: 1 is time_ns.
        found = fields(context).get(1) if isinstance(context, bytes) else None
        return found if isinstance(found, int) else None
    return None


class Listener:
    """A listener for one sentry that keeps its reports, and writes the file that names it.

    Both are in the ``folder`` of a run.
    """

    def __init__(
        self, folder: str, recorder: Recorder | Programs | None = None, first: int = 1
    ) -> None:
        """``first`` is the workload's first process, by its number in the whole sandbox."""
        self.recorder = recorder
        self._first, self._starts = first, 0
        self.started = False
        self.started_at: int | None = None
        """When the workload started by the sandbox's clock, in nanoseconds since the epoch."""

        self.dropped = 0
        """How many messages the sentry could not send."""

        self.broken = False
        self.greeted = False
        """Whether the handshake is done, which a sandbox's boot waits for."""

        self.ends = 0
        """How many threads of the first process have ended."""

        self._taken = 0
        self._statuses: dict[int, None] = {}
        self._message = bytearray(_MAX_TRACED if recorder else _MAX_MESSAGE)
        self._peer: socket.socket | None = None
        self.endpoint = os.path.join(folder, "events")
        with open(os.path.join(folder, EVENTS), "w", encoding="utf-8") as file:
            session = recorder.session if recorder else points.session
            file.write(session(self.endpoint))
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_UNIX, kind)
        with on_error(self._socket.close):
            self._socket.bind(self.endpoint)
            self._socket.listen(1)

    @property
    def connected(self) -> bool:
        """Whether a sentry has connected."""
        return self._peer is not None

    @property
    def complete(self) -> bool:
        """Whether no report is known to be lost."""
        return not self.broken and not self.dropped

    @property
    def workload_statuses(self) -> tuple[int, ...]:
        """The raw wait statuses of the first process's threads, in the order of their ends.

        A thread that ends before the process has a status of its own; the last is the process's.
        """
        return tuple(self._statuses)

    def fileno(self) -> int:
        """The descriptor to wait on: the listening socket, then the sentry's."""
        return self._socket.fileno() if self._peer is None else self._peer.fileno()

    def on_readable(self) -> bool:
        """Read all messages; return False when the sentry has closed or broken the connection.

        The descriptor to wait on changes when the sentry connects. Raises OSError where it cannot
        be let in.
        """
        if self._peer is None:
            try:
                self._peer, _address = self._socket.accept()
            except BlockingIOError:
                return True
            self._peer.setblocking(False)
            self._taken += 1
            # runsc waits for the answer to the handshake, which has most often come with the
            # connection. So go on reading at once.
        if self.broken:
            return False
        try:
            # Not all at once: the caller keeps a deadline, and the peer may never stop sending.
            for _ in range(_BATCH):
                size = self._peer.recv_into(self._message)
                if not size:
                    return False
                self._take(bytes(memoryview(self._message)[:size]))
        except BlockingIOError:
            return True
        except (OSError, ValueError, struct.error, MemoryError):  # an event may be lost
            self.broken = True
            with contextlib.suppress(OSError):
                self._peer.shutdown(socket.SHUT_RDWR)  # nobody listens: it need not try again
            return False
        return True

    def drain(self) -> None:
        """Read the rest of a peer that stops. Raises OSError like `on_readable`."""
        deadline = time.thread_time() + _DRAIN_SECONDS
        before = -1
        while before < self._taken and time.thread_time() < deadline:
            before = self._taken
            if not self.on_readable():
                return

    def _take(self, message: bytes) -> None:
        self._taken += 1
        if message == _HANDSHAKE and not self.greeted and self._peer is not None:
            self.greeted = True
            self._peer.send(_HANDSHAKE)
            return
        if len(message) == len(self._message):
            raise ValueError("a message of that size")
        size, kind, self.dropped = _HEADER.unpack_from(message)
        if kind == _CONTAINER_START:
            self._starts += 1
            if self._starts >= self._first:  # before the workload's, a relay's container starts
                self.started, self.started_at = True, time_of_start(message[size:])
        elif kind == _TASK_EXIT:
            if len(message) > _MAX_TASK_EXIT:
                raise ValueError("a TaskExit message of that size")
            status = exit_of_first_process(message[size:], self._first)
            if status is not None:
                self.ends += 1
                self._statuses.pop(status, None)
                self._statuses[status] = None
        if self.recorder is not None and (self.started or self._first == 1):
            self.recorder.take(kind, message[size:])

    def close(self) -> None:
        """Close everything."""
        self._socket.close()
        if self._peer is not None:
            self._peer.close()
