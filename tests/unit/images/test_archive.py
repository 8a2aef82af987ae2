"""Reading images from files of each kind; damaged ones are refused."""

import errno
import gzip
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images import archive, extract
from pytest_gvisor.images.config import machine
from tests.unit.images.conftest import (
    PACKED,
    configuration,
    digest,
    item,
    layout,
    link,
    saved,
    tar,
    write_layout,
)

LAYERS = [tar([item("a", b"1"), item("b", b"1")]), tar([item("b", b"2")])]

Read = Callable[..., str]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Unpack an image; returns its id and its files."""
    count = iter(range(100))

    def work(image: bytes | Path, reference: str = "") -> str:
        path = image if isinstance(image, Path) else tmp_path / "image"
        if isinstance(image, bytes):
            path.write_bytes(image)
        root = tmp_path / f"root{next(count)}"
        root.mkdir()
        with archive.opened(str(path), reference=reference) as content:
            extract.unpack(content, str(root))
        return " ".join([content.id[:8], *sorted(f.name + f.read_text() for f in root.iterdir())])

    return work


def test_every_kind_of_file_is_read(read: Read, tmp_path: Path) -> None:
    """docker save, an OCI archive and a layout, compressed or not: the same image, the same id."""
    identity = digest(configuration(LAYERS))[7:15]
    files = layout(LAYERS)
    oci = tar([item(name, data) for name, data in files.items()])
    for image in (saved(LAYERS), gzip.compress(saved(LAYERS)), oci, gzip.compress(oci)):
        assert read(image) == f"{identity} a1 b2"
    assert read(write_layout(tmp_path / "layout", files)) == f"{identity} a1 b2"


@pytest.mark.parametrize("pack", [bytes, *PACKED.values()])
def test_a_plain_tarball_is_an_image_without_a_configuration(
    read: Read, pack: Callable[[bytes], bytes]
) -> None:
    """The id of a plain tarball is its own digest, and no image in it has a name."""
    data = pack(LAYERS[0])
    assert read(data) == f"{digest(data)[7:15]} a1 b1"
    with pytest.raises(ImageError, match='no archive of images, and "app:1" was asked for'):
        read(data, "app:1")


def test_gzip_streams_one_behind_the_other_are_one(read: Read) -> None:
    """Some registries send several gzip streams with zeros at the end."""
    half = len(LAYERS[0]) // 2
    data = gzip.compress(LAYERS[0][:half]) + gzip.compress(LAYERS[0][half:]) + bytes(10)
    assert read(data).endswith("a1 b1")


def test_a_layer_that_is_saved_as_a_link_is_found(read: Read) -> None:
    """Older dockers do so where two images share one."""
    config = configuration(LAYERS[:1])
    manifest = [{"Config": "c.json", "RepoTags": None, "Layers": ["x/layer.tar"]}]
    members = [
        item("0" * 64 + "/layer.tar", LAYERS[0]),
        link("x/layer.tar", "../" + "0" * 64 + "/layer.tar"),
        item("c.json", config),
        item("manifest.json", json.dumps(manifest).encode()),
    ]
    assert read(tar(members)).endswith("a1 b1")


def test_archives_of_other_tools_are_images_too(read: Read) -> None:
    """Configurations named as digests, or as anything; layers compressed; the manifest last."""
    config = configuration(LAYERS[:1])
    for name in (digest(config), f"{digest(config)[7:]}.json", "image.json"):
        layer = f"{digest(LAYERS[0])[7:]}.tar.gz"
        manifest = [{"Config": name, "RepoTags": ["it:1"], "Layers": [layer]}]
        members = [
            item(name, config),
            item(layer, gzip.compress(LAYERS[0])),
            item("manifest.json", json.dumps(manifest).encode()),
        ]
        assert read(tar(members)) == f"{digest(config)[7:15]} a1 b1"
    members[0] = item(digest(b"other"), config)
    manifest = [{"Config": digest(b"other"), "Layers": [layer]}]
    members[2] = item("manifest.json", json.dumps(manifest).encode())
    with pytest.raises(ImageError, match="does not have the digest"):
        read(tar(members))


def two(**platforms: str) -> dict[str, bytes]:
    """A layout with two images, by name or by platform."""
    first, second = layout(LAYERS[:1]), layout(LAYERS)
    entries = []
    for files, (name, architecture) in zip((first, second), platforms.items(), strict=True):
        entry = json.loads(files["index.json"])["manifests"][0]
        if architecture:
            entry["platform"] = {"os": "linux", "architecture": architecture}
        else:
            entry["annotations"] = {"org.opencontainers.image.ref.name": name}
        entries.append(entry)
    top = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return {**first, **second, "index.json": top}


@pytest.mark.fault("C11")
def test_one_of_several_images_is_chosen_by_name_or_machine(read: Read, tmp_path: Path) -> None:
    """The error names the images if neither name nor machine selects one."""
    named = write_layout(tmp_path / "named", two(one="", two=""))
    assert read(named, "one").endswith("a1 b1")
    assert read(named, "two").endswith("a1 b2")
    with pytest.raises(ImageError, match='2 images; it has "one", "two"'):
        read(named)
    with pytest.raises(ImageError, match='"three" is not in it'):
        read(named, "three")
    machines = write_layout(tmp_path / "machines", two(one="mips", two=machine()))
    assert read(machines).endswith("a1 b2")
    others = write_layout(tmp_path / "others", two(one="mips", two="sparc"))
    with pytest.raises(ImageError, match=r'it is for "mips", "sparc", and this machine is'):
        read(others)


def test_a_tag_chooses_in_a_docker_archive(read: Read) -> None:
    """The tag may leave out ``:latest``."""
    assert read(saved(LAYERS), "it").endswith("a1 b2")
    with pytest.raises(ImageError, match='"other" is not in it; it has "it:latest"'):
        read(saved(LAYERS), "other")


def test_an_image_for_another_architecture_is_refused(read: Read) -> None:
    """An image for another architecture or another system is refused."""
    for change in ({"architecture": "mips"}, {"os": "windows"}):
        config = json.dumps({**json.loads(configuration(LAYERS)), **change}).encode()
        with pytest.raises(ImageError, match=r"this machine is|this is linux"):
            read(saved(LAYERS, config))


def damaged(name: str) -> bytes:
    """A docker archive, or an OCI one, with one thing wrong."""
    files = layout(LAYERS)
    manifest = json.loads(files["index.json"])["manifests"][0]["digest"].split(":")[1]
    layers = [blob["digest"] for blob in json.loads(files[f"blobs/sha256/{manifest}"])["layers"]]
    last = f"blobs/sha256/{layers[-1][7:]}"
    if name == "flipped layer":
        files[last] = files[last][:-9] + bytes([files[last][-9] ^ 1]) + files[last][-8:]
    elif name == "other layer":
        files[last] = gzip.compress(tar([item("evil")]), mtime=0)
    elif name == "missing layer":
        del files[last]
    elif name == "other manifest":
        files[f"blobs/sha256/{manifest}"] += b" "
    elif name == "no layout":
        del files["oci-layout"]
    elif name == "other version":
        files["oci-layout"] = b'{"imageLayoutVersion": "9"}'
    elif name == "path as digest":
        files["index.json"] = files["index.json"].replace(b"sha256:", b"../../../")
    elif name == "no json":
        files["index.json"] = b"{" * 100_000
    elif name == "wrong size":
        files["index.json"] = files["index.json"].replace(b'"size": ', b'"size": 1')
    return tar([item(key, data) for key, data in files.items()])


@pytest.mark.fault("C11")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("flipped layer", "digest|damaged|truncated"), ("other layer", "size|should have"),
        ("missing layer", "layer .* is missing"), ("other manifest", "has the digest"),
        ("no layout", "has no"), ("other version", "version"), ("path as digest", "not a sha256"),
        ("no json", "not JSON|nested"), ("wrong size", "bytes, and should have"),
    ],
)  # fmt: skip
def test_a_damaged_oci_image_is_refused(read: Read, name: str, says: str) -> None:
    """Every document and layer has its digest and size."""
    with pytest.raises(ImageError, match=says):
        read(damaged(name))


def change(**changes: Any) -> bytes:
    """A docker archive whose manifest says something else."""
    return saved(LAYERS, None, **changes)


@pytest.mark.fault("C11")
@pytest.mark.parametrize(
    ("image", "says"),
    [
        (change(Layers=["nowhere", "nowhere"]), "is missing"),
        (change(Layers=[]), "0 layers, and its configuration names 2"),
        (change(Config="nowhere.json"), "it has no"),
        (change(Config=3), "Config is missing"),
        (change(Config="../../../etc/passwd"), "it has no"),
        (saved(LAYERS, configuration(LAYERS[::-1])), "should have"),
        (saved(LAYERS, b"[]"), "is not an object"),
        (saved(LAYERS)[:-15_000], "truncated"),
        (b"", "truncated"),
        (b"no archive at all" * 100, "checksum"),
    ],
)  # fmt: skip
def test_a_damaged_docker_archive_is_refused(read: Read, image: bytes, says: str) -> None:
    """The configuration's digest is its name; each layer's is in there."""
    with pytest.raises(ImageError, match=says):
        read(image)


@pytest.mark.fault("C11")
def test_a_foreign_layer_is_refused(read: Read, tmp_path: Path) -> None:
    """A layer with a URL of its own is refused, and nothing is fetched."""
    files = layout(LAYERS[:1])
    top = json.loads(files["index.json"])
    name = "blobs/sha256/" + top["manifests"][0]["digest"][7:]
    manifest = json.loads(files.pop(name))
    del files["blobs/sha256/" + manifest["layers"][0]["digest"][7:]]
    manifest["layers"][0]["urls"] = ["https://example.org/layer"]
    data = json.dumps(manifest).encode()
    files[f"blobs/sha256/{digest(data)[7:]}"] = data
    top["manifests"][0] |= {"digest": digest(data), "size": len(data)}
    files["index.json"] = json.dumps(top).encode()
    with pytest.raises(ImageError, match="foreign"):
        read(write_layout(tmp_path / "layout", files))


def test_what_is_no_file_is_refused_at_once(read: Read, tmp_path: Path) -> None:
    """A FIFO has no writer, a device no end, and a missing file no content."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path / "none", tmp_path):
        with pytest.raises(ImageError):
            read(path)


