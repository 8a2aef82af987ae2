"""The terminal plugin of the pytest inside: the file that it writes to, and what it leaves out.

Used by worker.py alone; imports pytest only after ``sys.path`` is the host's.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING or __package__:
    from pytest_gvisor.guest.passed import is_usual
else:
    from passed import is_usual

if TYPE_CHECKING:
    from pytest_gvisor.guest.channel import Channel
    from pytest_gvisor.guest.debugger import Debugger


class Terminal(io.TextIOBase):
    """The file of the inner terminal plugin; the host shows it only on request."""

    encoding = "utf-8"

    def __init__(self, channel: Channel, words: TextIO) -> None:
        self._channel = channel
        self._words = words
        self.relayed = False
        self.in_test = False
        self.debugger: Debugger | None = None

    def replace(self, config: Any, *, writes: bool) -> None:
        """Take the place of pytest's terminal; ``writes`` says that the host shows its text."""
        from _pytest.config import create_terminal_writer  # noqa: PLC0415 -- see above
        from _pytest.terminal import TerminalReporter  # noqa: PLC0415

        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        reporter._tw = create_terminal_writer(config, cast("TextIO", self))
        if not writes and type(reporter) is TerminalReporter:
            for name in ("logstart", "logreport", "logfinish"):
                _drop(getattr(config.hook, f"pytest_runtest_{name}"), reporter)
            usual = is_usual(config.hook.pytest_report_teststatus)
            config.pluginmanager.register(_Counter(config, reporter, usual=usual), "gvisor-counter")

    def write(self, text: str) -> int:
        """Send what ``--setup-show`` writes; drop the rest, which the host prints itself.

        Text written in the midst of a test is its last words. pytest-timeout's thread method writes
        all stacks and ends the process.
        """
        if self.debugger is not None and self.debugger.reports:
            self.say(text)
        elif self.relayed and text:
            self._channel.send("terminal", text=text)
        elif self.in_test:
            self.say(text)
        return len(text)

    def say(self, text: str) -> None:
        """Write to a stream whose end the host keeps."""
        print(text, end="", file=self._words, flush=True)

    def writable(self) -> bool:
        """Whether the file can be written to."""
        return True


class _Counter:
    """Takes the reports of pytest's terminal plugin, which would write lines that nobody sees.

    Tests may ask that plugin for the reports of earlier tests, by category.
    """

    def __init__(self, config: Any, reporter: Any, *, usual: bool) -> None:
        self._config = config
        self._status = config.hook.pytest_report_teststatus
        self._reporter = reporter
        self._usual = usual

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a report. pytest's subtests change one when they are asked for its category."""
        category = ""
        if not self._usual or report.when == "call" or report.outcome != "passed":
            category = self._status(report=report, config=self._config)[0]
        self._reporter._tests_ran = True
        self._reporter._add_stats(category, [report])


def _drop(hook: Any, plugin: object) -> None:
    """Call a plugin no longer, if it implements this hook."""
    if any(implementation.plugin is plugin for implementation in hook.get_hookimpls()):
        hook._remove_plugin(plugin)
