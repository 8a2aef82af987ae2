"""Copies of a test, one for each platform that it runs on, under names of their own."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest

from pytest_gvisor.configured import settings_of
from pytest_gvisor.errors import UsageError
from pytest_gvisor.inside.plan import Plan, is_inside, plan_key
from pytest_gvisor.settings import Platform

_nodeid_key = pytest.StashKey[str]()


def expand(items: list[pytest.Item]) -> None:
    """Put one copy per platform in the place of each test inside that runs on several.

    Raises `pytest.UsageError` for a marker that cannot be meant.
    """
    expanded: list[pytest.Item] = []
    for item in items:
        if not is_inside(item):
            expanded.append(item)
            continue
        platforms = _platforms(item)
        if len(platforms) > 1:
            expanded += [_twin(item, platform) for platform in platforms]
        else:
            item.stash[plan_key] = _plan(item, next(iter(platforms), None))
            expanded.append(item)
    items[:] = expanded


def _platforms(item: pytest.Item) -> tuple[Platform, ...]:
    """Those that are asked for; none is ``auto``."""
    try:
        return settings_of(item).platforms
    except UsageError as error:
        raise pytest.UsageError(f"pytest-gvisor: {error}") from error


def _plan(item: pytest.Item, platform: Platform | None) -> Plan:
    mark = item.get_closest_marker("in_gvisor")
    fresh = bool(mark is not None and mark.kwargs.get("fresh"))
    return Plan(inner=item.nodeid, platform=platform, fresh=fresh)


def _twin(item: pytest.Item, platform: Platform) -> pytest.Item:
    """A copy for one platform. It is never set up here, so it may share all but name and id."""
    plan = _plan(item, platform)
    twin = copy.copy(item)
    # Where a node keeps its id differs by release of pytest, that it has the property does not.
    twin.__class__ = _named(type(item))
    twin.stash = pytest.Stash()
    twin.stash[plan_key] = plan
    twin.stash[_nodeid_key] = with_platform(item.nodeid, platform)
    twin.name = with_platform(item.name, platform)
    path, line, domain = item.location
    twin.__dict__["location"] = (path, line, with_platform(domain, platform))
    return twin


@functools.cache
def _named(kind: type[pytest.Item]) -> type[pytest.Item]:
    """A subclass of an item's class whose node id is the one in the stash."""

    def nodeid(self: pytest.Item) -> str:
        return self.stash[_nodeid_key]

    body: dict[str, Any] = {
        "__slots__": (),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "nodeid": property(nodeid),
        "location": property(lambda self: self.__dict__["location"]),
    }
    meta: Any = type(kind)
    subclass: type[pytest.Item] = meta(kind.__name__, (kind,), body)
    return subclass


def with_platform(name: str, platform: Platform) -> str:
    """``test_x[systrap]``, ``test_x[1-systrap]``."""
    return f"{name[:-1]}-{platform}]" if name.endswith("]") else f"{name}[{platform}]"
