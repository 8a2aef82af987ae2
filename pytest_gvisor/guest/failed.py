"""The temporary folders of failed tests, noted by the pytest inside for the first process.

For worker.py: standard library only.
"""

from __future__ import annotations

import mmap
import os

_SIZE = 1024 * 1024
_SLOT = 4096


class Notes:
    """The noted folders, in memory that both processes share: the pytest may die at any time."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)

    def begin(self, path: str = "") -> None:
        """Note the folder of the test that runs, which may be its last."""
        data = os.fsencode(path)[: _SLOT - 2]
        self._memory[: len(data) + 1] = data + b"\0"

    def keep(self, path: str) -> None:
        """Note the folder of a test that has failed, if there is room for it."""
        data = os.fsencode(path) + b"\0"
        held = self._memory.find(b"\0\0", _SLOT)
        end = held + 1 if held > _SLOT else _SLOT
        known = self._memory.find(b"\0" + data, _SLOT - 1, end) >= 0
        if not known and end + len(data) < _SIZE - 1:
            self._memory[end : end + len(data)] = data

    def folders(self) -> list[str]:
        """Return all of them."""
        running = self._memory[:_SLOT].partition(b"\0")[0]
        # No further than needed: in a sandbox, a page that nobody has used takes long to read.
        failed = self._memory[_SLOT : self._memory.find(b"\0\0", _SLOT)].split(b"\0")
        return [os.fsdecode(path) for path in dict.fromkeys([running, *failed]) if path]
