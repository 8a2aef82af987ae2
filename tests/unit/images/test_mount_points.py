"""The seal of a tree."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images import image_users
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.mount_points import seal
from pytest_gvisor.images.store import ImageRootfs, Images
from tests.unit.images.conftest import configuration, folder, item, saved, tar
from tests.waiting import wait_for_tick


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
        lambda root: (root / "d/f").write_text("y"), lambda root: (root / "d/f").chmod(0o600),
        lambda root: os.truncate(root / "d/f", 0), lambda root: (root / "d/e").rmdir(),
        lambda root: (root / "d/e/new").touch(), lambda root: (root / "l").rename(root / "k"),
        lambda root: root.chmod(0o700),
    ],
)  # fmt: skip
def test_each_change_is_seen(tree: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Wherever in the tree it is made."""
    before = seal(str(tree))
    assert seal(str(tree)) == before
    wait_for_tick(tmp_path)
    change(tree)
    assert seal(str(tree)) != before


def test_reading_and_linking_are_no_changes(tree: Path, tmp_path: Path) -> None:
    """Trees with more mount points share files with the image by hard links."""
    before = seal(str(tree))
    (tree / "d/f").read_bytes()
    os.link(tree / "d/f", tmp_path / "other")
    assert seal(str(tree)) == before


def test_a_link_to_a_tree_has_another_seal(tree: Path, tmp_path: Path) -> None:
    """A link that took the tree's place is a change."""
    (tmp_path / "link").symlink_to(tree)
    assert seal(str(tmp_path / "link")) != seal(str(tree))
    with pytest.raises(FileNotFoundError):
        seal(str(tree / "none"))


Make = Callable[..., ImageRootfs]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """An image with this inner configuration."""
    images = Images(Cache(str(tmp_path / "cache")))

    def work(**config: Any) -> ImageRootfs:
        layers = [tar([folder("data", uid=7, gid=8), item("etc/passwd", b"app:x:1000:1001\n")])]
        (tmp_path / "i").write_bytes(saved(layers, configuration(layers, config)))
        return images.rootfs(tmp_path / "i")

    yield work
    images.close()


@pytest.mark.parametrize(
    ("user", "ids"), [("app", (1000, 1001)), ("nobody-here", (0, 0)), ("", (0, 0))]
)
def test_a_volume_belongs_to_the_image_s_user_where_owners_are_not_kept(
    make: Make, monkeypatch: pytest.MonkeyPatch, user: str, ids: tuple[int, int]
) -> None:
    """A volume belongs to the image's user, or to root if the image lacks that user."""
    monkeypatch.setattr(image_users, "keeps_owners", lambda: False)
    made = make(User=user, Volumes={"/data": {}})
    (volume,) = made.prepare("/unused").mounts
    assert volume.options[-2:] == (f"uid={ids[0]}", f"gid={ids[1]}")
    if user == "nobody-here":
        with pytest.raises(ImageError, match="no user"):
            made.find_user(user)
