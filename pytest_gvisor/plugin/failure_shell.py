"""``--gvisor-shell``: at a failure, a shell on the user's terminal in the test's sandbox."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gvisor.errors import GvisorError
from pytest_gvisor.escape import escape
from pytest_gvisor.plugin.stash import harnesses
from pytest_gvisor.run import terminal

if TYPE_CHECKING:
    from pytest_gvisor.completed import Completed
    from pytest_gvisor.harness.gvisor import Gvisor
    from pytest_gvisor.sandbox.sandbox import Sandbox

_NAME = "gvisor-shell"
_LONGEST = 60


def prepare(config: pytest.Config) -> None:
    """Register the shell. Raises `pytest.UsageError` without a terminal."""
    if hasattr(config, "workerinput") or config.getoption("dist", "no") != "no":
        raise pytest.UsageError(
            "--gvisor-shell needs this terminal, which xdist's workers have not. Add -n0."
        )
    if not _has_terminal(config):
        raise pytest.UsageError(
            "--gvisor-shell needs a terminal as standard input and output. Start pytest at one, "
            "without a pipe, or write --gvisor-keep=failed for a replay.sh of each failed run."
        )
    config.pluginmanager.register(FailureShell(config), _NAME)


def _has_terminal(config: pytest.Config) -> bool:
    """Whether the user sits in front of pytest, whose capture has taken the streams by now."""
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    if capture is None or not capture.is_globally_capturing():
        return os.isatty(0) and os.isatty(1)
    capture.suspend_global_capture(in_=True)
    try:
        return os.isatty(0) and os.isatty(1)
    finally:
        # As it was: while pytest configures itself, its capture of output is suspended.
        capture.resume_global_capture()
        capture.suspend_global_capture()


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A sandbox of the test: the program that it has run, how that has ended."""

    title: str
    sandbox: Sandbox | None = None
    reason: str = ""


class FailureShell:
    """The plugin that runs the shell."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    # Last: pytest-timeout and faulthandler end their deadlines in this hook.
    @pytest.hookimpl(trylast=True)
    def pytest_exception_interact(
        self, node: pytest.Item | pytest.Collector, report: pytest.CollectReport | pytest.TestReport
    ) -> None:
        """Run a shell in the sandbox of a test that has failed, before its fixtures are closed."""
        if not isinstance(node, pytest.Item) or not isinstance(report, pytest.TestReport):
            return
        choices = [one for harness in harnesses(node) for one in _choices(harness)]
        if not choices:
            return
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        if capture is not None:
            capture.suspend(in_=True)
        try:
            self._show(report)
            self._offer(choices)
        finally:
            if capture is not None:
                capture.resume()

    def _show(self, report: pytest.TestReport) -> None:
        writer = self._config.get_terminal_writer()
        writer.line()
        writer.sep("_", f"{report.when}: {report.nodeid}")
        report.toterminal(writer)
        for title, text in report.sections:
            if title.startswith("gvisor"):
                writer.sep("-", title)
                writer.line(text)

    def _offer(self, choices: Sequence[Choice]) -> None:
        chosen: Choice | None = choices[-1]
        if len(choices) > 1:
            self._say("The sandboxes of this test:")
            for number, choice in enumerate(choices, 1):
                self._say(f"  {number}  {choice.title}")
            chosen = self._choose(choices)
        if chosen is not None:
            self._run(chosen)

    def _choose(self, choices: Sequence[Choice]) -> Choice | None:
        """Ask for one of them; none at the end of input, or for 0."""
        last = len(choices)
        while True:
            print(f"gvisor: a shell in which one? [{last}; 0 for none] ", end="", flush=True)
            line = sys.stdin.readline()
            if not line:
                return None
            word = line.strip() or str(last)
            if word.isascii() and word.isdigit() and int(word[:3]) <= last:
                return choices[int(word) - 1] if int(word) else None

    def _run(self, choice: Choice) -> None:
        if choice.sandbox is None or not choice.sandbox.alive:
            reason = choice.reason or "it is gone"
            self._say(f"gvisor: no shell in the sandbox of {choice.title}: {escape(reason)}")
            return
        self._say(f"gvisor: a shell in the sandbox of {choice.title}")
        self._say("gvisor: exit ends it, and the session goes on")
        try:
            with terminal.raw(0, 1) as user:
                choice.sandbox.shell(user)
        except GvisorError as error:
            self._say(f"gvisor: the shell has ended: {escape(str(error))}")
        self._say("gvisor: the session goes on")

    def _say(self, line: str) -> None:
        self._config.get_terminal_writer().line(line)


def _choices(harness: Gvisor) -> list[Choice]:
    """Return the sandboxes of a test that a shell may look into, the last one last."""
    runs = [
        Choice(
            title=_title(one.record.args, one.record.completed),
            sandbox=one.sandbox,
            reason=one.reason,
        )
        for one in harness.outlived
    ]
    warm = [Choice(title="gvisor_sandbox", sandbox=one) for one in harness.sandboxes if one.used]
    return [*runs, *warm]


def _title(args: Sequence[str], completed: Completed | None) -> str:
    words = escape(shlex.join(args)).replace("\n", "\\n")
    words = words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"
    return f"{words} ({completed.end})" if completed is not None else words