def blob(name: str) -> str:
    """The path of a digest's bytes in a layout."""
    return f"blobs/{name.replace(':', '/')}"


def indexed(*entries: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """An index of these, and its descriptor."""
    kind = "application/vnd.oci.image.index.v1+json"
    data = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    return data, {"mediaType": kind, "digest": digest(data), "size": len(data)}


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_an_index_may_be_in_an_index_and_attestations_are_no_images(
    read: Read, tmp_path: Path, depth: int
) -> None:
    """An index of buildx is read to a bounded depth, without its unknown/unknown attestations."""
    files = layout(LAYERS)
    manifest = json.loads(files["index.json"])["manifests"][0]
    here = {**manifest, "platform": {"os": "linux", "architecture": machine()}}
    attestation = {
        **manifest, "digest": digest(b"none"),
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
        "platform": {"os": "unknown", "architecture": "unknown"},
    }  # fmt: skip
    data, descriptor = indexed(here, attestation)
    for _ in range(depth):
        files[blob(descriptor["digest"])] = data
        data, descriptor = indexed(descriptor)
    path = write_layout(tmp_path / "layout", {**files, "index.json": data})
    if depth < 4:
        assert read(path).endswith("a1 b2")
    else:
        with pytest.raises(ImageError, match="nested deeper than 4"):
            read(path)


def test_a_size_is_compared_where_one_is_written(read: Read, tmp_path: Path) -> None:
    """The digest is compared in any case."""
    files = layout(LAYERS)
    top = json.loads(files["index.json"])
    del top["manifests"][0]["size"]
    files["index.json"] = json.dumps(top).encode()
    assert read(write_layout(tmp_path / "layout", files)).endswith("a1 b2")


def test_a_layout_of_many_layers_needs_few_descriptors(read: Read, tmp_path: Path) -> None:
    """One file is open at a time."""
    layers = [tar([item(f"f{number}", b"x")]) for number in range(60)]
    path = write_layout(tmp_path / "layout", layout(layers))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, hard))
    try:
        assert read(path).count("f") >= 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.ENOENT])
def test_no_room_for_a_compressed_archive_is_an_error_of_ours(
    read: Read, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The error names a remedy, also if no folder for temporary files exists."""

    def full(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(ImageError, match=r"to a temporary file: (.|\n)*TMPDIR says where"):
        read(gzip.compress(saved(LAYERS)))
