"""The site of the documents."""

import html
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pytest_gvisor
from pytest_gvisor import plugin
from pytest_gvisor.plugin import hookspecs, placement

DOCS = Path(__file__).parents[2] / "docs"


def test_each_public_name_is_in_the_reference() -> None:
    """The page of the API has a directive for each exported name, and for no other."""
    page = (DOCS / "api.md").read_text()
    named = re.findall(r"^\.\. auto(?:class|function|exception):: (\w+)$", page, re.MULTILINE)
    hooks = [name for name in vars(hookspecs) if name.startswith("pytest_gvisor_")]
    assert sorted(named) == sorted([*pytest_gvisor.__all__, *hooks])


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


ADDRESS = re.compile(
    r"https?://[\w.:-]+(?:/[\w.~-]+)*/pytest[-_]gvisor\b|https?://pytest-gvisor\.[\w.-]+"
)


def addresses(folder: Path) -> set[str]:
    """The addresses of this project that its pages name."""
    pages = [*folder.glob("*.md"), *folder.glob("*.cff"), *folder.glob("docs/*.md")]
    return {found for path in pages for found in ADDRESS.findall(path.read_text())}


def test_an_address_of_the_project_is_one_of_its_metadata() -> None:
    """No page invents a place where the project would be found."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    urls = project.get("urls", {}).values()
    named = addresses(DOCS.parent)
    assert [one for one in named if not any(url.startswith(one) for url in urls)] == []


def test_an_address_of_the_project_is_found(tmp_path: Path) -> None:
    """On a forge, an index of packages, or a site of its own; others are left alone."""
    urls = ["https://forge.test/a/pytest-gvisor", "https://pytest-gvisor.docs.test"]
    (tmp_path / "README.md").write_text(" ".join([*urls, "https://gvisor.dev/docs"]))
    assert addresses(tmp_path) == set(urls)


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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site; each warning of its build is a failure."""
    folder = tmp_path_factory.mktemp("site")
    trees = tmp_path_factory.mktemp("trees")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-qW", "-d", trees, DOCS, folder],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_the_site_is_built_without_a_warning(site: Path) -> None:
    """Links between pages and names in the API's docstrings hold."""
    settings = (site / "settings.html").read_text()
    assert "--gvisor-strict" in settings
    assert "\N{EN DASH}" not in settings  # of an option in a help text
    assert 'href="https://docs.python.org/3/library/' in (site / "api.html").read_text()
    for name in ("report.schema.json", "trace.schema.json"):
        assert (site / name).read_bytes() == (DOCS / name).read_bytes()


def test_the_changes_are_a_page_of_the_site_with_links_to_the_others(site: Path) -> None:
    """The page includes CHANGELOG.md, whose links begin at the checkout."""
    page = (site / "changelog.html").read_text()
    assert page.count("<h3>") == (DOCS.parent / "CHANGELOG.md").read_text().count("\n### ")
    assert 'href="inside.html#files-that-come-back"' in page
    assert 'href="docs/' not in page


def test_the_first_page_has_the_command_that_installs(site: Path) -> None:
    """Before the list of pages."""
    first, _, _ = (site / "index.html").read_text().partition("Where to read on</h2>")
    assert "pip install 'pytest-gvisor[runsc]'" in html.unescape(re.sub(r"<[^>]+>", "", first))


INTERNAL = {
    "Mount": {"problems"},
    "Process": {"channel", "id", "left", "on_message", "over", "wait_change"},
    "SharedSandboxes": {"close", "hooks"},
    "SharedSnapshots": {"close", "hooks"},
    "Snapshot": {
        "check",
        "last_id",
        "owner",
        "request",
        "tag",
        "wake",
        "workload",
        "workload_with",
    },
    "UsageError": {"exit_status"},
}
"""Members without an underscore that only other modules of the package use."""


def members(kind: type) -> set[str]:
    """The fields, properties and methods of a class of ours, those of its bases included."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("pytest_gvisor")]
    names = {name for base in ours[:1] for name in vars(base)}
    for base in ours:
        if base is not pytest_gvisor.GvisorError:
            names |= vars(base).keys() | vars(base).get("__annotations__", {}).keys()
    return {name for name in names if name[0] != "_"} - INTERNAL.get(kind.__name__, set())


def test_each_member_of_a_public_class_is_in_the_reference(site: Path) -> None:
    """Fields too: a field without a docstring would be missing, and no warning says so."""
    listed = subprocess.run(
        [sys.executable, "-m", "sphinx.ext.intersphinx", site / "objects.inv"],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    shown = {line.split()[0] for line in listed.splitlines() if line.startswith("    ")}
    kinds = {name: getattr(pytest_gvisor, name) for name in pytest_gvisor.__all__}
    wanted = {
        f"pytest_gvisor.{name}.{member}"
        for name, kind in kinds.items()
        if isinstance(kind, type)
        for member in members(kind)
    }
    assert len(wanted) > 100
    assert wanted - shown == set()


def test_fixtures_and_markers_are_listed_as_pytest_lists_them(site: Path) -> None:
    """From the plugin itself: each with its meaning."""
    page = html.unescape(re.sub(r"<[^>]+>", "", (site / "api.html").read_text()))
    for name in placement.FIXTURES:
        assert re.search(rf"^{name} \[(function|session) scope\][A-Z]", page, re.MULTILINE), name
    assert "@pytest.mark.in_gvisor(" in page
    for marker in plugin._MARKERS:
        name, _, meaning = marker.partition(": ")
        assert f"@pytest.mark.{name}{meaning}\n" in page
