"""An image as a root file system: the parts of its configuration that a run gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images import users
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.rootfs import ImageRootfs
from pytest_gvisor.images.store import Images
from tests.unit.images.conftest import configuration, folder, item, saved, tar

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
    monkeypatch.setattr(users, "keeps_owners", lambda: False)
    made = make(User=user, Volumes={"/data": {}})
    (volume,) = made.prepare("/unused").mounts
    assert volume.options[-2:] == (f"uid={ids[0]}", f"gid={ids[1]}")
    if user == "nobody-here":
        with pytest.raises(ImageError, match="no user"):
            made.find_user(user)
