"""The last figures of a run's relay."""

import sys
from typing import cast

import pytest

from pytest_gvisor.base.egress import Egress, Traffic
from pytest_gvisor.base.errors import LaunchError
from pytest_gvisor.run import egress_relays
from pytest_gvisor.run.egress_relays import OuterRelay


class Relay:
    """A relay whose sandbox ends its connections one question after the other."""

    def __init__(self, sending: int) -> None:
        self.sending, self.asked = sending, 0

    def egress(self, *, settled: bool) -> Egress:
        """The figures do not change at first, as on a busy machine."""
        assert settled
        self.asked += 1
        self.sending = max(0, self.sending - 1)
        sent = 0 if self.sending else 5
        return Egress(entries=(Traffic(entry="a:1", reached=1, sent=sent),))


def test_the_last_figures_wait_for_the_end_of_each_connection() -> None:
    """Figures that stand still for a while are not the last ones."""
    relay = Relay(sending=4)
    assert egress_relays.last_egress(cast("OuterRelay", relay)).sent == 5
    assert relay.asked == 4


def test_a_host_that_reads_nothing_is_waited_for_until_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its connection never ends."""
    monkeypatch.setattr(egress_relays, "SETTLED", 0.05)
    assert egress_relays.last_egress(cast("OuterRelay", Relay(sending=10**9))).sent == 0


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
    monkeypatch.setattr(egress_relays, "_PATIENCE", 0.2)
    monkeypatch.setattr(
        egress_relays,
        "command",
        lambda _program, _link, control, *_words: [sys.executable, "-c", LATE, str(control)],
    )
    with OuterRelay([], [], []) as relay:
        for _ in range(2):
            with pytest.raises(LaunchError, match="at relay: it does not answer"):
                relay.egress()
        assert relay._process.wait(10) == -9
