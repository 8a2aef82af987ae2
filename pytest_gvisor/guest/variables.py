"""The environment of tests inside, with a record of the variables that were looked for in vain.

Used inside the sandbox alone: standard library only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class _Variables(dict):  # type: ignore[type-arg]  # of os.environ, by encoded names
    """The data of `os.environ`: `os.getenv`, ``in`` and all else look a name up here."""

    def __init__(self, data: dict[Any, Any], watched: Iterable[str]) -> None:
        super().__init__(data)
        self._watched = {os.fsencode(name): name for name in watched}
        self.missed: dict[str, None] = {}
        self.in_test = True

    def __missing__(self, key: Any) -> Any:
        """Record a watched name that a test looks for, and raise the KeyError of any dictionary."""
        if key in self._watched and self.in_test:
            self.missed[self._watched[key]] = None
        raise KeyError(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set a variable. A test that sets it itself does not miss it."""
        super().__setitem__(key, value)
        self.missed.pop(self._watched.get(key, ""), None)


class Watch:
    """A watch over names that the host has and this process does not."""

    def __init__(self, names: Iterable[str]) -> None:
        environ: Any = os.environ
        self._variables = _Variables(environ._data, names)
        # Both views of the environment share their data (os.py), and go on sharing it.
        environ._data = self._variables
        os.environb._data = self._variables  # type: ignore[attr-defined]

    def clear(self) -> None:
        """Forget what was looked for so far."""
        self._variables.missed.clear()
        self._variables.in_test = True

    def pause(self, *, over: bool) -> None:
        """Record nothing from now on, until ``over``: plugins report, and no test runs."""
        self._variables.in_test = over

    def missed(self) -> list[str]:
        """Return the names that were looked for since `clear`, in order."""
        return list(self._variables.missed)
