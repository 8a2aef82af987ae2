"""A census, and a look at a canary tree, after every test that injects a fault.

A fixture of a module or of the session keeps things for longer than one test. So remains are
remembered with the test's name, and told if they are still there at the end.
"""

import shutil
import tempfile
import time
from pathlib import Path

from tests.faults.census import canary_tree, census, facts

PATIENCE = 2.0
"""Seconds after which what a test has made has to be gone."""


class Watch:
    """The census at the beginning, and the tests that have left something since."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="canary-"))
        canary_tree(self._folder)
        self._canary = facts(self._folder)
        self._known = census()
        self._made: dict[str, str] = {}
        self.looks = 0

    def look(self, test: str) -> None:
        """Compare the census after a test with the earlier one."""
        self.looks += 1
        deadline = time.monotonic() + PATIENCE
        while (new := census() - self._known) and time.monotonic() < deadline:
            time.sleep(0.1)
        self._known |= new
        self._made.update(dict.fromkeys(new, test))

    def left(self) -> list[str]:
        """The remains of tests that are still there, each with its test."""
        return sorted(f"{self._made[line]} left {line}" for line in census() & self._made.keys())

    def canary_is_changed(self) -> bool:
        """Whether the tree has changed in any byte since the last look."""
        before, self._canary = self._canary, facts(self._folder)
        return self._canary != before

    def end(self) -> None:
        """Remove the tree."""
        shutil.rmtree(self._folder)
