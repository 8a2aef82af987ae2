"""The host's folders that a test inside sees."""

import dataclasses
import os
import pwd
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.inside.view import visible
from pytest_gvisor.oci import packages, skeleton
from pytest_gvisor.oci.mounts import bind
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
    return visible.shown(
        pytester.parseconfig(*args), [item], {str(p): os.path.realpath(p) for p in asked}
    )


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
def rootdir(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder is this user's home folder."""
    monkeypatch.setattr(skeleton, "home", lambda: str(pytester.path))
    for name in (".ssh/id", "tests/test_it.py", "tests/conftest.py", ".venv/lib/module.py"):
        (pytester.path / name).parent.mkdir(parents=True, exist_ok=True)
        (pytester.path / name).touch()
    return pytester.path


def test_a_project_that_is_the_home_folder_has_to_be_asked_for(
    pytester: pytest.Pytester, rootdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then its entries are seen, without names that begin with a dot, but what imports need."""
    monkeypatch.syspath_prepend(rootdir / ".venv/lib")
    file = rootdir / "tests/test_it.py"
    with pytest.raises(UsageError, match="root folder of the tests") as caught:
        shown(pytester, file=file)
    assert f"--gvisor-readable={rootdir}" in str(caught.value)
    found = shown(pytester, rootdir, file=file)
    assert [path for path in found.paths if within(path, str(rootdir))] == [
        f"{rootdir}/tests",
        f"{rootdir}/.venv/lib",
    ]


def test_the_error_for_a_wide_root_names_the_paths_that_it_comes_from(
    pytester: pytest.Pytester, rootdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytest takes the value of a plugin's option for one of them, unless it is joined by ``=``."""
    data, file = pytester.mkdir("data"), rootdir / "tests/test_it.py"
    with pytest.raises(UsageError, match="started there, and has found no ini file"):
        shown(pytester, file=file)
    monkeypatch.chdir(file.parent)
    with pytest.raises(UsageError) as caught:
        shown(pytester, file=file, args=("--gvisor-readable", str(data)))
    assert f"which holds the paths on pytest's command line: {data}\n" in str(caught.value)
    assert f"Write --gvisor-readable={data}, or set --rootdir to a folder" in str(caught.value)
    paths = shown(pytester, file=file, args=(f"--gvisor-readable={data}",)).paths
    assert str(rootdir) not in paths


def test_of_a_wide_folder_the_ini_file_is_shown_alone(
    pytester: pytest.Pytester, rootdir: Path
) -> None:
    """With a root folder below it, the home folder is not needed, although pytest starts there."""
    pytester.makeini("[pytest]")
    file = rootdir / "tests/test_it.py"
    found = shown(pytester, file=file, args=("-c", "tox.ini", f"--rootdir={rootdir}/tests"))
    assert [path for path in found.paths if within(path, str(rootdir))] == [
        f"{rootdir}/tests",
        f"{rootdir}/tox.ini",
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
    links = (("/h/link", "/target"), ("/h/there", "/target"), ("/h/link", "/again"))
    made = dataclasses.replace(found, links=links).root()
    mounts = [bind("/srv", "/h/there")]
    root = Path(made.prepare(str(tmp_path / "run"), mounts=mounts).root_path)
    assert (root / start.lstrip("/")).is_dir()
    assert os.readlink(root / "h/link") == "/target"
    assert (root / "h/there").is_dir()


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
    whole, opened, links = visible._opened([str(home)])
    assert whole == [f"{home}/notes", f"{home}/project"]
    assert opened == [str(home)]
    assert links == [(f"{home}/link", "/srv/elsewhere")]


def test_a_folder_that_holds_a_home_folder_is_opened_down_to_it(home: Path) -> None:
    """Beside the home folder, names that begin with a dot are shown like others."""
    (home.parent / ".other").mkdir()
    whole, opened, _links = visible._opened([str(home.parent)])
    assert {*whole} == {f"{home.parent}/.other", f"{home}/notes", f"{home}/project"}
    assert opened == [str(home.parent), str(home)]


def test_a_link_to_a_home_folder_stays_a_link(home: Path, tmp_path: Path) -> None:
    """Mounted, it would show all of it."""
    (tmp_path / "alias").symlink_to(home)
    whole, _opened, links = visible._opened([str(tmp_path / "alias"), str(home)])
    assert (str(tmp_path / "alias"), str(home)) in links
    assert whole == [f"{home}/notes", f"{home}/project"]


def test_what_is_asked_for_by_name_is_shown(home: Path) -> None:
    """A name that begins with a dot is no obstacle there."""
    assert visible._opened([f"{home}/.config/tool"])[0] == [f"{home}/.config/tool"]


def hidden(root: Path, *found: Path, asked: tuple[str, ...] = ()) -> set[str]:
    """The hidden entries of home folders, for a project and what is shown."""
    return {*visible._credentials(str(root), [*map(str, found)], asked)}


@pytest.mark.parametrize("home_is", ["/", "link", "unset", "empty", "sudo", "owner"])
def test_keys_of_a_home_folder_are_hidden_under_each_of_its_names(
    home_is: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever says that it is one: HOME in any spelling, passwd, sudo, or the project's owner."""
    (tmp_path / "link").symlink_to("homes")
    entry = types.SimpleNamespace(pw_dir=str(home))
    nowhere = types.SimpleNamespace(pw_dir=str(tmp_path / "nowhere"))
    by_name = {"sudo": {"ada": entry}}.get(home_is, {})
    monkeypatch.setattr(pwd, "getpwnam", by_name.__getitem__)
    by_uid = entry if home_is in {"unset", "empty", "owner"} else nowhere
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: by_uid)
    monkeypatch.setenv("SUDO_USER", "ada")
    given = {"/": f"{home}/", "link": f"{tmp_path}/link/me", "empty": ""}.get(home_is, "/nowhere")
    monkeypatch.setenv("HOME", given)
    if home_is == "unset":
        monkeypatch.delenv("HOME")
    ways = [tmp_path / "link", home.parent]
    assert hidden(tmp_path, *ways) == {f"{way}/me/{n}" for way in ways for n in (".ssh", ".netrc")}
    assert hidden(tmp_path, home / "project") == set()
    assert hidden(tmp_path, home, asked=(str(home / ".ssh"),)) == {f"{home}/.netrc"}


def test_a_link_to_keys_hides_its_target(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools for dotfiles make such links. A project that is the target itself is shown."""
    (home / "dotfiles/aws").mkdir(parents=True)
    (home / ".aws").symlink_to("dotfiles/aws")
    (home / "settings/gh").mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "settings"))
    assert hidden(home, home / "dotfiles") == {f"{home}/dotfiles/aws"}
    assert hidden(home, home / "settings") == {f"{home}/settings/gh"}
    assert hidden(home, home / ".ssh") == set()


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
