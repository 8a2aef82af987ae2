"""The gate in the start of the pytest inside: its plugins are imported, and no conftest.py is.

The host may start a sandbox before it has collected. What depends on its tests comes in a second
command, for which the pytest waits here. A sandbox that is saved while it waits can go on any
number of times. Used by worker.py alone; imports pytest only after ``sys.path`` is the host's.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from pytest_gvisor.guest.tests.byte_code import Supply
from pytest_gvisor.guest.tests.link import Link
from pytest_gvisor.guest.tests.randomness import Randomness
from pytest_gvisor.guest.wire.checked_json import loads

COLLECTS = "/.pytest-gvisor-collects"
"""A missing file, opened before the collection: a trace of the sandbox begins there."""

# Tests replace functions of modules; so may a plugin.
_exit = os._exit


class Gate:
    """A plugin of the pytest, with an end in the sandbox's first process. Made before the fork."""

    def __init__(self, supply: Supply) -> None:
        """``supply`` finds modules until the pytest is here."""
        self.supply = supply
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

    def register(self, config: Any, link: Link, path: list[str], *, has_ini: bool) -> None:
        """Stop this configuration before it loads a conftest.py; ``path`` is its ``sys.path``."""
        import pytest  # noqa: PLC0415 -- sys.path is the host's only now

        self._first.close()
        self._has_ini = has_ini
        self._link, self._path, self._config = link, path, config
        self._randomness = Randomness()
        pytest.hookimpl(wrapper=True, tryfirst=True)(type(self).pytest_load_initial_conftests)
        config.pluginmanager.register(self, "gvisor-gate")

    def pytest_load_initial_conftests(self, early_config: Any, args: list[str]) -> Iterator[Any]:
        """Wait for the second command, before what plugins do here themselves."""
        self.supply.end()
        self._randomness.end_watch()
        command = self._link.receive()
        while command["op"] == "save":
            command = self._rest()
        if command["op"] != "collect":
            _exit(0)
        with self._pytest:
            self._pytest.sendall(json.dumps(command["returns"]).encode() + b"\n")
            self._pytest.recv(1)
        if not self._has_ini:
            # This pytest was started with /dev/null as one, so that it looks for none itself.
            early_config._inipath = None
        # A plugin may have added to it; collection on the host may have too.
        if command["sys_path"] != self._path:
            sys.path[:] = command["sys_path"]
        self._config.option.basetemp = command["basetemp"]
        known = early_config.known_args_namespace
        # The files that the user named come last.
        if command["named"] != known.file_or_dir:
            args[len(args) - len(known.file_or_dir) :] = command["named"]
            known.file_or_dir = command["named"]
        if command["copy"]:
            # The host knows by it that the copy works, before any file of the project is loaded.
            self._link.send("goes on")
            self._renew()
        self.command = command
        return (yield)

    def _rest(self) -> dict[str, Any]:
        """Be as well saved as can be while the next command is awaited, and return that.

        gVisor keeps the names that it has read of a folder as long as a file there is in use.
        """
        here = os.getcwd()
        os.chdir("/")
        repeats = self._randomness.prepare()
        held = sorted(set(map(os.path.dirname, _used())))
        self._link.send("rests", held=held, repeats=repeats)
        command = self._link.receive()
        os.chdir(here)
        return command

    def _renew(self) -> None:
        """Draw anew what would be the same in each copy of a saved sandbox."""
        self._randomness.renew()
        if (log := sys.modules.get("logging")) is not None:
            # What LogRecord.relativeCreated counts from; nanoseconds since Python 3.13.
            now = time.time_ns()
            vars(log)["_startTime"] = now if isinstance(log._startTime, int) else now / 1e9
        # The host's folders may have changed meanwhile.
        importlib.invalidate_caches()


def _used() -> set[str]:
    """Return the files that processes here have open or mapped, or which they work beside."""
    files: set[str] = set()
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            files.add(os.path.join(os.readlink(f"/proc/{process}/cwd"), "."))
        with contextlib.suppress(OSError), os.scandir(f"/proc/{process}/fd") as descriptors:
            for entry in descriptors:
                with contextlib.suppress(OSError):
                    files.add(os.readlink(entry.path))
        with contextlib.suppress(OSError), open(f"/proc/{process}/maps") as lines:
            files.update(line.rstrip("\n").split(None, 5)[5] for line in lines if "/" in line)
    return {file for file in files if file.startswith("/")}
