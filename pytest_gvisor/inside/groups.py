"""The groups of tests inside that share a sandbox, in the order in which they run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pytest_gvisor.errors import UsageError
from pytest_gvisor.plugin.placement import plan_of
from pytest_gvisor.plugin.precedence import settings_of
from pytest_gvisor.settings import Isolation, Platform, Settings

if TYPE_CHECKING:
    from pytest_gvisor.inside.worker import Worker


@dataclass(kw_only=True)
class Group:
    """The tests that share a sandbox, in the order in which they are to run."""

    platform: Platform | None
    """The platform that was asked for."""

    settings: Settings
    user: str
    lifetime: Isolation
    items: list[pytest.Item] = dataclasses.field(default_factory=list)
    worker: Worker | None = None

    def starts_like(self, other: Group) -> bool:
        """Whether both have a sandbox of a test or a module, which start in the same way."""
        ours, theirs = (
            (group.platform, group.settings, group.user, group.lifetime is Isolation.SESSION)
            for group in (self, other)
        )
        return self is not other and self.lifetime is not Isolation.SESSION and ours == theirs


class Seat(NamedTuple):
    """The place of a test: its number among those of its group."""

    group: Group
    number: int
    position: int
    """Its place among all tests of the session."""


seat_key = pytest.StashKey[Seat]()


def planned(items: Sequence[pytest.Item], isolation: Isolation) -> list[Group]:
    """Give each test inside its place beside those that share its sandbox; return the groups."""
    groups: dict[tuple[Platform | None, Settings, str, str], Group] = {}
    for position, item in enumerate(items):
        plan = plan_of(item)
        if plan is None:
            continue
        try:
            settings = settings_of(item)
        except UsageError:  # it fails when its turn has come
            settings = Settings()
        lifetime = Isolation.TEST if plan.fresh else isolation
        names = {Isolation.MODULE: str(item.path), Isolation.TEST: str(position)}
        fresh = Group(platform=plan.platform, settings=settings, user=plan.user, lifetime=lifetime)
        key = plan.platform, settings, plan.user, names.get(lifetime, "")
        group = groups.setdefault(key, fresh)
        item.stash[seat_key] = Seat(group, len(group.items), position)
        group.items.append(item)
    return list(groups.values())
