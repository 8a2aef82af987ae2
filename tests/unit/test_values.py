"""Values cannot be changed, and their fields are named where they are made."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pytest_gvisor

PACKAGE = Path(pytest_gvisor.__file__).parent
MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))

COUNTING = {
    "Budget", "CellInMaking", "Group", "Progress", "Record", "Tally", "_Arriving", "_Budget",
    "_Node", "_Stored",
}  # fmt: skip
"""Classes that count or gather."""

ORDERED = {"Lookup", "Node", "Trust", "Way", "_Budget", "_Partly", "_Stored"}
"""Classes of a few fields in a plain order."""


@pytest.mark.parametrize("module", MODULES)
def test_a_value_is_frozen_and_made_by_keywords(module: str) -> None:
    """A frozen value cannot change after its check, and keywords keep arguments apart."""
    tree = ast.parse((PACKAGE / module).read_text())
    for made in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for decorator in map(ast.unparse, made.decorator_list):
            if "dataclass" in decorator:
                assert ("frozen=True" in decorator) is (made.name not in COUNTING), made.name
                assert ("kw_only=True" in decorator) is (made.name not in ORDERED), made.name
