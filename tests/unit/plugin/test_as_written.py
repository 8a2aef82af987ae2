"""The modules of this package are imported by Python's own loader, and no others."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from pytest_gvisor.plugin import as_written
from pytest_gvisor.plugin.as_written import Finder

SESSIONS = """
import json, sys, pytest
name, folder = "pytest_gvisor.plugin.options", sys.argv[1]
done = [pytest.main(["-q", "-p", "no:cacheprovider", "-W", "error", folder]) for _ in range(2)]
loader = type(sys.modules[name].__loader__).__name__
print(json.dumps([*map(int, done), loader, type(sys.modules["test_it"].__loader__).__name__]))
"""


def test_pytest_rewrites_the_projects_modules_and_not_ours(tmp_path: Path) -> None:
    """Two sessions in one process run without a warning."""
    (tmp_path / "test_it.py").write_text("def test_it(): assert 1 == 1\n")
    done = subprocess.run(
        [sys.executable, "-c", SESSIONS, str(tmp_path)],
        capture_output=True, text=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == [0, 0, "SourceFileLoader", "AssertionRewritingHook"], done.stdout


def test_modules_of_this_package_are_found_alone() -> None:
    """The package itself, and all others, are left to pytest."""
    for name in ("pytest_gvisor", "pytest_gvisor_other", "json"):
        assert Finder.find_spec(name) is None
    folder = [str(Path(as_written.__file__).parent)]
    found = Finder.find_spec("pytest_gvisor.plugin.options", folder)
    assert found is not None
    assert type(found.loader) is SourceFileLoader
    assert Finder.find_spec("pytest_gvisor.plugin.no_such_module", folder) is None


def test_a_finder_of_an_earlier_import_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that ask each other would never end; a finder that others have put first is asked."""
    asked: list[str] = []

    class Other:
        """Another package's."""

        @staticmethod
        def find_spec(name: str, *_rest: object) -> None:
            """Find nothing."""
            asked.append(name)

    earlier = type("Finder", (Finder,), {"__module__": as_written.__name__})
    monkeypatch.setattr(sys, "meta_path", [earlier, Finder, Other, *sys.meta_path])
    name, folder = "pytest_gvisor.plugin.options", [str(Path(as_written.__file__).parent)]
    assert Finder.find_spec(name, folder) is not None
    assert asked == [name]


def test_it_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second session in the process finds it there."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    for _ in range(2):
        as_written.begin()
    finders: list[object] = [*sys.meta_path]
    assert finders.count(Finder) == 1
