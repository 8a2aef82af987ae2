"""Bridges: data of a plugin inside, checked and handed to the same plugin on the host.

A plugin that sums up or speaks while tests run keeps its data in the tests' process. A plugin that
has a bridge has two ends. One in the sandbox sends them (guest/bridges.py), and one here takes
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gvisor.errors import ProtocolError
from pytest_gvisor.inside import rules
from pytest_gvisor.inside.plugins import End, Sender
from pytest_gvisor.inside.plugins.benchmark import Benchmarks
from pytest_gvisor.inside.plugins.junit import Junit
from pytest_gvisor.inside.plugins.live_log import LiveLog

if TYPE_CHECKING:
    from pytest_gvisor.inside.session_bounds import SessionBounds

_TABLE: dict[str, Callable[[pytest.Config, SessionBounds], End | None]] = {
    "junit": Junit.find,
    "live log": LiveLog.find,
    "benchmark": Benchmarks.find,
}


class Bridges:
    """The bridges of one session: those whose plugin is at work on the host."""

    def __init__(self, config: pytest.Config, bounds: SessionBounds) -> None:
        made = {name: make(config, bounds) for name, make in _TABLE.items()}
        self._ends = {name: end for name, end in made.items() if end is not None}
        self.names = list(self._ends)
        """The names of the bridges, for the pytest inside."""

    def take(self, message: dict[str, Any], sender: Sender | None) -> None:
        """Hand on the data in a message. Raises `ProtocolError` if they are malformed."""
        name = message.get("bridge")
        end = self._ends.get(name) if isinstance(name, str) else None
        if end is None:
            raise ProtocolError(f"data from inside for a bridge that is not here: {name!r:.50}")
        with rules.reading(f"data from inside that {name} cannot take"):
            end.take(message.get("data"), sender)
