"""A recorder of traces, and the trace of some messages."""

import os
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from pytest_gvisor.base.traced import Trace
from pytest_gvisor.trace import points
from pytest_gvisor.trace.recorder import Recorder

READ, WRITE, BOTH = os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_RDWR
ASKED = [*points.USUAL, *points.wanted(points._CALLS["x86_64"])]
NEW = {one.name: one.context + one.optional for one in ASKED}
OLD = {name: fields for name, fields in NEW.items() if name != points.LISTEN}


@pytest.fixture(autouse=True)
def on_x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The events below have that machine's numbers of system calls."""
    monkeypatch.setattr(points, "calls", lambda: points._CALLS["x86_64"])


def made(
    *messages: tuple[int, bytes], known: Mapping[str, Collection[str]] = NEW, **more: Any
) -> Trace:
    """The trace of these messages, from a run that went well unless ``more`` says otherwise."""
    one = Recorder(known, "20260905.0")
    for kind, payload in messages:
        one.take(kind, payload)
    return one.trace(**{"dropped": 0, "broken": False, "ended": True, **more})


def renamed(process: int) -> str:
    """The line of strace for a rename by this process."""
    return (
        f"I1130 05:00:00.000000       1 strace.go:601] [{process:4}:{process:4}] sh X "
        "rename(0x7f0 /a, 0x7f8 /b) = 0 (0x0) (1.2µs)\n"
    )
