"""``pytest-gvisor sweep``: dead sessions, and the sandboxes that sessions have kept."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor.cli import main as cli
from pytest_gvisor.run import saved_store
from pytest_gvisor.run.saved_store import SavedStore
from pytest_gvisor.sessions import session_folder
from pytest_gvisor.sessions.session_folder import SessionDir


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder for sessions that no other process sweeps, and a cache that no other uses."""
    folder = tempfile.mkdtemp()  # a session's path may not be long
    monkeypatch.setattr(session_folder, "session_bases", lambda: iter([f"{folder}/base"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield f"{folder}/base"
    shutil.rmtree(folder)


def test_a_dead_session_is_removed_and_a_living_one_stays(
    base: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The sweep names each folder that it removes."""
    assert session_folder.base_folder() == base
    living = SessionDir.create(SessionDir.new_path(base))
    dead = SessionDir.create(SessionDir.new_path(base))
    os.close(dead.lock)
    try:
        assert session_folder.dead(base) == [dead.path]
        assert cli.main(["sweep"]) == 0
        assert capfd.readouterr() == (f"removed {dead.path}\n", "")
        assert os.path.isdir(living.path)
        assert not os.path.exists(dead.path)
    finally:
        living.remove()


def test_old_and_half_sandboxes_are_removed_and_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A sandbox that was used within the last days stays."""
    tmp_path.chmod(0o700)
    image = tmp_path / "image"
    image.mkdir()
    (image / "pages.img").write_bytes(b"p" * 1000)
    store = SavedStore.open(make=True)
    assert store is not None
    folders = {}
    for name in ("used", "old", "half"):
        key = name.encode().hex().ljust(64, "0")
        assert store.keep(key, str(image), {"start": "/"})
        (folders[name],) = (tmp_path / "pytest-gvisor/sandboxes-1").glob(f"{key}-*")
    before = time.time() - (saved_store.UNUSED_DAYS + 1) * 86400
    os.utime(folders["old"] / "lock", (before, before))
    (folders["half"] / "facts.json").unlink()
    assert cli.main(["sweep"]) == 0
    assert {name for name, folder in folders.items() if folder.exists()} == {"used"}
    removed = sorted(f"removed {folders[name]}" for name in ("old", "half"))
    assert sorted(capfd.readouterr().out.splitlines()) == removed
