"""The bounds of texts that the host keeps of a session's tests inside.

The pytest inside has most warnings of the host's own collection again: their places are kept too.
"""

from __future__ import annotations

import collections
import functools
import itertools
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_gvisor.base.errors import PytestGvisorWarning
from pytest_gvisor.base.escape import escape, safe, safe_but_colour
from pytest_gvisor.plugin.placement import FIELDS

if TYPE_CHECKING:
    import warnings

MOST_WARNINGS = 10_000
MOST_TEXT = 4 * 1024 * 1024
"""Bytes of the warnings' texts. pytest keeps some ten times as much for them."""

_MOST_NAMES = 20
_LONGEST_SOURCE = 4096
_MOST_SOURCE = 256 * 1024
"""Characters of one traceback's entry, and of a session. Pygments takes half a second for 4,096 of
them, if they are chosen for that, and four times as long for twice as many."""

COLLECTING = frozenset({"config", "collect"})
"""The moments of a warning, in pytest's words, that are those of the collection."""

Place = tuple[str, str, str, int]
"""A warning's text, the name of its category, its file and line."""


def place(warning: warnings.WarningMessage) -> Place:
    """Return the place of a warning."""
    text = str(warning.message)
    return text, warning.category.__qualname__, warning.filename, warning.lineno


class SessionBounds:
    """The bounds of one session, and a summary of the texts that they left out.

    A plugin: pytest calls ``pytest_warning_recorded`` of a new one for the warnings so far, too.
    """

    def __init__(self, config: pytest.Config, fields: Iterable[str] = ()) -> None:
        self._config = config
        reporter = config.pluginmanager.getplugin("terminalreporter")
        is_read = reporter is not None and reporter.isatty
        self.escaped = functools.partial(safe_but_colour, plain=escape if is_read else safe)
        """Escapes the texts of reports. Programs parse pytest's last line, and no terminal does."""

        self.fields = frozenset(fields)
        """Fields of reports that the project names, for hooks of its own."""

        self.tracers: dict[str, str] = {}
        """The plugin of coverage that traces a file, as the first sandbox has named it."""

        self.known: set[Place] = set()
        """Warnings of the host's own collection."""

        self._left_out: dict[str, None] = {}
        self._renamed: dict[str, str] = {}
        self._dropped: collections.Counter[str] = collections.Counter()
        self._warnings = self._text = self._more = self._source = 0
        self.failed = False
        """Whether the session fails, of which the user is warned."""

        self.stands = False
        """Whether a failure is one that no hook inside has let pass."""

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str) -> None:
        """Keep the place of a warning of the collection."""
        if when in COLLECTING:
            self.known.add(place(warning_message))

    def takes(self, texts: Iterable[str]) -> bool:
        """Whether the host keeps one more warning with these texts; if not, counts it."""
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        if self._warnings == MOST_WARNINGS or self._text + size > MOST_TEXT:
            self._more += 1
            return False
        self._warnings += 1
        self._text += size
        return True

    def colours(self, lines: Iterable[str]) -> bool:
        """Whether pytest may colour the source at the beginning of an entry's lines.

        It parts these from their indents, and joins them by their number. pygments drops the first
        ones if they are empty, and of a line break pytest makes two lines.
        """
        source = [*itertools.takewhile(lambda line: not line.startswith("E   "), lines)]
        shifts = "\n" in "".join(source) or (source and not source[0][4:])
        if (size := sum(map(len, source))) > _LONGEST_SOURCE or shifts:
            return False
        self._source += size
        return self._source <= _MOST_SOURCE

    def rename(self, names: Mapping[str, str]) -> None:
        """Record the names inside of tests that have others here."""
        self._renamed.update(names)

    def leave_out(self, names: Iterable[str]) -> None:
        """Record the names of fields of a report that no rule allows."""
        for name in names:
            if len(self._left_out) <= _MOST_NAMES:
                self._left_out[name] = None

    def drop(self, kind: str) -> None:
        """Count one more thing of this kind that the host cannot keep."""
        self._dropped[kind] += 1

    def close(self) -> None:
        """Warn of all that was left out."""
        if self._more:
            self.say(
                f"{self._more:,} more warnings from inside were left out: {MOST_WARNINGS:,} are "
                f"kept, and {MOST_TEXT // 1024**2} MiB of their text"
            )
        if self._renamed:
            here, there = next(iter(self._renamed.items()))
            count = len(self._renamed)
            self.say(
                f"{count:,} tests have another id inside, such as {safe(there)} for {safe(here)}: "
                "their parameters differ at each collection. They ran by their place among the "
                "parameters."
            )
        for kind, count in self._dropped.items():
            self.say(f"{count:,} {kind} from inside were left out")
        if self._left_out:
            names = list(self._left_out)
            more = ", …" if len(names) > _MOST_NAMES else ""
            self.say(
                "fields of reports from inside were left out, because plugins on the host would "
                f"act on them: {', '.join(names[:_MOST_NAMES])}{more}. Name one that hooks of this "
                f"project read, as plain data, in the ini key {FIELDS}."
            )

    def fail(self, text: str) -> None:
        """Warn, and fail the session if no test does, with that of xdist's controller."""
        self.say(text)
        self.failed = True

    def say(self, text: str) -> None:
        """Warn; write to standard error where warnings are errors, since tests have ended."""
        warning = PytestGvisorWarning(text)
        try:
            self._config.issue_config_time_warning(warning, stacklevel=1)
        except PytestGvisorWarning:
            print(f"{type(warning).__name__}: {warning}", file=sys.stderr)
