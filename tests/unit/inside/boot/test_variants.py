"""Copies of a test, one for each of its platforms."""

from typing import Any

import pytest

from pytest_gvisor.inside.boot import variants
from pytest_gvisor.plugin.placement import variant_key

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


def test_a_marker_counts_wherever_it_stands(pytester: pytest.Pytester) -> None:
    """All other tests have the same plan."""
    items: list[pytest.Item] = [*pytester.getitems(MODULE)]
    variants.expand(items, items)
    variants.read_marks(items)
    plans = [item.stash[variant_key] for item in items]
    assert [plan.inner for plan in plans] == [item.nodeid for item in items]
    assert [(plan.user, plan.fresh) for plan in plans[3:]] == [("root", False), ("caller", True)]
    assert {plan._replace(inner="") for plan in plans[:3]} == {
        plans[4]._replace(inner="", fresh=False)
    }


def test_copies_for_a_platform_come_one_after_the_other(pytester: pytest.Pytester) -> None:
    """A block of tests inside of one file has those for a platform together, and the host's last.

    A test that a marker has run on one platform alone is among the copies for that.
    """
    pytester.makeini("[pytest]\ngvisor_platform = native systrap ptrace")
    only = "\nimport pytest\n@pytest.mark.gvisor(platform='ptrace')\ndef test_c(): pass\n"
    text = f"def test_a(): pass\n{only}def test_h(): pass\ndef test_d(): pass\n"
    items: list[pytest.Item] = [*pytester.getitems(text)]
    variants.expand(items, [item for item in items if item.name != "test_h"])
    variants.put_together(items)
    assert [item.nodeid.partition("::")[2] for item in items] == [
        "test_a[systrap]", "test_a[ptrace]", "test_c", "test_a[native]",
        "test_h",
        "test_d[systrap]", "test_d[ptrace]", "test_d[native]",
    ]  # fmt: skip


def test_others_may_add_to_the_node_id_of_a_variant(pytester: pytest.Pytester) -> None:
    """xdist does so for ``--dist loadgroup``, in the attribute in which pytest keeps the id."""
    pytester.makeini("[pytest]\ngvisor_platform = native systrap")
    items: list[pytest.Item] = [*pytester.getitems("def test_it(): pass")]
    variants.expand(items, items)
    for item in items:
        kept: Any = item
        if hasattr(item, "_id"):
            kept._id = type(kept._id).parse(f"{item.nodeid}@g")
        else:
            kept._nodeid = f"{item.nodeid}@g"
    assert [item.nodeid.partition("::")[2] for item in items] == [
        "test_it[systrap]@g", "test_it[native]@g",
    ]  # fmt: skip
