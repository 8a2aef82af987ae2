"""The relay beside pytest: what it answers counts only as the answer to that question."""

import sys

import pytest

from pytest_gvisor.base.errors import LaunchError
from pytest_gvisor.run import outer_relay
from pytest_gvisor.run.outer_relay import OuterRelay

LATE = """
import socket, sys, time
control = socket.socket(fileno=int(sys.argv[1]))
control.recv(16)
time.sleep(0.5)
control.send(b'{"entries": [], "names": [], "error": "", "sending": 0}')
control.recv(16)
"""


def test_an_answer_that_comes_too_late_is_none_to_the_next_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its figures would be those of an earlier program. So each later question is an error too."""
    monkeypatch.setattr(outer_relay, "_PATIENCE", 0.2)
    monkeypatch.setattr(
        outer_relay,
        "command",
        lambda _program, _link, control, *_words: [sys.executable, "-c", LATE, str(control)],
    )
    with OuterRelay([], [], []) as relay:
        for _ in range(2):
            with pytest.raises(LaunchError, match="at relay: it does not answer"):
                relay.egress()
        assert relay._process.wait(10) == -9
