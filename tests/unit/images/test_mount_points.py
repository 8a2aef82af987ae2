"""The seal of a tree."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gvisor.images.mount_points import seal


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one of each kind."""
    root = tmp_path / "tree"
    (root / "d/e").mkdir(parents=True)
    (root / "d/f").write_text("x")
    (root / "l").symlink_to("d")
    (root / os.fsdecode(b"\xff\n")).touch()
    return root


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "d/f").write_text("y"),
        lambda root: (root / "d/f").chmod(0o600),
        lambda root: os.truncate(root / "d/f", 0),
        lambda root: (root / "d/e").rmdir(),
        lambda root: (root / "d/e/new").touch(),
        lambda root: (root / "l").rename(root / "k"),
        lambda root: root.chmod(0o700),
    ],
)
def test_each_change_is_seen(tree: Path, change: Callable[[Path], None]) -> None:
    """Wherever in the tree it is made."""
    before = seal(str(tree))
    assert seal(str(tree)) == before
    time.sleep(0.01)
    change(tree)
    assert seal(str(tree)) != before


def test_reading_and_linking_are_no_changes(tree: Path, tmp_path: Path) -> None:
    """Trees with more mount points share files with the image by hard links."""
    before = seal(str(tree))
    (tree / "d/f").read_bytes()
    os.link(tree / "d/f", tmp_path / "other")
    assert seal(str(tree)) == before


def test_what_is_no_folder_cannot_be_sealed(tree: Path) -> None:
    """A file, a missing path and a link to a folder cannot be sealed."""
    for name in ("l", "d/f", "none"):
        with pytest.raises(OSError, match=r"Not a directory|No such file"):
            seal(str(tree / name))
