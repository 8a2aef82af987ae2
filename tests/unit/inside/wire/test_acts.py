"""The trace of a test inside is complete although other processes run on."""

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.inside.wire import acts
from pytest_gvisor.trace.recorder import Recorder
from tests.fakes import events
from tests.unit.trace.recorded import NEW, READ

AMID = (6, events.raw(257, thread=2))
EVENT = (7, events.opened(b"/f", READ, process=2))


class Supervisor:
    """One whose sandbox sends the next of these messages each time that it is read."""

    def __init__(self, recorder: Recorder, *messages: tuple[int, bytes] | None) -> None:
        self.listener = SimpleNamespace(fileno=lambda: 9, dropped=0, broken=False)
        self._recorder, self._messages = recorder, list(messages)

    def drain_events(self) -> None:
        """Take one."""
        if self._messages and (message := self._messages.pop(0)):
            self._recorder.take(*message)


def gaps(*messages: tuple[int, bytes] | None) -> tuple[str, ...]:
    """The gaps of the trace of a test that ends now."""
    recorder = Recorder(NEW, "")
    supervisor: Any = Supervisor(recorder, *messages)
    trace = acts.TestTrace(supervisor, recorder)
    recorder.mark = ""
    return trace.latest().gaps


def test_a_call_that_a_background_process_is_amid_is_no_gap() -> None:
    """Its event comes a moment later, and is waited for."""
    assert gaps(AMID, None, None, EVENT) == ()


def test_a_call_whose_event_does_not_come_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may hide what it has opened."""
    monkeypatch.setattr(acts, "_AMID", 0.05)
    (gap,) = gaps(AMID)
    assert gap.endswith("(a name that is no UTF-8, or openat2): 1")
