"""What the sentry itself reports of a run: that the workload was started, and how it ended.

runsc's exit status cannot tell ``exit 137`` from SIGKILL, nor the workload's end from the
sandbox's. gVisor's runtime monitoring can: a trace session named ``Default`` in the file given
with ``--pod-init-config`` makes the sentry send ``container/start`` and ``sentry/task_exit`` to an
AF_UNIX SOCK_SEQPACKET address. Source: pkg/sentry/seccheck/README.md and sinks/remote/README.md,
pkg/sentry/seccheck/points/{container,sentry,common}.proto of gVisor.

The peer is the sandbox's sentry, which untrusted code may have taken over: messages are bounded
and read strictly, and a report counts only if it agrees with runsc's own exit status.
"""

from __future__ import annotations

import json
import os
import socket
import struct

_HANDSHAKE = b"\x08\x01"  # protobuf: field 1 (version), varint 1
_HEADER = struct.Struct("<HHI")  # header size, message type, dropped count
_CONTAINER_START = 1  # enum MessageType of common.proto
_TASK_EXIT = 5
_MAX_MESSAGE = 64 * 1024


def pod_init_config(endpoint: str) -> str:
    """The text of the ``--pod-init-config`` file for a listener at ``endpoint``."""
    points = [
        {"name": "container/start"},
        {"name": "sentry/task_exit", "context_fields": ["thread_id", "group_id"]},
    ]
    # A sink that cannot keep up drops and counts; it never holds the sandbox up.
    sinks = [{"name": "remote", "config": {"endpoint": endpoint}, "ignore_setup_error": True}]
    return json.dumps({"trace_session": {"name": "Default", "points": points, "sinks": sinks}})


def fields(data: bytes) -> dict[int, int | bytes]:
    """The fields of one protobuf message: varints as int, length-delimited ones as bytes.

    Raises ValueError for anything else. Source: https://protobuf.dev/programming-guides/encoding/
    """
    found: dict[int, int | bytes] = {}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            found[key >> 3], position = _varint(data, position)
        elif kind == 2:
            size, position = _varint(data, position)
            if position + size > len(data):
                raise ValueError("a field that is longer than its message")
            found[key >> 3] = data[position : position + size]
            position += size
        else:
            raise ValueError(f"wire type {kind}")
    return found


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("a varint without an end")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a varint of more than ten bytes")


def exit_of_first_process(payload: bytes) -> int | None:
    """The raw wait status in a TaskExit message, if it is of thread 1 of the sandbox."""
    message = fields(payload)
    context = message.get(1)
    status = message.get(2, 0)
    if not isinstance(context, bytes) or not isinstance(status, int):
        raise ValueError("a TaskExit message of another shape")  # noqa: TRY004 -- one error for all
    # ContextData of common.proto: 2 is thread_id, 4 thread_group_id.
    about = fields(context)
    if about.get(2) != 1 or about.get(4) != 1 or not 0 <= status <= 0xFFFF:
        return None
    return status


class Listener:
    """Listens for one sentry and remembers what it said."""

    def __init__(self, folder: str) -> None:
        self.started = False
        self.workload_status: int | None = None
        self.broken = False
        self._peer: socket.socket | None = None
        self.endpoint = os.path.join(folder, "events")
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_UNIX, kind)
        try:
            self._socket.bind(self.endpoint)
            self._socket.listen(1)
        except OSError:
            self._socket.close()
            raise

    @property
    def connected(self) -> bool:
        """Whether a sentry has connected."""
        return self._peer is not None

    def fileno(self) -> int:
        """The descriptor to wait on: the listening socket, then the sentry's."""
        return self._socket.fileno() if self._peer is None else self._peer.fileno()

    def on_readable(self) -> bool:
        """Take what there is; False when the sentry has closed or broken the connection.

        The descriptor to wait on changes when the sentry connects.
        """
        try:
            if self._peer is None:
                self._peer, _address = self._socket.accept()
                self._peer.setblocking(False)
                return True
            while message := self._peer.recv(_MAX_MESSAGE):
                self._take(message)
        except BlockingIOError:
            return True
        except (OSError, ValueError, struct.error):
            self.broken = True
        return False

    def _take(self, message: bytes) -> None:
        if message == _HANDSHAKE and not self.started:
            if self._peer is not None:
                self._peer.send(_HANDSHAKE)
            return
        size, kind, _dropped = _HEADER.unpack_from(message)
        if kind == _CONTAINER_START:
            self.started = True
        elif kind == _TASK_EXIT and self.workload_status is None:
            self.workload_status = exit_of_first_process(message[size:])

    def close(self) -> None:
        """Close everything."""
        self._socket.close()
        if self._peer is not None:
            self._peer.close()
