"""The tests that a worker of xdist runs next."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor.inside import xdist_queue
from pytest_gvisor.inside.groups import Group, Seat, seat_key
from pytest_gvisor.inside.requirements import _refused_key
from pytest_gvisor.settings import Isolation, Settings

SHUTDOWN = object()
GROUP, OTHER = (
    Group(platform=None, settings=Settings(), user="caller", lifetime=Isolation.SESSION)
    for _ in range(2)
)


class Queue:
    """Takes the place of xdist's queue of a worker."""

    def __init__(self, places: list[object]) -> None:
        self.places = places

    @contextlib.contextmanager
    def lock(self) -> Iterator[list[object]]:
        """Lend the places."""
        yield self.places


def session_of(
    places: list[object], *, keeps: object = True, plugins: tuple[object, ...] | None = None
) -> Any:
    """A session of nine tests, whose worker has these to run."""
    found = (object(), SimpleNamespace(torun=Queue(places))) if plugins is None else plugins
    config = SimpleNamespace(
        stash=pytest.Stash(),
        workerinput={xdist_queue.KEEPS: keeps},
        pluginmanager=SimpleNamespace(get_plugins=lambda: found),
    )
    session = SimpleNamespace(config=config, items=[])
    for number in range(9):
        item = SimpleNamespace(name=number, stash=pytest.Stash(), session=session)
        item.stash[seat_key] = Seat(OTHER if number == 8 else GROUP, number, number)
        item.stash[_refused_key] = number == 7
        session.items.append(item)
    return session


@pytest.mark.parametrize(
    ("dist", "keeps"),
    [("load", True), ("loadscope", True), ("loadfile", True), ("loadgroup", True),
     ("each", True), ("worksteal", False), ("of-another-plugin", False), ("no", False)],
)  # fmt: skip
def test_order_is_kept_where_no_worker_steals(dist: str, *, keeps: bool) -> None:
    """A way that is not known may take tests back."""
    config = SimpleNamespace(getoption=lambda _name, _default: dist)
    assert xdist_queue.keeps_order(cast("pytest.Config", config)) is keeps


@pytest.mark.parametrize(
    ("keeps", "plugins", "known"),
    [
        (True, None, True),
        (False, None, False),
        (None, None, False),
        (True, (object(), SimpleNamespace(torun=[])), False),
    ],
)
def test_nothing_is_known_without_the_word_of_the_controller_and_the_queue(
    keeps: object, plugins: tuple[object, ...] | None, *, known: bool
) -> None:
    """Another release of xdist may have another queue."""
    session = session_of([1, 2], keeps=keeps, plugins=plugins)
    assert xdist_queue.is_known(session.config) is known
    assert bool(xdist_queue.waiting(session)) is known


def test_without_xdist_no_other_worker_steals() -> None:
    """The order of tests is the session's then."""
    assert xdist_queue.is_known(cast("pytest.Config", SimpleNamespace()))


@pytest.mark.parametrize(
    ("places", "room", "sure", "after"),
    [
        ([], 9, [], 1),
        ([2, 3, 4], 9, [1, 2, 3], 4),
        ([2, 3, 4], 2, [1, 2], 3),
        ([2, 3, 4], 0, [], 1),
        ([2, SHUTDOWN], 9, [1, 2], None),
        ([2, 7, 3], 9, [1, 2], None),
        ([2, 8, 3], 9, [1, 2], None),
        ([SHUTDOWN], 9, [1], None),
    ],
)
def test_a_test_is_named_when_the_one_after_it_is_known(
    places: list[object], room: int, sure: list[int], after: int | None
) -> None:
    """The test after it decides which fixtures are torn down. Some tests have another sandbox."""
    session = session_of(places)
    first, following = session.items[:2]
    found, then = xdist_queue.sure(first, following, room)
    assert [cast("Any", item).name for item in found] == sure
    assert (None if then is None else cast("Any", then).name) == after
