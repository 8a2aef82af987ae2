"""The relay beside pytest for one sandbox: its start, its counters, its end."""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
import threading
from collections.abc import Sequence

from pytest_gvisor.base.egress import Egress, Traffic
from pytest_gvisor.base.errors import LaunchError, on_error, stage
from pytest_gvisor.guest.wire.checked_json import loads
from pytest_gvisor.programs import relay
from pytest_gvisor.programs.paths import ENVIRONMENT, command
from pytest_gvisor.programs.settling import SETTLE

_PATIENCE = 10.0
_MAX_MESSAGE = 1024 * 1024


class OuterRelay(contextlib.AbstractContextManager["OuterRelay"]):
    """The process of `programs.relay`, which ends at the latest when this process does."""

    def __init__(
        self, allow: Sequence[str], ports: Sequence[tuple[str, str]], found: Sequence[str]
    ) -> None:
        """Start it. ``ports`` are the entries with a unix socket of another sandbox.

        ``found`` are the places of the entries. Raises `LaunchError`.
        """
        self.allow, self.places, self._guard = allow, found, threading.Lock()
        self._last = Egress(entries=tuple(Traffic(entry=entry) for entry in allow))
        self.sending = 0
        """How many connections the sandbox had not ended, by the last figures."""

        with stage("relay", "its sockets cannot be made"):
            self.link, link = socket.socketpair()
            self._control, control = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self._control.settimeout(_PATIENCE)
        led = {entry: f"{entry}={path}" for entry, path in ports}
        words = [led.get(entry, entry) for entry in allow]
        fds, nothing = (link.fileno(), control.fileno()), subprocess.DEVNULL
        closes = on_error(self._control.close)
        with link, control, closes, stage("relay", "its program cannot be started"):
            self._process = subprocess.Popen(
                command(relay.__file__, *fds, *words), pass_fds=fds, env=ENVIRONMENT, cwd="/",
                stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True,
            )  # fmt: skip

    @property
    def is_open(self) -> bool:
        """Whether it has not been ended."""
        return self._control.fileno() >= 0

    def egress(self, *, settled: bool = False) -> Egress:
        """Return the traffic so far; ``settled`` waits for what the sandbox has sent and is not
        counted yet.

        Raises `LaunchError` if the relay does not answer.
        """
        with self._guard, stage("relay", "it does not answer"):
            if not self.is_open:
                return self._last
            self._control.send(SETTLE if settled else b"now")
            if not (answer := self._control.recv(_MAX_MESSAGE)):
                raise ConnectionResetError(errno.ECONNRESET, "it has ended")
            found = loads(answer)
        pairs = zip(self.allow, found["entries"], strict=True)
        entries = tuple(Traffic(entry=entry, **counts) for entry, counts in pairs)
        names = tuple(Traffic(**one) for one in found["names"])
        self.sending = found["sending"]
        self._last = Egress(entries=entries, error=found["error"], names=names)
        return self._last

    def __exit__(self, *_: object) -> None:
        """End it: nothing is connected any more. The last figures stay."""
        with contextlib.suppress(LaunchError):
            self.egress()
        with self._guard:
            self._control.close()
        self.link.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
