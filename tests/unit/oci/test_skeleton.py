"""Folders that are nobody's own."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from pytest_gvisor.oci import skeleton


@pytest.mark.parametrize("path", ["/", "/home", "/tmp", "/proc/self", "/dev", "/tmp/../var"])
def test_what_all_share_is_wide(path: str) -> None:
    """Nobody owns such a folder, by whatever path."""
    assert skeleton.is_wide(path)


def test_a_home_folder_and_what_holds_it_are_wide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in the home folder is somebody's own; the system says which one that is."""
    monkeypatch.setattr(skeleton, "home", lambda: str(tmp_path / "me"))
    assert skeleton.is_wide(str(tmp_path))
    assert skeleton.is_wide(str(tmp_path / "me"))
    assert not skeleton.is_wide(str(tmp_path / "me/project"))


def test_a_user_without_an_entry_has_the_home_folder_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry of a user counts more than HOME, which a test may have changed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert skeleton.home() == os.path.realpath(pwd.getpwuid(os.geteuid()).pw_dir)

    def unknown(_uid: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert skeleton.home() == str(tmp_path)
