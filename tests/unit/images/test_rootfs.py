"""An image as a root file system: the parts of its configuration that a run gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images import rootfs
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.rootfs import ImageRootfs
from pytest_gvisor.images.store import Images
from tests.unit.images.conftest import configuration, folder, item, saved, tar

Make = Callable[..., ImageRootfs]
PREFIX = "org.opencontainers.image."


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """An image with this inner configuration, and these fields beside it."""
    images = Images(Cache(str(tmp_path / "cache")))

    def work(fields: dict[str, Any] | None = None, **config: Any) -> ImageRootfs:
        layers = [tar([folder("data", uid=7, gid=8), item("etc/passwd", b"app:x:1000:1001\n")])]
        whole = json.loads(configuration(layers, config)) | (fields or {})
        (tmp_path / "i").write_bytes(saved(layers, json.dumps(whole).encode()))
        return images.rootfs(tmp_path / "i")

    yield work
    images.close()


def said(made: ImageRootfs) -> dict[str, str]:
    """The annotations of an image, without the common prefix of their names."""
    return {name.removeprefix(PREFIX): text for name, text in made.says.annotations.items()}


def test_annotations_are_the_fields_own_values(make: Make) -> None:
    """The annotations follow conversion.md: a signal keeps its name, and a label wins."""
    made = make(
        {"variant": "v8", "os.version": "1.2", "os.features": ["a", "b"], "author": "me",
         "created": "2026-01-01T00:00:00Z"},
        StopSignal="RTMIN+3", ExposedPorts={"80/tcp": {}, "1/udp": {}},
        Labels={f"{PREFIX}author": "another"},
    )  # fmt: skip
    found = said(made)
    assert found.pop("architecture")
    assert found == {
        "os": "linux", "os.version": "1.2", "os.features": "a,b", "variant": "v8",
        "author": "another", "created": "2026-01-01T00:00:00Z", "stopSignal": "RTMIN+3",
        "exposedPorts": "1/udp,80/tcp",
    }  # fmt: skip
    assert made.says.stop_signal == 37


def test_what_an_image_does_not_say_is_no_annotation(make: Make, tmp_path: Path) -> None:
    """Absent fields make no annotation, not even the default signal and system."""
    assert set(said(make())) == {"os", "architecture"}
    assert make().says.stop_signal == 15
    (tmp_path / "plain").write_bytes(tar([item("f")]))
    images = Images(Cache(str(tmp_path / "other")))
    assert said(images.rootfs(tmp_path / "plain")) == {}
    images.close()


@pytest.mark.fault("B11")
def test_a_hundred_thousand_labels_become_annotations(make: Make) -> None:
    """Labels that would steer runsc are left out; twenty of them are noted one by one."""
    labels = {f"label.{number}": str(number) for number in range(100_000)}
    reserved = {f"dev.gvisor.{number:05}": "true" for number in range(10_000)}
    made = make(Labels={**labels, **reserved, "esc": "\x1b[2J"})
    found = made.says.annotations
    assert {name: found[name] for name in labels} == labels
    assert found["esc"] == "\x1b[2J"
    assert not [name for name in found if name.startswith("dev.")]
    assert len(made.notes) == 21
    assert '": the label "dev.gvisor.00019" is left out' in made.notes[19]
    assert made.notes[20].endswith(": so are 9980 more labels")


@pytest.mark.parametrize(
    ("user", "ids"), [("app", (1000, 1001)), ("nobody-here", (0, 0)), ("", (0, 0))]
)
def test_a_volume_belongs_to_the_image_s_user_where_owners_are_not_kept(
    make: Make, monkeypatch: pytest.MonkeyPatch, user: str, ids: tuple[int, int]
) -> None:
    """A volume belongs to the image's user, or to root if the image lacks that user."""
    monkeypatch.setattr(rootfs, "keeps_owners", lambda: False)
    made = make(User=user, Volumes={"/data": {}})
    (volume,) = made.prepare("/unused").mounts
    assert volume.options[-2:] == (f"uid={ids[0]}", f"gid={ids[1]}")
    if user == "nobody-here":
        with pytest.raises(ImageError, match="no user"):
            made.find_user(user)
