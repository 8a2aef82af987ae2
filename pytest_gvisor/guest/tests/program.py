"""The program of tests inside: its names, further modules, and variables that are missing.

argparse and click take a program's name from ``sys.argv``. In each process that it spawns,
multiprocessing runs the file of ``__main__`` again.

Used inside the sandbox alone: standard library only.
"""

from __future__ import annotations

import builtins
import functools
import os
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import Any


def assume(
    argv: Iterable[str], orig_argv: Iterable[str], file: str | None, module: str | None
) -> None:
    """Take the host's command line, and a ``__main__`` of its name, with the loader of its file.

    It has no file where the sandbox has none of that name.
    """
    sys.argv[:] = argv
    sys.orig_argv[:] = orig_argv
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    if file is not None and os.path.exists(file):
        main.__file__ = file
        main.__loader__ = SourceFileLoader(module or "__main__", file)
        if module is not None:
            main.__spec__ = ModuleSpec(module, main.__loader__, origin=file)
            main.__spec__.has_location = True
            main.__package__ = module.rpartition(".")[0]
    sys.modules["__main__"] = main


@functools.cache
def beside(name: str) -> Any:
    """Load a module of this folder by its path: the program's imports are over."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    module = ModuleType(f"pytest_gvisor_{os.path.basename(name)}")
    module.__file__ = path
    SourceFileLoader(module.__name__, path).exec_module(module)
    return module


class Watch(dict):  # type: ignore[type-arg]  # of os.environ, by encoded names
    """The data of `os.environ`: `os.getenv`, ``in`` and all else look a name up here.

    It records the names that the host has and this process does not.
    """

    def __init__(self, names: Iterable[str]) -> None:
        environ: Any = os.environ
        super().__init__(environ._data)
        self._watched = {os.fsencode(name): name for name in names}
        self._missed: dict[str, None] = {}
        self.in_test = True
        """Whether names are recorded: a test runs, and no plugin reports."""

        # Both views of the environment share their data (os.py), and go on sharing it.
        environ._data = self
        os.environb._data = self  # type: ignore[attr-defined]

    def __missing__(self, key: Any) -> Any:
        """Record a watched name that a test looks for, and raise the KeyError of any dictionary."""
        if key in self._watched and self.in_test:
            self._missed[self._watched[key]] = None
        raise KeyError(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set a variable. A test that sets it itself does not miss it."""
        super().__setitem__(key, value)
        self._missed.pop(self._watched.get(key, ""), None)

    def begin(self) -> None:
        """Begin with a test: forget what was looked for so far."""
        self._missed.clear()
        self.in_test = True

    def missed(self) -> list[str]:
        """Return the names that were looked for since `begin`, in order."""
        return list(self._missed)
