"""Packages outside of the folders of ``sys.path``."""

import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.oci import packages


def finder(mapping: Any = None, namespaces: Any = None) -> types.ModuleType:
    """A module like the one that setuptools writes for an editable package."""
    module = types.ModuleType("finder")
    vars(module).update(MAPPING=mapping or {}, NAMESPACES=namespaces or {})
    return module


def test_a_finder_names_packages_modules_and_namespaces(tmp_path: Path) -> None:
    """A package is a folder, a module is named without its suffix, a namespace has a list."""
    for name in ("package", "space"):
        (tmp_path / name).mkdir()
    (tmp_path / "module.py").touch()
    names = ("package", "module", "missing")
    module = finder({n: f"{tmp_path}/{n}" for n in names}, {"space": [f"{tmp_path}/space"]})
    found = packages.editable({"__editable___mine_1_0_finder": module, "other": module})
    assert [*found] == [f"{tmp_path}/{name}" for name in ("package", "module.py", "space")]


@pytest.mark.parametrize("mapping", [{"a": 1}, {"a": "relative"}, ["/usr"], {"a": [None]}, "/usr"])
def test_a_finder_of_another_form_names_nothing(mapping: Any) -> None:
    """Values that are no absolute paths are left out."""
    module = finder(mapping, mapping)
    assert not [*packages.editable({"__editable___mine_finder": module})]
    assert not [*packages.editable({"__editable___mine_finder": types.ModuleType("empty")})]


def linked(site: Path, cache: Path, name: str) -> None:
    """A package's metadata as uv links them."""
    (cache / name / f"{name}.dist-info").mkdir(parents=True)
    (cache / name / f"{name}.dist-info/METADATA").touch()
    (site / f"{name}.dist-info").mkdir(parents=True)
    (site / f"{name}.dist-info/METADATA").symlink_to(cache / name / f"{name}.dist-info/METADATA")


def test_packages_that_are_links_are_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each folder of the cache is found; with many of them, the folder that holds all."""
    for name in ("one", "two"):
        linked(tmp_path / "site", tmp_path / "cache", name)
    (tmp_path / "site/real.dist-info").mkdir()
    (tmp_path / "site/real.dist-info/METADATA").touch()
    site = [str(tmp_path / "site"), str(tmp_path / "missing")]
    assert sorted(packages.linked(site)) == [f"{tmp_path}/cache/{name}" for name in ("one", "two")]
    monkeypatch.setattr(packages, "_MOST_LINKED", 1)
    assert [*packages.linked(site)] == [f"{tmp_path}/cache"]


def test_a_link_to_another_name_is_not_followed(tmp_path: Path) -> None:
    """The folder at its end would not be an unpacked package."""
    for name, target in (("a", "keys/METADATA"), ("b", "keys/b.dist-info/id_rsa")):
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / target).touch()
        (tmp_path / f"site/{name}.dist-info").mkdir(parents=True)
        (tmp_path / f"site/{name}.dist-info/METADATA").symlink_to(tmp_path / target)
    assert not [*packages.linked([str(tmp_path / "site")])]


def test_zip_files_and_folders_in_them_are_found(tmp_path: Path) -> None:
    """Another file, a folder and what does not exist are not."""
    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as file:
        file.writestr("sub/module.py", "")
    (tmp_path / "text").write_text("text")
    names = ("lib.zip/sub", "text", "missing", "")
    found = packages.archives([str(tmp_path / name) for name in names])
    assert [*found] == [str(tmp_path / "lib.zip")]


def test_sources_are_folders_that_a_path_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A .pth file with code, of a folder that is gone or not on sys.path names none."""
    site, source, other = (tmp_path / name for name in ("site", "source", "other"))
    for folder in (site, source, other):
        folder.mkdir()
    (site / "a.pth").write_text(f"import os; os.sep\n\n{source}\n{other}\n{tmp_path}/gone\n")
    (site / "b.pth").write_text("../source\n")
    (site / "c.pth").mkdir()
    monkeypatch.setattr(sys, "path", [str(site), str(source)])
    monkeypatch.setattr(packages, "editable", lambda _modules: ())
    assert packages.sources() == [str(source)]
