"""The file that the terminal plugin of the pytest inside writes to, and the end of its summaries.

Used by worker.py alone; imports pytest only after ``sys.path`` is the host's.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from pytest_gvisor.guest.tests.debugger import Debugger
from pytest_gvisor.guest.tests.link import Link

_write = os.write  # a test may have replaced it where pytest reports a part of it


class Terminal(io.TextIOBase):
    """The file of the inner terminal plugin; the host shows it only on request."""

    encoding = "utf-8"

    def __init__(self, link: Link, words: TextIO, debugger: Debugger) -> None:
        self._link = link
        self._words = words
        self._debugger = debugger
        self.relayed = False
        self.in_test = False
        self.captured = False
        """Whether pytest reports a part of a test whose output it captures."""

    def replace(self, config: Any) -> None:
        """Have pytest's terminal plugin write to this file."""
        from _pytest.config import create_terminal_writer  # noqa: PLC0415 -- see above

        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter._tw = create_terminal_writer(config, cast("TextIO", self))

    def write(self, text: str) -> int:
        """Send what ``--setup-show`` writes; drop the rest, which the host prints itself.

        Where pytest captures output, its own text is a part of that, as on the host.
        Text written in the midst of a test is its last words. pytest-timeout's thread method writes
        all stacks and ends the process.
        """
        if self._debugger.reports:
            # pytest has just printed to it what was captured, perhaps without the end of a line.
            sys.stdout.flush()
            self.say(text)
        elif self.captured:
            _write(1, text.encode())
        elif self.relayed and text:
            self._link.send("terminal", text=text)
        elif self.in_test:
            self.say(text)
        return len(text)

    def say(self, text: str) -> None:
        """Write to a stream whose end the host keeps."""
        print(text, end="", file=self._words, flush=True)

    def writable(self) -> bool:
        """Whether the file can be written to."""
        return True


class Unrelayed:
    """A plugin that relays nothing of a report: the host writes its letters itself."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self) -> Iterator[Any]:
        """Relay nothing until all plugins have the report."""
        relayed, self._terminal.relayed = self._terminal.relayed, False
        try:
            return (yield)
        finally:
            self._terminal.relayed = relayed

    pytest_runtest_logstart = pytest_runtest_logfinish = pytest_runtest_logreport


def drop_summaries(config: Any) -> None:
    """Drop the summaries of pytest and its plugins, which the host's pytest writes.

    Since 9.2 pytest asks for them even with ``no_summary``, and that of hypothesis imports it all.
    """
    config.option.no_summary = True
    hook = config.hook.pytest_terminal_summary
    for implementation in hook.get_hookimpls():
        hook._remove_plugin(implementation.plugin)
