"""The interpreter inside: started with the host's flags, and known by the host's names."""

from __future__ import annotations

import subprocess
import sys
from typing import Any


def command(script: str) -> list[str]:
    """Return the command line that runs ``script`` with this interpreter and its flags."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    # Those that multiprocessing passes on are not all.
    written = (
        name if value is True else f"{name}={value}" for name, value in sys._xoptions.items()
    )
    flags += [word for option in written if option not in flags for word in ("-X", option)]
    return [sys.executable, *flags, script]


def names() -> dict[str, Any]:
    """Return what a test can read of the command that started this process."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    return {
        "argv": [*map(str, sys.argv)],
        "orig_argv": [*map(str, sys.orig_argv)],
        "file": _text(getattr(main, "__file__", None)),
        "module": _text(getattr(spec, "name", None)),
    }


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
