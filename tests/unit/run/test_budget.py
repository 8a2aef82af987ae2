"""A phase's budget by a clock that stands still until a test moves it."""

import pytest

from pytest_gvisor.run import budget
from pytest_gvisor.run.budget import LONGEST_MORE, Budget


class Clock:
    """A clock that each look moves on by ``step``."""

    def __init__(self) -> None:
        self.now, self.step = 1000.0, 0.0

    def monotonic(self) -> float:
        """Look."""
        self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all budgets."""
    made = Clock()
    monkeypatch.setattr(budget, "clock", made)
    return made


def test_no_more_than_a_lap_counts_between_two_looks(clock: Clock) -> None:
    """Two seconds count of an hour in which the host was stopped; the end stops no clock."""
    given = Budget(5)
    clock.now += 3600
    assert given.left == 3
    clock.step = 0.5
    assert [given.left for _ in range(8)][-1] == -1


def test_what_was_asked_for_adds_a_bounded_time(clock: Clock) -> None:
    """Bytes and the host's work on them do, whatever they say; messages as such do not."""
    given = Budget(5)
    given.spend(2**20)
    assert given.left == 5
    given.earn(2**20, 0.5)
    assert given.left == 6.5
    given.earn(2**40, 100)
    assert given.left == 5 + LONGEST_MORE
