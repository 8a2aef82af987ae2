"""Leaves out test functions of which the host has deselected each test.

For worker.py, which loads this file by its path. Imports nothing of pytest_gvisor.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest


class _LeftOut:
    """A plugin that makes no tests of some functions."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(
        self, collector: pytest.Collector, name: str
    ) -> list[pytest.Item] | None:
        """Collect nothing of an unwanted function."""
        return [] if f"{collector.nodeid}::{name}" in self._names else None


def register(config: pytest.Config, names: Iterable[str]) -> None:
    """Have these functions left out, which are named by their node ids."""
    config.pluginmanager.register(_LeftOut(names), "gvisor-unwanted")
