"""Plugins of pytest that need code of ours for tests inside: a file for each.

The hooks of a plugin run on the host with the reports of tests inside, and its files come back. The
files here are for plugins to which that is not enough.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import pytest


class Sender(NamedTuple):
    """The test that runs inside while a message is sent."""

    item: pytest.Item
    inner: str
    """Its node id inside."""

    over: bool
    """Whether its last report has come."""


class End(Protocol):
    """The host's end of a bridge."""

    def take(self, data: Any, sender: Sender | None) -> None:
        """Take data from inside. Raises one of `rules.WRONG` for data of another shape.

        ``sender`` is None for what is sent while no test runs.
        """
