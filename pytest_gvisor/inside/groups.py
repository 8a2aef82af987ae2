"""The groups of tests inside that share a sandbox, in the order in which they run.

And the requirements of a test, checked before its turn: a platform, and no image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from pytest_gvisor.base.errors import GvisorError, UsageError
from pytest_gvisor.base.settings import Isolation, Platform, Settings
from pytest_gvisor.inside.worker import Worker
from pytest_gvisor.plugin import markers
from pytest_gvisor.plugin.placement import plan_key, plan_of
from pytest_gvisor.plugin.precedence import location, settings_of
from pytest_gvisor.plugin.skips import fail_misuse


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
_refused_key = pytest.StashKey[bool]()


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


def is_refused(item: pytest.Item) -> bool:
    """Whether the host will skip or fail a test, so that it must not run ahead inside."""
    if _refused_key not in item.stash:
        try:
            require_platform(item)
            item.stash[_refused_key] = False
        except (pytest.skip.Exception, pytest.fail.Exception, GvisorError):
            item.stash[_refused_key] = True
    return item.stash[_refused_key]


def require_platform(item: pytest.Item, *, examine: bool = False) -> Platform:
    """Return the platform of a test. Skips or fails the test if a requirement is missing."""
    with fail_misuse():
        settings = settings_of(item)
        if settings.image is not None:  # its Python is the host's
            raise UsageError(
                f"{location(item)}: a test inside runs with the host's Python and system folders, "
                f"and image={settings.image!r} is asked for",
                next_step="Say @pytest.mark.gvisor(image=None) for it, or run a program of the "
                "image with the gvisor fixture.",
            )
    markers.check_requirements(item)
    platform = markers.choose_platform(item, settings, item.stash[plan_key].platform)
    if examine or platform is Platform.KVM:
        markers.check_platform(item, settings, platform)
    return platform
