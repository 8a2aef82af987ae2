"""The table of plugins in its page has at least fifty, each with a test or a tiny project."""

import re
from pathlib import Path

from tests.suites.plugin_projects import PROJECTS

CHECKOUT = Path(__file__).parents[2]
_PROJECT = "`make ecosystem`"


def _rows() -> list[tuple[str, str]]:
    """The first and the last cell of each row."""
    _, _, rest = (CHECKOUT / "docs/inside-plugins.md").read_text().partition("\n## Plugins\n")
    lines = rest.partition("\n## ")[0].splitlines()
    cells = [line.strip("|").split("|") for line in lines if line.startswith("| ")]
    return [(row[0].strip(), row[-1].strip()) for row in cells[1:]]


def _plugins(cell: str) -> list[tuple[str, str]]:
    """The names and versions in the first cell of a row."""
    return re.findall(r"([A-Za-z][\w-]+) (\d[\d.]*)", cell)


def test_the_table_has_fifty_plugins_each_once() -> None:
    """Each has the version that was tried."""
    names = [name for cell, _ in _rows() for name, _ in _plugins(cell)]
    assert len(names) >= 50
    assert sorted(names) == sorted(set(names))


def test_each_row_names_tests_that_there_are() -> None:
    """A file of tests, or `make ecosystem` where each of the row's plugins has a project."""
    for cell, tests in _rows():
        for file in re.findall(r"`(\w+\.py)`", tests):
            assert list((CHECKOUT / "tests").rglob(file)), file
        if _PROJECT in tests:
            assert {name for name, _ in _plugins(cell)} <= PROJECTS.keys(), cell
        assert re.sub(rf"{_PROJECT}|`\w+\.py`|, ", "", tests) == "", tests


def test_each_project_of_a_plugin_is_in_the_table_with_its_version() -> None:
    """The table has the first parts of the version that the project pins."""
    shown = {
        name: version
        for cell, tests in _rows()
        if _PROJECT in tests
        for name, version in _plugins(cell)
    }
    assert shown.keys() == PROJECTS.keys()
    pinned = {name: project["version"] for name, project in PROJECTS.items()}
    wrong = {name for name in shown if not f"{pinned[name]}.".startswith(f"{shown[name]}.")}
    assert wrong == set()
