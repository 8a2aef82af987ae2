"""A progress line on a terminal for a daemon's work: bytes and layers of pulls, steps of builds.

Where output goes to a file, and in CI, nothing is written at all.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Self, TextIO

from pytest_gvisor.escape import escape

Tell = Callable[[str], None]
"""Shows a line in the place of the one before; an empty one ends it, and the last one stays."""

_PAUSE: Final = 0.1
"""Seconds between two lines: a terminal need not take every event of a pull."""
_DONE: Final = ("Pull complete", "Already exists")


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


class Meter:
    """A sum of a daemon's reports on one piece of work, shown. Use it in a ``with``."""

    def __init__(self, tell: Tell | None, what: str) -> None:
        self._tell = tell
        self._what = escape(what)
        self._layers: dict[str, tuple[int, int]] = {}
        self._done: set[str] = set()
        self._bytes = 0
        self._shown_at = -math.inf

    def pulled(self, answer: Mapping[str, Any]) -> None:
        """Take an event of a pull: a layer's name, its state, its bytes."""
        layer, status = str(answer.get("id", "")), str(answer.get("status", ""))
        if status in _DONE:
            self._done.add(layer)
            have = self._layers.get(layer, (0, 0))[1]
            self._layers[layer] = (have, have)
        elif status in ("Downloading", "Pulling fs layer"):
            detail = answer.get("progressDetail")
            detail = detail if isinstance(detail, Mapping) else {}
            self._layers[layer] = (_count(detail, "current"), _count(detail, "total"))
        if self._layers:
            have, total = (sum(column) for column in zip(*self._layers.values(), strict=True))
            layers = f"{len(self._done)} of {len(self._layers)} layers"
            self._show(f"{layers}, {_size(have)} of {_size(total)}")

    def built(self, answer: Mapping[str, Any]) -> None:
        """Take an event of a build, and show the lines that name steps."""
        line = str(answer.get("stream", "")).strip()
        if line.startswith("Step "):
            self._show(escape(line).replace("\n", " "))

    def moved(self, count: int) -> None:
        """Take bytes that have been copied."""
        self._bytes += count
        self._show(_size(self._bytes))

    def __enter__(self) -> Self:
        """Show the name of the work at once."""
        self._show("…")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Show how the work ended."""
        if self._tell is not None:
            self._shown_at = -math.inf
            size = _size(self._bytes or sum(total for _, total in self._layers.values()))
            self._show("failed" if kind else f"done, {size}" if size != _size(0) else "done")
            self._tell("")

    def _show(self, text: str) -> None:
        now = time.monotonic()
        if self._tell is not None and now - self._shown_at >= _PAUSE:
            self._tell(f"{self._what}: {text}")
            self._shown_at = now


def _count(detail: Mapping[str, Any], key: str) -> int:
    value = detail.get(key)
    # A number beyond that is none of bytes, and may be more than a fraction holds.
    return value if isinstance(value, int) and 0 < value < 2**63 else 0


def _size(count: int) -> str:
    """Format a number of bytes in the way of docker."""
    return f"{count / 1e6:.1f} MB"
