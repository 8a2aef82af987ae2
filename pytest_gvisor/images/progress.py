"""A line on a terminal for a daemon's work: its name, and how it ended.

Where output goes to a file, and in CI, nothing is written at all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import TextIO

from pytest_gvisor.escape import escape

Tell = Callable[[str], None]
"""Shows a line in the place of the one before; an empty one ends it, and the last one stays."""


def is_wanted(*, terminal: bool) -> bool:
    """Whether the output is a terminal that somebody watches."""
    return terminal and not os.environ.get("CI")


def on(stream: TextIO) -> Tell:
    """Write lines on a terminal, each over the last one and at most as wide as the terminal.

    A character that the terminal's encoding does not have is a question mark.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"

    def tell(line: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        line = line[:width].encode(encoding, "replace").decode(encoding)
        stream.write(f"\r\x1b[K{line}" if line else "\n")
        stream.flush()

    return tell


@contextlib.contextmanager
def announced(tell: Tell | None, what: str) -> Iterator[None]:
    """Show the name of a piece of work while it lasts, and then how it ended."""
    if tell is None:
        yield
        return
    name, end = escape(what), "failed"
    tell(f"{name}: …")
    try:
        yield
        end = "done"
    finally:
        tell(f"{name}: {end}")
        tell("")
