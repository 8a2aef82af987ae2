"""The only module that knows xdist: workers get a name that all processes of the run share."""

from __future__ import annotations

import secrets
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
        name = node.config.stash.setdefault(_name, secrets.token_hex(6))
        node.workerinput[_SHARED] = name

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Clear up behind a worker that was killed, if it was the last that had anything."""
        if error:
            node.config.add_cleanup(lambda: _clear(node.config.stash[_name]))


def _clear(name: str) -> None:
    from pytest_gvisor.launch.shared_dir import SharedDir  # noqa: PLC0415 -- idle costs nothing

    SharedDir(name).clear()
