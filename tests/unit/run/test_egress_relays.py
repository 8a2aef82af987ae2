"""The last figures of a run's relay."""

from typing import cast

import pytest

from pytest_gvisor.base.egress import Egress, Traffic
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
