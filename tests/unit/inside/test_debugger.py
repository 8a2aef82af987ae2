"""The host's side of a debugger inside, with a link that is none."""

import os
import signal
import sys
from pathlib import Path
from typing import cast

import pytest

from pytest_gvisor.base.errors import ProtocolError
from pytest_gvisor.inside.debugger import Debugger, stopped
from pytest_gvisor.inside.wire.link import Link
from pytest_gvisor.run.budget import Budget
from tests.unit.run.test_budget import Clock, clock

__all__ = ["clock"]


class Pytest:
    """The parts of a configuration that a debugger asks for."""

    def __init__(self) -> None:
        self.pluginmanager = self.hook = self

    def getplugin(self, _name: str) -> None:
        """No plugin is there."""

    def pytest_enter_pdb(self, **_: object) -> None:
        """No plugin listens."""

    pytest_leave_pdb = pytest_enter_pdb


class Inside:
    """A pytest inside that keeps its answers."""

    show = None

    def __init__(self) -> None:
        self.budget = Budget(5)
        self.answers: list[object] = []
        self.interrupts = 0
        self.supervisor = self

    def send(self, op: str, *, text: str | None) -> None:
        """Take an answer."""
        assert op == "answer"
        self.answers.append(text)

    def catch_up(self) -> None:
        """Nothing is written."""

    def show_from_here(self, _show: object) -> None:
        """Nothing is written."""

    def ask(self, wish: str) -> None:
        """Count an interrupt."""
        assert wish == "interrupt"
        self.interrupts += 1


@pytest.fixture
def inside() -> Inside:
    """A pytest inside."""
    return Inside()


def begun(inside: Inside) -> Debugger:
    """The debugger of a test that has begun."""
    return Debugger(cast("pytest.Config", Pytest()), cast("Link", inside))


def take(debugger: Debugger, *events: object) -> None:
    """Take messages of these events."""
    for event in events:
        debugger.take({"type": "debugger", "event": event}, "test_it", None)


@pytest.mark.parametrize(
    "events", [["read"], ["end"], ["open", "open"], ["open", "end", "read"], [None], [["open"]]]
)
def test_a_message_out_of_turn_is_refused(
    inside: Inside, events: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line is read for an open debugger alone; there is one at most."""
    monkeypatch.setattr(Debugger, "_read", lambda *_: "secret\n")
    debugger = begun(inside)
    with pytest.raises(ProtocolError, match="out of turn"):
        take(debugger, *events)
    debugger.end()
    assert "secret\n" not in inside.answers


def test_lines_are_read_one_by_one_and_named_before(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The user reads whose debugger it is before the first line is read; the rest stays there."""
    (tmp_path / "lines").write_text("one\ntwo\n")
    debugger = begun(inside)
    with open(tmp_path / "lines") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        take(debugger, "open")
        assert "a debugger INSIDE asks for input: test_it" in capsys.readouterr().out
        take(debugger, "read", "end")
        debugger.end()
        assert inside.answers == ["", "one\n"]
        assert stdin.read() == "two\n"


@pytest.mark.parametrize(("line", "left"), [("c", 5), (EOFError(), 3)])
def test_no_time_goes_by_at_a_terminal(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, clock: Clock, line: object, left: float
) -> None:
    """A line of the user gives the whole time again, and the end of the input gives none."""

    def read(_prompt: str) -> str:
        clock.now += 3600
        if isinstance(line, EOFError):
            raise line
        return str(line)

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(Debugger, "_at_terminal", lambda _debugger: True)
    debugger, inside.budget = begun(inside), Budget(5)
    clock.now += 1
    take(debugger, "open")
    clock.now += 1
    assert inside.budget.left == 3
    take(debugger, "read", "end")
    debugger.end()
    assert inside.budget.left == left


def test_a_silent_pipe_is_waited_for_while_the_test_has_time(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input is at its end then, and what the pipe has had is not read for the next time."""
    reader, writer = os.pipe()
    with open(reader) as stdin, open(writer, "wb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stdin", stdin)
        debugger, inside.budget = begun(inside), Budget(0.3)
        pipe.write(b"one\n")
        take(debugger, "open", "read", "read")
        debugger.end()
    assert inside.answers == ["", "one\n", ""]
    assert inside.budget.left <= 0


def test_the_first_interrupt_goes_inside_and_the_second_is_ours(inside: Inside) -> None:
    """A pytest inside that answers may be interrupted again; the handler is restored."""
    before = signal.getsignal(signal.SIGINT)
    debugger = begun(inside)
    take(debugger, "open")
    signal.raise_signal(signal.SIGINT)
    take(debugger, "end")
    signal.raise_signal(signal.SIGINT)
    assert inside.interrupts == 2
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    debugger.end()
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize(("event", "answer"), [("open", [None]), ("read", [""]), ("end", [])])
def test_a_test_that_does_not_run_here_gets_no_line(
    inside: Inside, event: str, answer: list[object]
) -> None:
    """Its debugger does not open, and its input is at the end."""
    Debugger.refuse({"event": event}, cast("Link", inside))
    assert inside.answers == answer


@pytest.mark.parametrize(
    ("status", "taken"), [(3, 3), (0, None), (True, None), (256, None), ("1", None), (None, None)]
)
def test_no_test_ends_the_session_with_success(status: object, taken: int | None) -> None:
    """A status that is none, or 0, is not taken; the text is escaped."""
    error = stopped({"text": "\x1b[2Jenough", "status": status})
    assert isinstance(error, pytest.exit.Exception)
    assert error.returncode == taken
    assert error.msg == "\\x1b[2Jenough"
    assert isinstance(stopped({"text": None}), KeyboardInterrupt)
