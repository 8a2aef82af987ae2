"""The site of the documents."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Links between pages, names in the API's docstrings and the table of settings hold."""
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-qW", "-d", tmp_path / "trees", DOCS, tmp_path / "site"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    settings = (tmp_path / "site/settings.html").read_text()
    assert "PYTEST_GVISOR_TIMEOUT" in settings
