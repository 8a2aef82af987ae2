"""Values cannot be changed, and their fields are named where they are made."""

import ast
from pathlib import Path

import pytest_gvisor

PACKAGE = Path(pytest_gvisor.__file__).parent

COUNTING = {
    "Arriving", "Budget", "CellInMaking", "Group", "Opened", "Progress", "Record", "Tally",
    "_Budget", "_Node", "_Stored",
}  # fmt: skip
"""Classes that count or gather."""

ORDERED = {"Lookup", "Node", "Opened", "Trust", "Way", "_Budget", "_Partly", "_Stored"}
"""Classes of a few fields in a plain order."""

OF_REPORTS = {"Binary", "Cell", "Column", "Leg", "Other", "Row", "Run", "_File"}
"""The reader of reports makes a million of them from columns of their fields. Keywords would take
most of its time, and so would frozen cells."""

MOVED = {"Cell", "Other", "Row", "_File"}
"""The classes of reports whose values a merge changes."""


def test_values_are_frozen_and_made_by_keywords() -> None:
    """A frozen value cannot change after its check, and keywords keep arguments apart."""
    made = (
        (node.name, ast.unparse(decorator), f"{node.name} of {path.relative_to(PACKAGE)}")
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if "dataclass" in ast.unparse(decorator)
    )
    for name, decorator, where in made:
        assert ("frozen=True" in decorator) is (name not in COUNTING | MOVED), where
        assert ("kw_only=True" in decorator) is (name not in ORDERED | OF_REPORTS), where
