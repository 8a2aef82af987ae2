"""The paths of ``--gvisor-readable``, and what is shown of home folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_gvisor.errors import UsageError
from pytest_gvisor.inside import visible


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with something of each kind."""
    folder = tmp_path / "homes/me"
    for name in ("project", ".ssh", ".config/tool"):
        (folder / name).mkdir(parents=True)
    (folder / "notes").touch()
    (folder / ".netrc").touch()
    (folder / "link").symlink_to("/srv/elsewhere")
    os.mkfifo(folder / "fifo")
    monkeypatch.setenv("HOME", str(folder))
    return folder


def asked(pytester: pytest.Pytester, *arguments: str) -> list[str]:
    """The paths of a command line, relative to the project."""
    found = visible.readable(pytester.parseconfig(*arguments))
    return [os.path.relpath(path, pytester.path) for path in found]


def test_options_and_ini_key_add_up(pytester: pytest.Pytester) -> None:
    """Globs are resolved, and a relative path is one from where it was written."""
    for name in ("sub/data.txt", "a.json", "b.json", ".c.json"):
        pytester.path.joinpath(name).parent.mkdir(exist_ok=True)
        pytester.path.joinpath(name).touch()
    pytester.makeini("[pytest]\ngvisor_readable =\n    sub\n    *.json\n    none-*\n")
    os.chdir("sub")
    found = asked(pytester, "--gvisor-readable=data.txt", "--gvisor-readable=../a.json")
    assert found == ["sub", "a.json", "b.json", "sub/data.txt"]


@pytest.mark.parametrize("path", ["missing", "/", "/proc/self", "/dev/null", "/var"])
def test_what_cannot_be_shown_is_refused(pytester: pytest.Pytester, path: str) -> None:
    """A missing path, the kernel's files and what holds sockets of engines are usage errors."""
    with pytest.raises(UsageError, match="--gvisor-readable"):
        asked(pytester, f"--gvisor-readable={path}")


def test_a_home_folder_is_shown_without_names_that_begin_with_a_dot(home: Path) -> None:
    """Its entries are shown one by one, its links are not followed, a FIFO is left out."""
    parts = visible._opened([str(home)])
    assert parts.whole == (f"{home}/notes", f"{home}/project")
    assert parts.opened == (str(home),)
    assert parts.links == ((f"{home}/link", "/srv/elsewhere"),)


def test_a_folder_that_holds_a_home_folder_is_opened_down_to_it(home: Path) -> None:
    """Beside the home folder, names that begin with a dot are shown like others."""
    (home.parent / ".other").mkdir()
    parts = visible._opened([str(home.parent)])
    assert set(parts.whole) == {f"{home.parent}/.other", f"{home}/notes", f"{home}/project"}
    assert parts.opened == (str(home.parent), str(home))


def test_a_link_to_a_home_folder_stays_a_link(home: Path, tmp_path: Path) -> None:
    """Mounted, it would show all of it."""
    (tmp_path / "alias").symlink_to(home)
    parts = visible._opened([str(tmp_path / "alias")])
    assert (str(tmp_path / "alias"), str(home)) in parts.links
    assert parts.whole == (f"{home}/notes", f"{home}/project")


def test_what_is_asked_for_by_name_is_shown(home: Path) -> None:
    """A name that begins with a dot is no obstacle there."""
    assert visible._opened([f"{home}/.config/tool"]).whole == (f"{home}/.config/tool",)


def test_entries_of_home_folders_are_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a mount."""
    monkeypatch.setattr(visible, "_MOST_ENTRIES", 2)
    with pytest.raises(UsageError, match="more than 2 entries"):
        visible._opened([str(home)])


def test_a_home_folder_that_cannot_be_listed_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names it."""

    def listdir(_path: str) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(UsageError, match="Permission denied"):
        visible._opened([str(home)])
