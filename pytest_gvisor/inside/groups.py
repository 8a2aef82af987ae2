"""The plans of tests inside, and the groups that share a sandbox, in the order in which they run.

A plan is made once, before the first test of the session. What runs a test and what reports it take
the plan.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest

from pytest_gvisor.base.errors import GvisorError, UsageError, stage
from pytest_gvisor.base.settings import Isolation, Platform, Settings
from pytest_gvisor.inside.worker import Worker
from pytest_gvisor.plugin import markers
from pytest_gvisor.plugin.placement import APART, twins_key, variant_of
from pytest_gvisor.plugin.precedence import expected_failures, run_settings, settings_of
from pytest_gvisor.plugin.skips import fail_misuse, location


@dataclass(kw_only=True)
class Group:
    """The tests that share a sandbox, in the order in which they are to run."""

    platform: Platform | None
    """The platform that was asked for."""

    settings: Settings
    user: str
    lifetime: Isolation
    plans: list[ItemPlan] = dataclasses.field(default_factory=list)
    worker: Worker | None = None

    @property
    def items(self) -> list[pytest.Item]:
        """The tests themselves."""
        return [plan.item for plan in self.plans]

    def starts_like(self, other: Group) -> bool:
        """Whether both have a sandbox of a test or a module, which start in the same way."""
        ours, theirs = (
            (group.platform, group.settings, group.user, group.lifetime is Isolation.SESSION)
            for group in (self, other)
        )
        return self is not other and self.lifetime is not Isolation.SESSION and ours == theirs


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemPlan:
    """The plan of a test inside: its settings are those of its group."""

    item: pytest.Item
    name: str
    """Its name in messages: it tells tests of one node id apart."""

    group: Group
    number: int
    """Its place among the tests of its group."""

    position: int
    """Its place among all tests of the session."""

    expected: Mapping[str, str]
    """The platforms on which its markers expect it to fail, and why."""

    misuse: UsageError | None
    """The error of its markers: it fails with that when its turn has come."""

    @functools.cached_property
    def verdict(self) -> Platform | BaseException:
        """The platform, or the skip or failure of a test that the host refuses to run."""
        return _settled(self._choose_platform)

    def _choose_platform(self) -> Platform:
        item, settings = self.item, self.group.settings
        if self.misuse is not None:
            with fail_misuse():
                raise self.misuse
        markers.check_requirements(item, settings)
        asked, in_gvisor = self.group.platform, bool(item.config.getoption("in_gvisor"))
        platform = markers.choose_platform(item, settings, asked, in_gvisor=in_gvisor)
        # The devices of kvm may hang a sandbox for ever.
        return self._try(platform) if platform is Platform.KVM else platform

    def tried(self, platform: Platform) -> Platform | BaseException:
        """Return the platform if it works, or else the skip or failure."""
        return _settled(lambda: self._try(platform))

    def _try(self, platform: Platform) -> Platform:
        item, settings = self.item, self.group.settings
        chosen = run_settings(item.config).platforms
        # Of several platforms, and of one that a marker names, not all need to work.
        only = len(chosen) < 2 and settings.platforms == chosen
        in_gvisor = only and bool(item.config.getoption("in_gvisor"))
        markers.check_platform(item, settings, platform, in_gvisor=in_gvisor)
        return platform


def _settled(choose: Callable[[], Platform]) -> Platform | BaseException:
    try:
        with stage("platform", "it cannot be chosen"):
            return choose()
    except (pytest.skip.Exception, pytest.fail.Exception, GvisorError, Warning) as error:
        return error


plan_key = pytest.StashKey[ItemPlan]()


def planned(items: Sequence[pytest.Item], isolation: Isolation) -> list[Group]:
    """Make the plan of each test inside, beside those that share its sandbox; return the groups."""
    groups: dict[tuple[Platform | None, Settings, str, str], Group] = {}
    for position, item in enumerate(items):
        variant = variant_of(item)
        if variant is None:
            continue
        settings, misuse = Settings(), None
        try:
            _check_twins(item)
            settings = settings_of(item)
            settings.check_allow()
            if settings.traces("paths"):
                raise UsageError(f"trace={settings.trace}: a test inside has no paths; write True")
            if settings.image is not None:  # its Python is the host's
                raise UsageError(
                    f"{location(item)}: a test inside runs with the host's Python and system "
                    f"folders, and image={settings.image!r} is asked for",
                    next_step="Say @pytest.mark.gvisor(image=None) for it, or run a program of the "
                    "image with the gvisor fixture.",
                )
        except UsageError as error:
            misuse = error
        lifetime = Isolation.TEST if variant.fresh else isolation
        names = {Isolation.MODULE: str(item.path), Isolation.TEST: str(position)}
        platform, user = variant.platform, variant.user
        fresh = Group(platform=platform, settings=settings, user=user, lifetime=lifetime)
        group = groups.setdefault((platform, settings, user, names.get(lifetime, "")), fresh)
        plan = item.stash[plan_key] = ItemPlan(
            item=item, name=getattr(item, APART, variant.inner), group=group, position=position,
            number=len(group.plans), expected=expected_failures(item), misuse=misuse,
        )  # fmt: skip
        group.plans.append(plan)
    return list(groups.values())


def _condition(mark: pytest.Mark) -> tuple[object, ...]:
    """Return a mark without its reason, which may have the test's name with its platform."""
    args = () if mark.name == "skip" else mark.args  # skip's one argument is the reason
    return mark.name, args, {**mark.kwargs, "reason": None}


def _check_twins(item: pytest.Item) -> None:
    """Raise `UsageError` for a skip or an xfail that a hook has given one platform alone.

    The pytest inside would not know of it: there the test has one node id for all platforms.
    """
    kinds = ("skip", "skipif", "xfail")
    twins = item.stash.get(twins_key, [item])
    marks = [[_condition(m) for m in twin.own_markers if m.name in kinds] for twin in twins]
    if any(other != marks[0] for other in marks):
        raise UsageError(
            f"{location(item)}: a hook has marked it with one of {', '.join(kinds)} for one "
            "platform alone, which the pytest inside cannot know",
            next_step="Say @pytest.mark.gvisor(xfail={platform: reason}) or gvisor(platform=[…]).",
        )
