"""The entries of a project that no workload should see."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_gvisor.errors import UsageError
from pytest_gvisor.run import project
from pytest_gvisor.run.project import PATTERNS, Finder, patterns

ordinary = pytest.mark.skipif(
    os.geteuid() == 0, reason="needs an unprivileged user: root can list every folder"
)


def make(folder: Path, *names: str) -> None:
    """Make empty files of these names, with their folders."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder: Path, *passed_by: Path, asked: tuple[str, ...] = PATTERNS) -> list[str]:
    """The hidden entries below a folder, relative to it."""
    entries = Finder(asked, list(map(str, passed_by))).find(str(folder))
    return sorted(os.path.relpath(entry, folder) for entry in entries)


def test_secrets_are_found_in_every_folder_and_whatever_their_case(tmp_path: Path) -> None:
    """Files and folders count by their names, and nothing is looked for in a hidden folder."""
    make(tmp_path, ".env", "a/.env.local", "a/b/SERVER.PEM", "a/Id_Rsa", ".git/x.key", "a/.git")
    make(tmp_path, "env", "a/environment.py", "key", "a/git", "a/pem.txt", "x/.config/other")
    make(tmp_path, "x/.config/gcloud/token")
    assert found(tmp_path) == [
        ".env", ".git", "a/.env.local", "a/.git", "a/Id_Rsa", "a/b/SERVER.PEM", "x/.config/gcloud",
    ]  # fmt: skip


def test_hostile_names_are_names(tmp_path: Path) -> None:
    """Line breaks, quotes, glob characters and bytes that are no UTF-8 hide nothing from us."""
    names = [".env\nx", '.env"\\', ".env*[a]", " .env ", "*/.env", os.fsdecode(b".env\xff")]
    make(tmp_path, *names)
    assert found(tmp_path) == sorted({*names} - {" .env "})


def test_no_link_is_followed_and_a_secret_one_hides_its_target(tmp_path: Path) -> None:
    """A loop ends, a folder outside is not searched, and a link to nothing hides nothing."""
    make(tmp_path, "project/a/settings", "outside/.env")
    project = tmp_path / "project"
    for link, target in (
        ("loop", "."), ("away", "../outside"), ("a/.env", "settings"), (".git", "."),
        ("x.pem", "x.pem"), ("y.pem", "nowhere"),
    ):  # fmt: skip
        (project / link).symlink_to(target)
    assert found(project) == ["a/settings"]


def test_what_is_shown_for_another_reason_stays(tmp_path: Path) -> None:
    """A Python in the project, and what a link leads to in it, are not hidden."""
    make(tmp_path, ".env/lib/cacert.pem", "venv/lib/cacert.pem")
    (tmp_path / "ca.pem").symlink_to("venv/lib/cacert.pem")
    assert found(tmp_path, tmp_path / ".env", tmp_path / "venv") == []


@ordinary
def test_a_folder_that_cannot_be_listed_is_hidden(tmp_path: Path) -> None:
    """A workload of the same user could open a file in it by name."""
    make(tmp_path, "closed/.env")
    (tmp_path / "closed").chmod(0o300)
    assert found(tmp_path) == ["closed"]
    (tmp_path / "closed").chmod(0o700)


def test_a_file_has_no_entries(tmp_path: Path) -> None:
    """The source of an editable module is a file, and a folder may be gone by now."""
    make(tmp_path, "module.py")
    assert found(tmp_path / "module.py") == found(tmp_path / "gone") == []


def test_too_many_entries_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search has an end, and a folder that is left out is not searched."""
    monkeypatch.setattr(project, "MOST_ENTRIES", 3)
    make(tmp_path, "many/1", "many/2", "many/3", "other/1")
    with pytest.raises(UsageError, match="more than 3 files") as caught:
        found(tmp_path)
    assert "gvisor_project_hidden" in caught.value.next_step
    assert found(tmp_path, asked=("many",)) == ["many"]


def test_a_way_that_is_too_long_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be searched is not shown."""
    monkeypatch.chdir(tmp_path)
    for _ in range(17):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    with pytest.raises(UsageError, match="File name too long"):
        found(tmp_path)


def test_the_ini_key_adds_names_and_takes_them_off() -> None:
    """``!`` takes a name off the list; one that is not in the list is a mistake."""
    chosen = patterns(["", " fixtures/private/ ", "!*.pem"])
    assert {*chosen} == {*PATTERNS, "fixtures/private"} - {"*.pem"}
    assert patterns([]) == PATTERNS
    with pytest.raises(UsageError, match=r'gvisor_project_hidden: "!\*\.pam" takes away'):
        patterns(["!*.pam"])
