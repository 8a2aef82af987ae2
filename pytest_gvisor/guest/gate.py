"""The gate in the start of the pytest inside: its plugins are imported, and no conftest.py is.

The host may start a sandbox before it has collected. What depends on its tests comes in a second
command, for which the pytest waits here. Used by worker.py alone; imports pytest only after
``sys.path`` is the host's.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from pytest_gvisor.guest.channel import Channel
    from pytest_gvisor.guest.checked_json import loads
else:
    from channel import Channel
    from checked_json import loads

if TYPE_CHECKING:
    from collections.abc import Iterator

# Tests replace functions of modules; so may a plugin.
_exit = os._exit


class Gate:
    """A plugin of the pytest, with an end in the sandbox's first process. Made before the fork."""

    def __init__(self) -> None:
        self._first, self._pytest = socket.socketpair()
        self.command: dict[str, Any] = {}
        """The second command, when the pytest has passed."""

    def agreed(self) -> dict[str, Any] | None:
        """Return, in the first process, what comes back from here; None if the pytest is gone."""
        self._pytest.close()
        with self._first.makefile("rb") as lines:
            line = lines.readline()
        return loads(line.decode()) if line.endswith(b"\n") else None

    def open(self) -> None:
        """Let the pytest pass, when the first process is prepared."""
        with contextlib.suppress(OSError), self._first:
            self._first.sendall(b"\n")

    def register(self, config: Any, channel: Channel, path: list[str]) -> None:
        """Stop this configuration before it loads a conftest.py; ``path`` is its ``sys.path``."""
        import pytest  # noqa: PLC0415 -- sys.path is the host's only now

        self._first.close()
        self._channel, self._path, self._config = channel, path, config
        pytest.hookimpl(wrapper=True, tryfirst=True)(type(self).pytest_load_initial_conftests)
        config.pluginmanager.register(self, "gvisor-gate")

    def pytest_load_initial_conftests(self) -> Iterator[Any]:
        """Wait for the second command, before what plugins do here themselves."""
        command = self._channel.receive()
        if command["op"] != "collect":
            _exit(0)
        with self._pytest:
            self._pytest.sendall(json.dumps(command["returns"]).encode() + b"\n")
            self._pytest.recv(1)
        # A plugin may have added to it; collection on the host may have too.
        if command["sys_path"] != self._path:
            sys.path[:] = command["sys_path"]
        self._config.option.basetemp = command["basetemp"]
        self.command = command
        return (yield)
