"""The removal of sandboxes that earlier versions saved in the user's cache folder."""

import os
from pathlib import Path

import pytest

from pytest_gvisor.sessions import private, saved_before
from pytest_gvisor.sessions.launcher import Launcher


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, with a file of this package that is none of these sandboxes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache = tmp_path / "cache/pytest-gvisor"
    cache.mkdir(parents=True, mode=0o700)
    (cache / "answers").mkdir(mode=0o700)
    return cache


@pytest.fixture
def saved(cache: Path) -> Path:
    """The folder as an earlier version left it, with one sandbox."""
    folder = cache / saved_before.NAME
    sandbox = folder / f"{'a' * 64}-12345678"
    (sandbox / "image").mkdir(parents=True)
    (sandbox / "image/pages.img").write_bytes(b"p")
    (sandbox / "roots/host/etc").mkdir(parents=True)
    (sandbox / "lock").touch(0o600)
    (folder / "lock").touch(0o600)
    (folder / ("a" * 64)).symlink_to(sandbox.name)
    folder.chmod(0o700)
    return folder


def test_the_folder_goes_with_all_that_is_in_it(saved: Path) -> None:
    """Nothing else of the cache is touched. A second call finds nothing."""
    names = sorted(str(path) for path in saved.iterdir())
    assert sorted(saved_before.remove()) == names
    assert [path.name for path in saved.parent.iterdir()] == ["answers"]
    assert saved_before.remove() == []


def test_the_next_session_removes_it_when_it_makes_its_folder(saved: Path, base: Path) -> None:
    """A session that makes no sandbox does not look."""
    launcher = Launcher(str(base))
    assert saved.exists()
    try:
        launcher.session()
        assert not saved.exists()
    finally:
        launcher.close()


def test_no_link_is_followed(saved: Path, tmp_path: Path) -> None:
    """A link in the folder goes, and its target stays."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    (saved / "link").symlink_to(other)
    (saved / f"{'a' * 64}-12345678/roots/link").symlink_to(other)
    saved_before.remove()
    assert not saved.exists()
    assert (other / "file").exists()


def test_a_link_in_its_place_is_left_alone(cache: Path, tmp_path: Path) -> None:
    """The link may lead anywhere."""
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    (other / "file").touch()
    (cache / saved_before.NAME).symlink_to(other)
    assert saved_before.remove() == []
    assert (other / "file").exists()
    assert (cache / saved_before.NAME).is_symlink()


def test_a_folder_that_others_can_enter_is_left_alone(saved: Path) -> None:
    """Another user may have put it there."""
    saved.chmod(0o777)
    assert saved_before.remove() == []
    assert len(os.listdir(saved)) == 3


def test_a_sandbox_that_an_earlier_version_uses_stays(saved: Path) -> None:
    """The version has the lock of its folder."""
    used = saved / f"{'a' * 64}-12345678"
    lock = private.open_lock(str(used / "lock"))
    assert private.take_lock(lock)
    try:
        removed = saved_before.remove()
    finally:
        os.close(lock)
    assert str(used) not in removed
    assert os.listdir(saved) == [used.name]
    assert (used / "image/pages.img").exists()
