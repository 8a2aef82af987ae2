"""The host's folders that a test inside sees."""

from __future__ import annotations

import dataclasses
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.errors import UsageError
from pytest_gvisor.inside import visible
from pytest_gvisor.oci import packages, skeleton
from pytest_gvisor.programs.paths import within


def shown(
    pytester: pytest.Pytester,
    *asked: Path | str,
    file: Path | None = None,
    args: tuple[str, ...] = (),
) -> visible.Shown:
    """The visible files with one test, in the project if no file is given."""
    path = file or pytester.path / "test_it.py"
    found = types.SimpleNamespace(path=path)
    item: Any = types.SimpleNamespace(path=path, getparent=lambda _kind: found)
    return visible.shown(pytester.parseconfig(*args), [item], [*map(str, asked)])


def test_the_project_and_what_it_imports_from_are_shown(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each once, and none that the root filesystem has anyway."""
    library = tmp_path / "library"
    library.mkdir()
    monkeypatch.syspath_prepend(library)
    package = str(tmp_path / "package")
    monkeypatch.setattr(packages, "found", lambda: [package, str(library / "sub"), "/"])
    found = shown(pytester)
    assert str(pytester.path) in found.paths
    assert str(library) in found.paths
    assert package in found.paths
    assert len(set(found.paths)) == len(found.paths)
    assert not [path for path in found.paths if path.startswith(("/usr", sys.prefix))]
    assert found.holds("/usr/bin/env")
    assert not found.holds(str(tmp_path / "other"))
    assert visible.named_packages(pytester.parseconfig()) == [package]


def test_many_packages_of_a_folder_are_counted(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three are named."""
    for number, words in ((3, ["/x/0", "/x/1", "/x/2"]), (4, ["4 in /x"])):
        found = [f"/x/{n}" for n in range(number)]
        monkeypatch.setattr(packages, "found", lambda found=found: found)
        assert visible.named_packages(pytester.parseconfig()) == words


@pytest.mark.parametrize("folder", ["/", "/tmp", "/var/tmp", "/etc", "/proc", "/sys/fs", ""])
def test_what_would_show_too_much_is_refused(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    """The error for a home folder, a shared folder or the kernel's names its use and a remedy."""
    home = not folder
    folder = folder or str(tmp_path)
    monkeypatch.setattr(skeleton, "home", lambda: str(tmp_path))
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(UsageError, match=r"would need all of .*it is on sys.path") as caught:
        shown(pytester)
    possible = not folder.startswith(("/proc", "/sys")) and folder != "/"
    assert ("--gvisor-readable" in str(caught.value)) is possible
    assert "begin with a dot stay hidden" in str(caught.value) or not home


def test_a_readable_path_is_shown_under_both_of_its_names(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    """A link to it works as it does on the host."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    paths = shown(pytester, tmp_path / "link").paths
    assert {str(tmp_path / "link"), str(tmp_path / "real")} <= {*paths}


@pytest.fixture
def home(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder is this user's home folder."""
    monkeypatch.setattr(skeleton, "home", lambda: str(pytester.path))
    for name in (".ssh/id", "tests/test_it.py", "tests/conftest.py", ".venv/lib/module.py"):
        (pytester.path / name).parent.mkdir(parents=True, exist_ok=True)
        (pytester.path / name).touch()
    return pytester.path


def test_a_project_that_is_the_home_folder_has_to_be_asked_for(
    pytester: pytest.Pytester, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then its entries are seen, without names that begin with a dot, but what imports need."""
    monkeypatch.syspath_prepend(home / ".venv/lib")
    file = home / "tests/test_it.py"
    with pytest.raises(UsageError, match="root folder of the tests") as caught:
        shown(pytester, file=file)
    assert f"--gvisor-readable {home}" in str(caught.value)
    found = shown(pytester, home, file=file)
    assert [path for path in found.paths if within(path, str(home))] == [
        f"{home}/tests",
        f"{home}/.venv/lib",
    ]


def test_of_a_wide_folder_the_ini_file_is_shown_alone(
    pytester: pytest.Pytester, home: Path
) -> None:
    """With a root folder below it, the home folder is not needed, although pytest starts there."""
    pytester.makeini("[pytest]")
    file = home / "tests/test_it.py"
    found = shown(pytester, file=file, args=("-c", "tox.ini", f"--rootdir={home}/tests"))
    assert [path for path in found.paths if within(path, str(home))] == [
        f"{home}/tests",
        f"{home}/tox.ini",
    ]


@pytest.mark.parametrize("start", ["/", "/tmp"])
def test_a_wide_folder_of_the_start_is_empty_inside(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    """Although ``python -m pytest`` puts it on ``sys.path``; links of home folders are made too."""
    monkeypatch.chdir(start)
    monkeypatch.setattr(sys, "path", [*sys.path, start])
    found = shown(pytester, args=(f"--rootdir={pytester.path}",))
    assert start not in found.paths
    assert found.start == start
    root = tmp_path / "root"
    root.mkdir()
    links = (("/h/link", "/target"), ("/h/there", "/target"), ("/h/link", "/again"))
    (root / "h").mkdir()
    (root / "h/there").mkdir()
    dataclasses.replace(found, links=links).complete(str(root))
    assert (root / start.lstrip("/")).is_dir()
    assert os.readlink(root / "h/link") == "/target"
    assert (root / "h/there").is_dir()
