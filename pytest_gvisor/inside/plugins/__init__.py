"""Plugins of pytest that need code of ours for tests inside: a file for each.

The hooks of a plugin run on the host with the reports of tests inside, and its files come back. The
files here are for plugins to which that is not enough. A plugin that sums up or speaks while tests
run keeps its data in the tests' process. Its bridge has two ends. One in the sandbox sends data
(guest/tests/bridges.py). One here checks them, and hands them to the same plugin on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_gvisor.base.errors import ProtocolError
from pytest_gvisor.inside.plugins import benchmark, junit, live_log
from pytest_gvisor.inside.wire import rules
from pytest_gvisor.inside.wire.session_bounds import SessionBounds

_TABLE: dict[str, Callable[[pytest.Config, SessionBounds], rules.Take | None]] = {
    "junit": junit.find,
    "live log": live_log.find,
    "benchmark": benchmark.find,
}


class Bridges:
    """The bridges of one session: those whose plugin is at work on the host."""

    def __init__(self, config: pytest.Config, bounds: SessionBounds) -> None:
        made = {name: make(config, bounds) for name, make in _TABLE.items()}
        self._ends = {name: end for name, end in made.items() if end is not None}
        self.names = list(self._ends)
        """The names of the bridges, for the pytest inside."""

    def take(self, message: dict[str, Any], sender: rules.Sender | None) -> None:
        """Hand on the data in a message. Raises `ProtocolError` if they are malformed."""
        name = message.get("bridge")
        end = self._ends.get(name) if isinstance(name, str) else None
        if end is None:
            raise ProtocolError(f"data from inside for a bridge that is not here: {name!r:.50}")
        with rules.reading(f"data from inside that {name} cannot take"):
            end(message.get("data"), sender)
