"""The plans of tests inside, with items that have markers alone."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.settings import Isolation, Platform, Settings
from pytest_gvisor.inside.groups import Group, ItemPlan


class Choice:
    """Stands for the choice of a platform, and counts how often it is made."""

    def __init__(self, answer: Platform | BaseException) -> None:
        self.answer, self.made = answer, 0

    def make(self) -> Platform:
        """Return the platform, or raise the skip."""
        self.made += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def group() -> Group:
    """A group for one session."""
    return Group(platform=None, settings=Settings(), user="caller", lifetime=Isolation.SESSION)


def plan_of(group: Group, *marks: str, misuse: UsageError | None = None) -> ItemPlan:
    """The plan of a test with these markers."""
    item: Any = SimpleNamespace(iter_markers=lambda: [SimpleNamespace(name=one) for one in marks])
    return ItemPlan(
        item=cast("pytest.Item", item), name="test_it", group=group, number=0, position=0,
        expected={}, misuse=misuse,
    )  # fmt: skip


def test_tests_without_markers_have_the_platform_that_is_chosen_once(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A marker of ours or a misuse makes the test choose for itself."""
    choice = Choice(Platform.SYSTRAP)
    monkeypatch.setattr(ItemPlan, "_choose_platform", choice.make)
    for marks in ((), ("slow",), ()):
        assert plan_of(group, *marks).verdict is Platform.SYSTRAP
    assert choice.made == 1
    choice.answer = pytest.skip.Exception("there is none")
    assert plan_of(group, "requires_kvm").verdict is choice.answer
    assert plan_of(group, misuse=UsageError("no such setting")).verdict is choice.answer
    assert plan_of(group).verdict is Platform.SYSTRAP
    assert choice.made == 3


def test_each_test_has_a_refusal_of_its_own(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text may name the test, and what is missing may come."""
    choice = Choice(pytest.skip.Exception("there is none"))
    monkeypatch.setattr(ItemPlan, "_choose_platform", choice.make)
    assert plan_of(group).verdict is plan_of(group).verdict is choice.answer
    choice.answer = Platform.PTRACE
    assert plan_of(group).verdict is Platform.PTRACE
    assert choice.made == 3
