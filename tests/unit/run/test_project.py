"""The mounts that show a project, and those that hide its secrets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_gvisor import bind
from pytest_gvisor.errors import UsageError
from pytest_gvisor.oci import packages, skeleton
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.oci.vocabulary import MountType
from pytest_gvisor.run import project
from pytest_gvisor.run.project import Project


@pytest.fixture(autouse=True)
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """No editable packages: this project is one."""
    monkeypatch.setattr(packages, "sources", list)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root folder of a project."""
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/.env").touch()
    (folder / ".git").mkdir()
    return folder


def covers(made: Project, folder: Path, *others: Mount) -> dict[str, Mount]:
    """The mounts that hide what is left out, by their places."""
    own = made.mounts()
    return {one.destination: one for one in made.covers(own, [*own, *others], str(folder))}


def test_a_root_folder_is_shown_read_only_by_both_of_its_names(root: Path, tmp_path: Path) -> None:
    """Where the way there has a link, secrets are hidden at both paths."""
    (tmp_path / "link").symlink_to("project")
    made = Project(root=str(tmp_path / "link"))
    assert made.mounts() == [bind(root, tmp_path / "link"), bind(root, root)]
    assert {*covers(made, tmp_path)} == {
        str(way / name) for way in (root, tmp_path / "link") for name in (".git", "sub/.env")
    }


def test_an_empty_file_or_folder_is_in_the_place_of_a_secret(root: Path, tmp_path: Path) -> None:
    """Nobody can write to either; one file is enough for all."""
    (root / "a.key").touch()
    hidden = covers(Project(root=str(root)), tmp_path)
    assert hidden[f"{root}/.git"].type is MountType.TMPFS
    files = [hidden[f"{root}/{name}"] for name in ("a.key", "sub/.env")]
    assert {one.source for one in files} == {str(tmp_path / "hidden")}
    assert (tmp_path / "hidden").read_bytes() == b""
    assert (tmp_path / "hidden").stat().st_mode & 0o777 == 0o444
    assert all("ro" in one.options for one in hidden.values())


def test_what_is_named_is_not_hidden(root: Path, tmp_path: Path) -> None:
    """A mount of the caller's own is in its place, and what a hidden folder holds is hidden."""
    (root / ".git/config.key").touch()
    (root / "link.key").symlink_to(".git/config.key")
    mine = bind(root / "sub/.env", root / "sub/.env")
    assert {*covers(Project(root=str(root)), tmp_path, mine)} == {f"{root}/.git"}


def test_sources_of_editable_packages_are_shown_without_secrets(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources in the project are there already, and so are those of the system."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.pem").touch()
    found = [str(other), str(root / "sub"), "/usr/lib", "/"]
    monkeypatch.setattr(packages, "sources", lambda: found)
    made = Project(root=str(root))
    assert [one.destination for one in made.mounts()] == [str(root), str(other)]
    assert f"{other}/x.pem" in covers(made, tmp_path)


@pytest.mark.parametrize("path", ["/", "/tmp", "/home", "HOME"])
def test_a_root_folder_that_is_nobodys_own_is_refused(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a folder would show other projects, or a whole home folder."""
    monkeypatch.setattr(skeleton, "home", lambda: str(tmp_path))
    with pytest.raises(UsageError, match="project=True would show all of"):
        Project(root=path.replace("HOME", str(tmp_path))).mounts()


def test_a_name_that_config_json_cannot_hold_is_an_error(root: Path, tmp_path: Path) -> None:
    """For runsc it would be another file, and the secret would be seen."""
    (root / os.fsdecode(b".env\xff")).touch()
    with pytest.raises(UsageError, match=r"cannot be hidden: its name is not UTF-8"):
        covers(Project(root=str(root)), tmp_path)


def test_too_many_secrets_are_an_error(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a mount; those in a hidden folder do not count."""
    for number in range(3):
        (root / f".git/{number}.key").touch()
        (root / f"sub/{number}.key").touch()
    monkeypatch.setattr(project, "MOST_HIDDEN", 4)
    with pytest.raises(UsageError, match="has 5 files and folders to hide: 4 at most"):
        covers(Project(root=str(root)), tmp_path)
    assert len(covers(Project(root=str(root), hidden=(".git", "sub")), tmp_path)) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an unprivileged user: root lists all folders")
def test_a_root_folder_that_cannot_be_listed_is_refused(root: Path, tmp_path: Path) -> None:
    """Nobody knows what is in it."""
    root.chmod(0o300)
    with pytest.raises(UsageError, match="cannot be searched for secrets"):
        covers(Project(root=str(root)), tmp_path)
    root.chmod(0o700)
