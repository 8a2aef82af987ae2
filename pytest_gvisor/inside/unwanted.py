"""Test functions of which the host has deselected each test: the pytest inside makes none of them.

A function may have thousands of tests by its parameters. Does no input or output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

_key = pytest.StashKey[set[str]]()


def note(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Note tests that the host has deselected."""
    config.stash.setdefault(_key, set()).update(_functions(items))


def names(items: Sequence[pytest.Item]) -> list[str]:
    """Return the unwanted functions in the session of these tests: ``file.py::Class::function``."""
    if not items:
        return []
    noted = items[0].config.stash.get(_key, set())
    return sorted(noted.difference(_functions(items[0].session.items))) if noted else []


def _functions(items: Iterable[pytest.Item]) -> Iterable[str]:
    """Yield the functions of these tests, by the node ids that they are collected by."""
    for item in items:
        if isinstance(item, pytest.Function) and item.parent is not None:
            yield f"{item.parent.nodeid}::{item.originalname}"
