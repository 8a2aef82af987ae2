"""The names of the program that runs: for tests inside, those of the host's pytest.

argparse and click take a program's name from ``sys.argv``. In each process that it spawns,
multiprocessing runs the file of ``__main__`` again.

Used inside the sandbox alone: standard library only.
"""

from __future__ import annotations

import builtins
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def assume(
    argv: Iterable[str], orig_argv: Iterable[str], file: str | None, module: str | None
) -> None:
    """Take the host's command line, and a ``__main__`` of its name.

    It has no file where the sandbox has none of that name.
    """
    sys.argv[:] = argv
    if hasattr(sys, "orig_argv"):  # since Python 3.10
        sys.orig_argv[:] = orig_argv
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    if file is not None and os.path.exists(file):
        main.__file__ = file
        if module is not None:
            main.__spec__ = ModuleSpec(module, None, origin=file)
            main.__package__ = module.rpartition(".")[0]
    sys.modules["__main__"] = main
