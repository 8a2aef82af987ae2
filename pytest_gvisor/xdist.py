"""The only module that knows xdist: workers get a name that all processes of the run share."""

from __future__ import annotations

import os
from typing import Any

import pytest

_SHARED = "gvisor_shared"
_name = pytest.StashKey[str]()


def shared_name(config: pytest.Config) -> str | None:
    """The name of this run, for what its processes share; None in a run without xdist workers."""
    workerinput: dict[str, Any] | None = getattr(config, "workerinput", None)
    return None if workerinput is None else workerinput.get(_SHARED)


class Controller:
    """Registered where xdist is: makes up the name and hands it to each worker."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give the name to a worker that is about to start."""
        name = node.config.stash.setdefault(_name, os.urandom(6).hex())
        node.workerinput[_SHARED] = name
