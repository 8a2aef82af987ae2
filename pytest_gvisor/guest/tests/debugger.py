"""A debugger in the pytest inside: its input is the user's, line by line, whom the host asks.

Output takes the way of all that is printed outside of a test. The host shows it while a debugger is
open. Used by worker.py alone; imports pytest only after ``sys.path`` is the host's.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

from pytest_gvisor.guest.tests.link import Link


class _Keys(io.FileIO):
    """Descriptor 0, which is empty, and the user's lines while a debugger is open."""

    def __init__(self, ask: Callable[[], bytes]) -> None:
        super().__init__(0, "r", closefd=False)
        self.name = "<stdin>"
        self._ask = ask
        self._rest = b""

    def readinto(self, buffer: Any) -> int:
        """Read a part of a line, of which the user is asked for one if there is no rest."""
        line = self._rest or self._ask()
        count = min(len(line), len(buffer))
        buffer[:count] = line[:count]
        self._rest = line[count:]
        return count

    # Those of FileIO read the descriptor; these call `readinto`.
    read, readall = io.RawIOBase.read, io.RawIOBase.readall  # type: ignore[assignment]


class Debugger:
    """A plugin of the pytest that tells the host when a debugger opens, reads and ends."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.test: str | None = None
        """The id of the test that runs; None during the collection."""

        self.is_open = False
        """Whether the host shows what is printed, and asks the user for lines."""

        self.reports = False
        """Whether pytest shows a failure before it makes a debugger."""

    def replace_stdin(self) -> None:
        """Have ``sys.stdin`` ask the host; it is empty while no debugger is open."""
        buffer = io.BufferedReader(_Keys(self._ask))
        before = sys.stdin
        self._encoding = before.encoding
        sys.stdin = io.TextIOWrapper(buffer, encoding=before.encoding, errors=before.errors)
        sys.stdin.mode = "r"  # type: ignore[misc]

    def register(self, config: Any) -> None:
        """Take note of each debugger that pytest opens with this configuration."""
        import pytest  # noqa: PLC0415 -- sys.path is the host's only now
        from _pytest.debugging import pytestPDB  # noqa: PLC0415

        # pytest writes a header before it calls pytest_enter_pdb.
        make = pytestPDB._init_pdb

        def init(cls: type[pytestPDB], method: str, *args: Any, **kwargs: Any) -> Any:
            # A test may run a pytest of its own, in this process.
            if cls._config is config:
                self.open()
            return make(method, *args, **kwargs)  # type: ignore[no-untyped-call]

        pytestPDB._init_pdb = classmethod(init)  # type: ignore[method-assign, assignment]
        pytest.hookimpl(wrapper=True, tryfirst=True)(type(self).pytest_exception_interact)
        self._post_mortem = bool(config.getoption("usepdb", False))
        config.pluginmanager.register(self, "gvisor-debugger")

    def pytest_exception_interact(self) -> Iterator[Any]:
        """Open for ``--pdb``, which shows the failure before it makes a debugger."""
        if not self._post_mortem:
            return (yield)
        self.open(shown=True)
        self.reports = self.is_open
        try:
            return (yield)
        finally:
            self.reports = False
            self.end()

    def pytest_enter_pdb(self, pdb: Any) -> None:
        """Open again where this debugger stops after it has gone on."""
        set_up = getattr(pdb, "setup", None)
        if set_up is None:
            return

        def setup(*args: Any, **kwargs: Any) -> Any:
            result = set_up(*args, **kwargs)
            if not result:
                self.open()
            return result

        pdb.setup = setup

    def pytest_leave_pdb(self) -> None:
        """End with the command to go on: what is printed from here on is the test's."""
        self.end()

    def open(self, *, shown: bool = False) -> None:
        """Wait for the host to give the user's terminal; ``shown`` is a failure that it shows."""
        if not self.is_open and self._link.is_ours():
            answer = self._link.ask("debugger", id=self.test, event="open", shown=shown)
            self.is_open = answer["text"] is not None

    def end(self) -> None:
        """Give the terminal back."""
        if self.is_open and self._link.is_ours():
            self._flush()
            self.is_open = False
            self._link.send("debugger", id=self.test, event="end")

    def _ask(self) -> bytes:
        """Return the user's next line, or nothing at the end of the input.

        Raises `KeyboardInterrupt` where the user interrupts.
        """
        if not self.is_open or not self._link.is_ours():
            return b""
        self._flush()
        answer = self._link.ask("debugger", id=self.test, event="read")
        text: str | None = answer["text"]
        if text is None:
            raise KeyboardInterrupt
        return text.encode(self._encoding, "replace")

    @staticmethod
    def _flush() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
