"""The plans of tests inside: one for all tests without markers of ours, and those of the others."""

from __future__ import annotations

import pytest

from pytest_gvisor.inside import variants
from pytest_gvisor.plugin import precedence
from pytest_gvisor.plugin.placement import plan_key

MODULE = """
import pytest

@pytest.mark.parametrize("n", range(3))
def test_many(n): pass

@pytest.mark.in_gvisor(user="root")
def test_root(): pass

@pytest.mark.in_gvisor(fresh=True)
class TestFresh:
    def test_it(self): pass
"""


def test_only_tests_with_a_marker_of_ours_are_asked_for_settings(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A marker counts wherever it stands; thousands of other tests may be deselected later."""
    items: list[pytest.Item] = [*pytester.getitems(MODULE)]
    asked = []
    settings_of = precedence.settings_of

    def ask(item: pytest.Item) -> object:
        asked.append(item.name)
        return settings_of(item)

    monkeypatch.setattr(variants, "settings_of", ask)
    variants.expand(items, items)
    assert asked == ["test_root", "test_it"]
    plans = [item.stash[plan_key] for item in items]
    assert [plan.inner for plan in plans] == [item.nodeid for item in items]
    assert [(plan.user, plan.fresh) for plan in plans[3:]] == [("root", False), ("caller", True)]
    assert {plan._replace(inner="") for plan in plans[:3]} == {
        plans[4]._replace(inner="", fresh=False)
    }
