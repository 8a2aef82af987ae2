"""The site of the documents."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pytest_gvisor

DOCS = Path(__file__).parents[2] / "docs"


def test_each_public_name_is_in_the_reference() -> None:
    """The page of the API has a directive for each exported name, and for no other."""
    page = (DOCS / "api.md").read_text()
    named = re.findall(r"^\.\. auto(?:class|function|exception):: (\w+)$", page, re.MULTILINE)
    assert sorted(named) == sorted(name for name in pytest_gvisor.__all__)


def test_each_page_is_in_one_part_of_the_index() -> None:
    """A page that no table of contents names would not be found."""
    pages = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    named = re.findall(r"^([\w-]+)$", (DOCS / "index.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(pages)


@pytest.mark.parametrize("name", ["python", "pytest"])
def test_each_name_of_an_inventory_is_there(name: str) -> None:
    """A name that Python or pytest has no longer would lead nowhere."""
    lines = (DOCS / f"_inventories/{name}.txt").read_text().splitlines()[1:]
    assert lines
    for line in lines:
        full, kind, page = line.split()
        module, _, attribute = full.rpartition(".")
        value = getattr(importlib.import_module(module or "builtins"), attribute)
        is_error = isinstance(value, type) and issubclass(value, BaseException)
        assert kind == (
            "exception" if is_error else "class" if isinstance(value, type) else "function"
        )
        assert page.endswith(".html")


def test_the_citation_has_the_version_of_the_project() -> None:
    """CITATION.cff and pyproject.toml agree, and the file is of the citation format."""
    judge = Path(sys.executable).parent / "check-jsonschema"
    done = subprocess.run(
        [judge, "--builtin-schema", "vendor.citation-file-format", DOCS.parent / "CITATION.cff"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    lines = (DOCS.parent / "CITATION.cff").read_text().splitlines()
    for key in ("version", "license"):
        assert f"{key}: {project[key]}" in lines


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Links between pages, names in the API's docstrings and the table of settings hold."""
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-qW", "-d", tmp_path / "trees", DOCS, tmp_path / "site"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    settings = (tmp_path / "site/settings.html").read_text()
    assert "PYTEST_GVISOR_TIMEOUT" in settings
    assert 'href="https://docs.python.org/3/library/' in (tmp_path / "site/api.html").read_text()
    shown = (tmp_path / "site/report.schema.json").read_bytes()
    assert shown == (DOCS / "report.schema.json").read_bytes()
