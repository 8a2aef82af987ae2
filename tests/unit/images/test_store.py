"""The sources of images by name; each image is exported once, and checked by its digest."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import ImageError, UsageError
from pytest_gvisor.base import trust
from pytest_gvisor.images import choose
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.docker import Daemon
from pytest_gvisor.images.store import Images
from tests.unit.images.conftest import configuration, digest, item, layout, saved, tar, write_layout

LAYERS = [tar([item("f", b"x")])]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("docker:app:1", "app:1"), ("docker:docker:dind", "docker:dind"),
        ("docker:dind", "docker:dind"), ("docker:24.0-dind", "docker:24.0-dind"),
        ("docker:some/app", "some/app"), ("docker:app@sha256:0", "app@sha256:0"),
        ("app:1", "app:1"), ("docker", "docker"), ("docker:", "docker:"),
    ],
)  # fmt: skip
def test_docker_in_front_is_a_prefix_only_where_it_is_no_image_s_name(
    name: str, reference: str
) -> None:
    """A tag has no colon, slash or at sign: docker:dind is the image of that name."""
    assert choose.as_reference(name) == reference
    assert choose.as_file(name) is None


def test_a_relative_path_is_from_the_folder_that_is_given(tmp_path: Path) -> None:
    """A path is relative to the given folder; a name of a daemon's image stays."""
    (tmp_path / "app").touch()
    for name, path in (
        ("app", "app"), ("app#x", "app#x"), ("gone.tar", "gone.tar"), ("./gone", "./gone"),
        ("gone.tar#x:1", "gone.tar#x:1"),
    ):  # fmt: skip
        assert choose.placed(name, str(tmp_path)) == f"{tmp_path}/{path}"
    for name in ("other:1", "docker:app:1", "/abs", "/abs#x"):
        assert choose.placed(name, str(tmp_path)) == name


@pytest.mark.parametrize("odd", [b"x", 3, None, "", "a\0b"])
def test_what_is_no_name_is_a_usage_error(tmp_path: Path, odd: Any) -> None:
    """A value of any other type than a path or a name is a usage error."""
    with pytest.raises(UsageError, match="neither a path nor a name"):
        Images(Cache(str(tmp_path / "c"))).rootfs(odd)


def test_an_image_that_goes_while_it_is_looked_at_is_an_image_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user may remove it, where it lies in a folder of theirs."""
    file, follow = tmp_path / "a.tar", trust.follow
    file.touch()

    def late(path: str, held: contextlib.ExitStack) -> trust.Way:
        file.unlink(missing_ok=True)
        return follow(path, held)

    monkeypatch.setattr(trust, "follow", late)
    with pytest.raises(ImageError, match=f"cannot follow '{file}': No such file"):
        Images().rootfs(file)


@pytest.mark.parametrize("is_folder", [False, True], ids=["archive", "layout"])
def test_an_image_that_brings_the_time_of_another_is_not_taken_for_it(
    tmp_path: Path, is_folder: bool
) -> None:
    """A copy that keeps times puts another image of the same size into the same file."""
    images = Images(Cache(str(tmp_path / "c")))
    for content in ("old", "new"):
        layers = [tar([item("f", content.encode())])]
        files = layout(layers) if is_folder else {"app.tar": saved(layers)}
        write_layout(tmp_path / "image", files)
        for name in files:
            os.utime(tmp_path / "image" / name, (1, 1))
        image = images.rootfs(tmp_path / "image" / ("" if is_folder else "app.tar"))
        assert Path(image.folder, "f").read_text() == content
    images.close()


class Exporting:
    """A daemon that exports this, and calls it so."""

    def __init__(self, data: bytes, identity: str) -> None:
        self.data, self.identity = data, identity
        self.exports = 0

    def install(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """Replace the real daemon."""
        archive = folder / "exported.tar"
        archive.write_bytes(self.data)

        @contextlib.contextmanager
        def export(_: Daemon, identity: str, _limits: object) -> Iterator[str]:
            assert identity == self.identity
            self.exports += 1
            yield str(archive)

        monkeypatch.setattr(Daemon, "__init__", lambda *_, **__: None)
        monkeypatch.setattr(Daemon, "__exit__", lambda *_: None)
        monkeypatch.setattr(Daemon, "find", lambda *_: self.identity)
        monkeypatch.setattr(Daemon, "export", export)


Export = Callable[[bytes, str], Exporting]


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Export:
    """Makes such a daemon."""

    def make(data: bytes, identity: str) -> Exporting:
        made = Exporting(data, identity)
        made.install(monkeypatch, tmp_path)
        return made

    return make


def test_many_sessions_export_an_image_once(export: Export, tmp_path: Path) -> None:
    """The first does, and the others wait for it."""
    daemon = export(saved([*LAYERS, tar([item("z", bytes(3_000_000))])]), "")
    daemon.identity = digest(configuration([*LAYERS, tar([item("z", bytes(3_000_000))])]))
    made = [Images(Cache(str(tmp_path / "c"), patience=20)) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda images: images.rootfs("some:1"), made))
    assert [len(images._found) for images in made] == [1] * 6
    assert daemon.exports == 1
    for images in made:
        images.close()


@pytest.mark.fault("H4")
def test_another_image_than_the_one_that_was_asked_for_is_refused(
    export: Export, tmp_path: Path
) -> None:
    """An archive with another image is refused, in either format."""
    files = layout(LAYERS)
    oci = tar([item(name, data) for name, data in files.items()])
    for data in (saved(LAYERS), oci):
        export(data, f"sha256:{'1' * 64}")
        images = Images(Cache(str(tmp_path / "c")))
        with pytest.raises(ImageError, match=f"{'1' * 64} was asked for"):
            images.rootfs("some:1")
        assert not [path for path in (tmp_path / "c").iterdir() if path.name != "lock"]
        images.close()


@pytest.mark.parametrize("nested", [False, True])
def test_an_image_that_is_named_by_its_manifest_is_exported_once(
    export: Export, tmp_path: Path, *, nested: bool
) -> None:
    """A manifest or an index names the image, as with containerd's store, and is exported once."""
    files = layout(LAYERS)
    top = json.loads(files["index.json"])
    if nested:
        inner = files["index.json"]
        files[f"blobs/sha256/{digest(inner)[7:]}"] = inner
        kind = "application/vnd.oci.image.index.v1+json"
        top["manifests"] = [{"mediaType": kind, "digest": digest(inner), "size": len(inner)}]
        files["index.json"] = json.dumps(top).encode()
    identity = top["manifests"][0]["digest"]
    config = configuration(LAYERS)
    manifest = json.loads(files[f"blobs/sha256/{_manifest(files)}"])
    layer = manifest["layers"][0]["digest"].replace(":", "/")
    old = [{"Config": f"blobs/sha256/{digest(config)[7:]}", "Layers": [f"blobs/{layer}"]}]
    files["manifest.json"] = json.dumps(old).encode()
    daemon = export(tar([item(name, data) for name, data in files.items()]), identity)
    for _ in range(2):
        images = Images(Cache(str(tmp_path / "c")))
        rootfs = images.rootfs("some:1")
        assert rootfs.id == digest(config)[7:]
        assert Path(rootfs.folder, "f").read_text() == "x"
        images.close()
    assert daemon.exports == 1
    Cache(str(tmp_path / "c")).prune(0)
    assert not [path for path in (tmp_path / "c").iterdir() if path.name != "lock"]


def _manifest(files: dict[str, bytes]) -> str:
    return next(
        os.path.basename(name) for name, data in files.items()
        if name.startswith("blobs") and b'"layers":' in data and b'"config":' in data
    )  # fmt: skip
