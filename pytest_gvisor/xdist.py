"""The only module that knows xdist: workers get a folder that all processes of the run share."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import pytest

_SHARED = "gvisor_shared"
_folder = pytest.StashKey[str]()


def shared_folder(config: pytest.Config) -> str | None:
    """The folder of this run's processes; None in a run without xdist workers."""
    workerinput: dict[str, Any] | None = getattr(config, "workerinput", None)
    return None if workerinput is None else workerinput.get(_SHARED)


class Controller:
    """Registered where xdist is: makes the folder and hands it to each worker."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give a worker that is about to start the folder's path."""
        config = node.config
        if _folder not in config.stash:
            folder = tempfile.mkdtemp(prefix="pytest-gvisor-run-")
            config.stash[_folder] = folder
            config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        node.workerinput[_SHARED] = config.stash[_folder]
