"""The live output of a pytest inside, escaped although it comes in arbitrary pieces."""

from __future__ import annotations

import codecs
from collections.abc import Callable

from pytest_gvisor.escape import safe_but_colour

_LONGEST = 4096


class Live:
    """An escaper of text in pieces, safe at every cut. Colours stay."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._line = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def add_bytes(self, data: bytes) -> None:
        """Show bytes as soon as they are complete characters."""
        self.add(self._decoder.decode(data))

    def add(self, text: str) -> None:
        """Show text."""
        if not text:
            return
        shown = safe_but_colour(text)
        if safe_but_colour(self._line + text) != safe_but_colour(self._line) + shown:
            # Behind what is shown already this becomes a command, unless it begins otherwise.
            shown = f"\\x{ord(text[0]):02x}{safe_but_colour(text[1:])}"
        # White space at a line's start does not matter to who looks for commands.
        self._line = (self._line + text).rpartition("\n")[2].lstrip()[-_LONGEST:]
        self._write(shown)
