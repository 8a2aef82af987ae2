"""The commands to run tests that are sent before the host asks for their reports."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from pytest_gvisor.base.settings import Network, Settings
from pytest_gvisor.inside import ahead
from pytest_gvisor.inside.ahead import MOST, Ahead, Ids
from pytest_gvisor.inside.wire.link import Died, Link

NAMES = tuple(f"test_it.py::test_{number}" for number in range(80))


class Commands:
    """Takes the place of a link; ``gone`` makes it one whose pytest has died."""

    def __init__(self, *, gone: bool = False) -> None:
        self.sent: list[tuple[object, object]] = []
        self.gone = gone

    def send(self, op: str, *, ids: Sequence[str], next: str | None, failed: int | None) -> None:  # noqa: A002 -- as in the message
        """Note tests and what comes after them."""
        assert (op, failed) == ("run", None)
        if self.gone:
            raise Died("it is gone")
        self.sent += zip(ids, [*ids[1:], next], strict=True)


def send(named: Ahead, commands: Commands, number: int, count: int) -> None:
    """Let a test be followed by so many for sure."""
    upcoming = NAMES[number + 1 : number + 2 + count]
    ids = Ids(inner=NAMES[number], upcoming=upcoming, sure=count)
    named.send(cast("Link", commands), ids, NAMES)


def test_each_test_is_named_once_with_the_next_one() -> None:
    """Whoever names more repeats those that were named, and they are not sent again."""
    named, commands = Ahead(), Commands()
    send(named, commands, 0, 3)
    named.pop()
    send(named, commands, 1, 4)
    assert commands.sent == [
        (NAMES[1], NAMES[2]), (NAMES[2], NAMES[3]), (NAMES[3], NAMES[4]),
        (NAMES[4], NAMES[5]), (NAMES[5], NAMES[6]),
    ]  # fmt: skip
    assert named.first == NAMES[2]


def test_another_order_than_the_one_named_sends_nothing() -> None:
    """The tests that were named are waited for first."""
    named, commands = Ahead(), Commands()
    send(named, commands, 0, 3)
    count = len(commands.sent)
    send(named, commands, 5, 4)
    send(named, commands, 0, 1)
    assert len(commands.sent) == count


def test_a_test_that_was_not_collected_inside_ends_the_order() -> None:
    """The host fails it in its turn."""
    named, commands = Ahead(), Commands()
    ids = Ids(inner=NAMES[0], upcoming=NAMES[1:5], sure=4)
    named.send(cast("Link", commands), ids, {NAMES[1], NAMES[2], NAMES[4]})
    assert [inner for inner, _next in commands.sent] == [*NAMES[1:3]]


def test_long_ids_fill_no_socket() -> None:
    """Nobody reads commands while a test runs, so one test with a long id goes ahead alone."""
    named, commands = Ahead(), Commands()
    long = tuple(name + "x" * 5000 for name in NAMES)
    named.send(cast("Link", commands), Ids(inner=NAMES[0], upcoming=long[:8], sure=8), long)
    assert commands.sent == [(long[0], long[1])]


def test_a_pytest_that_is_gone_is_judged_by_what_it_has_sent() -> None:
    """Its messages are read first: the tests stay named."""
    named = Ahead()
    send(named, Commands(gone=True), 0, 2)
    assert named.first == NAMES[1]


class Config:
    """Takes the place of a configuration with these options."""

    def __init__(self, *, capture: str = "fd", **options: object) -> None:
        self.option = type("Options", (), {"maxfail": 0, **options})
        self._capture = capture

    def getoption(self, _name: str, _default: object) -> str:
        """Return the way of capturing."""
        return self._capture


@pytest.mark.parametrize(
    ("config", "how", "count"),
    [
        (Config(), {}, MOST),
        (Config(maxfail=1), {}, 0),
        (Config(stepwise=True), {}, 0),
        (Config(), {"writable": True}, 0),
        (Config(), {"network": Network.HOST}, 0),
        (Config(), {"network": Network.SANDBOX}, MOST),
        (Config(), {"live": True}, 1),
        (Config(capture="no"), {}, 1),
        (Config(setupshow=True), {}, 1),
        (Config(setuponly=True), {}, 1),
    ],
)
def test_no_test_runs_ahead_that_the_host_may_not_want(
    config: Config, how: dict[str, Any], count: int
) -> None:
    """A verdict may stop the session, effects outside stay, and the user may watch."""
    settings = Settings(network=how.pop("network", Network.NONE))
    how = {"writable": False, "live": False, **how}
    assert ahead.most(cast("pytest.Config", config), settings, **how) == count
