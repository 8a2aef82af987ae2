"""The warnings of the host's own collection: the pytest inside has most of them again.

pytest calls ``pytest_warning_recorded`` of a new plugin for the warnings so far, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import warnings

    import pytest

_NAME = "gvisor-collection-warnings"

COLLECTING = frozenset({"config", "collect"})
"""The moments of a warning, in pytest's words, that are those of the collection."""

Place = tuple[str, str, str, int]
"""A warning's text, the name of its category, its file and line."""


class CollectionWarnings:
    """A plugin that keeps the places of warnings of the collection."""

    def __init__(self) -> None:
        self.known: set[Place] = set()

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str) -> None:
        """Keep the place of a warning of the collection."""
        if when in COLLECTING:
            self.known.add(place(warning_message))


def known(config: pytest.Config) -> set[Place]:
    """Return the places of the warnings: of those so far, and later of those to come."""
    found = config.pluginmanager.get_plugin(_NAME)
    if not isinstance(found, CollectionWarnings):
        found = CollectionWarnings()
        config.pluginmanager.register(found, _NAME)
    return found.known


def place(warning: warnings.WarningMessage) -> Place:
    """Return the place of a warning."""
    text = str(warning.message)
    return text, warning.category.__qualname__, warning.filename, warning.lineno
