"""``pytest-gvisor sweep`` and the sandboxes that sessions have kept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_gvisor.run import saved_store
from pytest_gvisor.run.saved_store import SavedStore


def test_old_and_half_ones_are_removed_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox that was used within the last days stays."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
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
    done = subprocess.run(  # its status is about dead sessions of anybody
        [sys.executable, "-m", "pytest_gvisor", "sweep"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert {name for name, folder in folders.items() if folder.exists()} == {"used"}
    for name, folder in folders.items():
        assert (str(folder) in done.stdout) == (name != "used")
