"""A phase's budget by a clock that stands still until a test moves it."""

from __future__ import annotations

import pytest

from pytest_gvisor.errors import ProtocolError
from pytest_gvisor.run import budget
from pytest_gvisor.run.budget import LONGEST_MORE, Budget


class Clock:
    """A clock that each look moves on by ``step``."""

    def __init__(self) -> None:
        self.now, self.step = 1000.0, 0.0

    def __call__(self) -> float:
        """Look."""
        self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all budgets."""
    made = Clock()
    monkeypatch.setattr(budget, "clock", made)
    return made


def test_time_goes_by_however_often_it_is_looked_at(clock: Clock) -> None:
    """Nothing but the clock counts; it goes on after the end."""
    given = Budget(5)
    clock.step = 0.5
    assert [given.left for _ in range(12)] == [4.5 - 0.5 * look for look in range(12)]


def test_a_stop_of_the_host_is_not_the_sandbox_s(clock: Clock) -> None:
    """Two seconds count of an hour between two looks."""
    given = Budget(5)
    clock.now += 3600
    assert given.left == 3


def test_the_user_s_time_does_not_count_and_a_line_renews_it(clock: Clock) -> None:
    """The time before a halt is gone all the same."""
    given = Budget(5)
    clock.now += 1
    with given.halted():
        clock.now += 3600
    assert given.left == 4
    given.renew()
    assert given.left == 5


def test_what_was_asked_for_adds_a_bounded_time(clock: Clock) -> None:
    """Bytes and the host's work on them do, whatever they say; messages as such do not."""
    given = Budget(5, size=2**40)
    given.spend(2**20)
    assert given.left == 5
    given.earn(2**20, 0.5)
    assert given.left == 6.5
    for _ in range(1000):
        given.earn(2**30, 100)
    assert given.left == 5 + LONGEST_MORE


def test_bytes_are_counted_together() -> None:
    """Many short messages are as much as a long one."""
    given = Budget(5, size=100)
    for _ in range(10):
        given.spend(10)
    with pytest.raises(ProtocolError, match="more than 100 bytes"):
        given.spend(1)


def test_output_beyond_the_bound_is_not_shown_and_that_is_said_once() -> None:
    """Output of exactly the bound is whole."""
    given = Budget(5, shown=6)
    assert given.shown(b"abc") + given.shown(b"def") == b"abcdef"
    said = [given.shown(b"gh") for _ in range(2)]
    assert said[0].startswith(b"\n[pytest-gvisor: there is more output")
    assert said[1] == b""
    assert Budget(5, shown=1).shown(b"ab").startswith(b"a\n[pytest-gvisor: there is more")
