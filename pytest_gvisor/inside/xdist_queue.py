"""The tests that a worker of xdist has been given, and not yet begun with.

Most of xdist's ways to distribute tests give a worker several at once, and never take one back. So
these are the ones that it runs next, in this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pytest_gvisor.inside.groups import seat_key
from pytest_gvisor.inside.requirements import is_refused

KEEPS = "gvisor_keeps_order"
"""Whether the controller takes no test back, in what it tells its workers."""

_KEEPING = frozenset({"each", "load", "loadfile", "loadgroup", "loadscope"})
_interactor_key = pytest.StashKey[Any]()


def keeps_order(config: pytest.Config) -> bool:
    """Whether a controller with this configuration takes no test back from a worker."""
    return config.getoption("dist", "no") in _KEEPING


def is_known(config: pytest.Config) -> bool:
    """Whether the tests that come next are known: not so in a worker from which others steal."""
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    if given is None:
        return True
    return given.get(KEEPS) is True and _interactor(config) is not None


def waiting(session: pytest.Session) -> Sequence[pytest.Item | None]:
    """Return the tests after the next one, as far as they are known.

    At the end of the last one's tests, None stands for no test.
    """
    config = session.config
    if not is_known(config):
        return ()
    with _interactor(config).torun.lock() as places:
        found = list(places)
    # Only the mark for the end of all tests is no number.
    return [session.items[place] if isinstance(place, int) else None for place in found]


def sure(
    item: pytest.Item, following: pytest.Item, room: int
) -> tuple[list[pytest.Item], pytest.Item | None]:
    """Return the tests that come right after this one in its sandbox, and the one after those.

    The test after a test decides what is torn down. So of the last one that the worker has, it is
    not known whether it can run.
    """
    order: list[pytest.Item | None] = [following]
    if room:
        order += waiting(item.session)[:room]
    group, here = item.stash[seat_key].group, list[pytest.Item]()
    for other in order:
        seat = None if other is None else other.stash.get(seat_key, None)
        if other is None or seat is None or seat.group is not group or is_refused(other):
            return here, None
        here.append(other)
    return here[:-1], here[-1]


def _interactor(config: pytest.Config) -> Any:
    """Return the plugin of xdist that has a worker's queue, which has no public name."""
    if _interactor_key not in config.stash:
        plugins = config.pluginmanager.get_plugins()
        found = (one for one in plugins if hasattr(getattr(one, "torun", None), "lock"))
        config.stash[_interactor_key] = next(found, None)
    return config.stash[_interactor_key]
