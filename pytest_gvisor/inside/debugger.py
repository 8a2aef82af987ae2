"""The user's terminal for a debugger in a test inside: lines go in, escaped output comes out.

The sandbox never has the terminal. The host reads each line that the pytest inside asks for, with
its own line editing at a terminal. There, that time does not count as the test's.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pdb  # noqa: T100 -- for the hooks of the host's plugins
import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pytest_gvisor.base.errors import ProtocolError
from pytest_gvisor.base.escape import Live, escape, print_live, safe
from pytest_gvisor.inside.wire.link import Link
from pytest_gvisor.programs.linux import ready
from pytest_gvisor.run.budget import Budget

_LONGEST_PROMPT = 200
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_OPTIONS = ("usepdb", "trace")
_STAND_IN = functools.partial(pdb.Pdb, nosigint=True, readrc=False)
"""A debugger for hooks of the host; the one inside stays there."""


def is_asked_for(config: pytest.Config) -> bool:
    """Whether an option opens a debugger, so that no test begins before the one before is over."""
    return any(getattr(config.option, name, False) for name in _OPTIONS)


def stopped(message: dict[str, Any]) -> BaseException:
    """Return the exception by which a test ends the session, as it does on the host.

    A status of 0 is not taken: the tests that follow have not run.
    """
    text, status = message.get("text"), message.get("status")
    if text is None:
        return KeyboardInterrupt()
    known = type(status) is int and 0 < status < 256
    return pytest.exit.Exception(safe(str(text)[:10_000]), status if known else None)


def _read_in_time(fd: int, budget: Budget) -> str:
    """Read a line while the test has time, and none of the next: another process may read it.

    Nobody may ever write to a pipe that CI holds open.
    """
    line = b""
    while not line.endswith(b"\n") and (left := budget.left) > 0:
        if ready(fd, seconds=min(left, 1.0)):
            if not (byte := os.read(fd, 1)):
                break
            line += byte
    return line.decode()


class Debugger:
    """The debuggers of one test inside, or of one start, of which one is open at most."""

    def __init__(self, config: pytest.Config, link: Link) -> None:
        self._config, self._link = config, link
        self._is_open = False
        self._show: Callable[[bytes], None] | None = None
        self._line = ""
        self._announced = False
        self._reads = self._interrupted = False
        self._handler: Any = None

    def end(self) -> None:
        """Close the one that is open, and give the user's interrupts back to pytest."""
        self._close()
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def take(self, message: dict[str, Any], name: str, last: pytest.TestReport | None) -> None:
        """Open for the test ``name``, read a line, or end. ``last`` is its latest report."""
        self._interrupted = False
        event, link = message.get("event"), self._link
        if event == "open" and not self._is_open:
            self._open(link, name)
            if message.get("shown") is True and last is not None and last.failed:
                last._pdbshown = True  # type: ignore[attr-defined]  # the summary leaves it out
            link.send("answer", text="")
        elif event == "read" and self._is_open:
            link.catch_up()
            link.send("answer", text=self._read(link.budget))
        elif event == "end" and self._is_open:
            self._close()
        else:
            raise ProtocolError(f"a debugger's message from inside out of turn: {event!r:.50}")

    @staticmethod
    def refuse(message: dict[str, Any], link: Link) -> None:
        """Answer for a test that does not run on the host: its input is at the end."""
        if message.get("event") != "end":
            link.send("answer", text=None if message.get("event") == "open" else "")

    def _open(self, link: Link, name: str) -> None:
        link.catch_up()
        if (capture := self._capture()) is not None:
            capture.suspend_global_capture(in_=True)
        self._is_open, self._line, self._show = True, "", link.show
        if self._show is None:
            link.show_from_here(Live(self._write).add_bytes)
        self.pass_on_interrupts()
        if not self._announced:
            self._announced = True
            self._announce(f"\n>>> gvisor: a debugger INSIDE asks for input: {escape(name)}\n")
        # pytest-timeout halts its own deadline, which holds for the protocol on the host too.
        self._config.hook.pytest_enter_pdb(config=self._config, pdb=_STAND_IN())

    def _close(self) -> None:
        if not self._is_open:
            return
        self._link.catch_up()
        self._link.show, self._show = self._show, None
        self._is_open = False
        self._config.hook.pytest_leave_pdb(config=self._config, pdb=_STAND_IN())
        if (capture := self._capture()) is not None:
            # The input again. Output is captured only while a test runs on the host.
            capture.resume_global_capture()
            capture.suspend_global_capture(in_=False)

    def _capture(self) -> Any:
        return self._config.pluginmanager.getplugin("capturemanager")

    def _announce(self, text: str) -> None:
        reporter = self._config.pluginmanager.getplugin("terminalreporter")
        if reporter is None:
            self._write(text)
        else:
            reporter.write(text, flush=True)  # it counts the characters of its line

    def _write(self, text: str) -> None:
        self._line = (self._line + text).rpartition("\n")[2][-_LONGEST_PROMPT:]
        print_live(text)

    @staticmethod
    def _at_terminal() -> bool:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            return sys.stdin.isatty() and sys.stdout.isatty()
        return False

    def _read(self, budget: Budget) -> str | None:
        """Return the user's line, nothing at the end of the input, None for Ctrl-C."""
        if hasattr(self._config, "workerinput"):
            return ""  # a worker of xdist has no terminal
        self._reads = True
        try:
            if not self._at_terminal():
                return _read_in_time(sys.stdin.fileno(), budget)
            with budget.halted():
                line = self._edit()
            budget.renew()
        except (AttributeError, EOFError, OSError, ValueError):  # none, ended, closed, or no text
            return ""
        except KeyboardInterrupt:
            return None
        else:
            return line
        finally:
            self._reads = False

    def _edit(self) -> str:
        """Read a line at the terminal, with the editing and history of this Python's readline."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401, PLC0415 -- input() uses it when it is there
        # readline writes the prompt anew, over the one that stands there.
        prompt, self._line = _COLOUR.sub("\x01\\1\x02", self._line), ""
        return input(f"\x01\r\x02{prompt}") + "\n"

    def pass_on_interrupts(self) -> None:
        """Let the test have the user's interrupts from here on."""
        if self._handler is None and threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, _number: int, _frame: object) -> None:
        """Pass the first Ctrl-C on to the test; one that the test does not answer ends the run."""
        if self._reads or self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        self._link.supervisor.ask("interrupt")  # its first process passes it on
