"""Have the modules of this package imported as they are written. The plugin imports it first.

pytest rewrites the assert statements of a plugin's whole package. Such an import takes twice as
long, and nobody reads what a rewritten assert of ours would say.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_PACKAGE = "pytest_gvisor."
_REWRITES = "_pytest.assertion.rewrite"


class Finder:
    """A finder that asks all others but pytest's."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what Python would find without pytest; None for a module of another package."""
        if not name.startswith(_PACKAGE):
            return None
        others: list[Any] = [*sys.meta_path]
        for finder in others:
            # One of an earlier import of this module may still be there.
            if getattr(finder, "__module__", "") in {__name__, _REWRITES}:
                continue
            spec: ModuleSpec | None = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
        return None


def begin() -> None:
    """Be asked before pytest's own finder."""
    finders: list[Any] = sys.meta_path
    if Finder not in finders:
        finders.insert(0, Finder)


begin()
