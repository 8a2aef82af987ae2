"""Import the modules of this package as they are written.

pytest rewrites the assert statements of a plugin's whole package, and keeps the result beside the
modules. If their folder cannot be written, each session pays 0.4 s more. No user reads the message
of a rewritten assert of ours.
"""

from __future__ import annotations

import atexit
import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


class AsWritten:
    """A finder of this package's modules that asks all other finders but pytest's."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what Python would find without pytest; None for a module of another package."""
        if not name.startswith("pytest_gvisor."):
            return None
        for finder in [*sys.meta_path]:
            # One of an earlier import of this module may still be there.
            if getattr(finder, "__module__", "") in (__name__, "_pytest.assertion.rewrite"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
        return None


def install() -> None:
    """Have the finder asked before pytest's own, until this process ends."""
    finders: list[Any] = sys.meta_path
    if AsWritten not in finders:
        finders.insert(0, AsWritten)
        atexit.register(_remove)


def _remove() -> None:
    """Let the interpreter free pytest's objects at once when it ends.

    pytest's finder has loaded this module, so the module's spec refers to all of a session. While
    ``sys.meta_path`` refers to this module, the interpreter looks through these objects once more:
    that takes 10 ms.
    """
    with contextlib.suppress(ValueError):
        sys.meta_path.remove(AsWritten)
