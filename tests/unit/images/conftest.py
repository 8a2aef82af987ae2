"""Archives and layouts for the tests of images, made in Python, hostile ones too."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.images import archive, extract
from pytest_gvisor.images.config import machine
from pytest_gvisor.images.streams import DEFAULT_LIMITS, Limits
from tests.faults.census import canary_tree, facts

Item = tuple[tarfile.TarInfo, bytes]


def _zstd(data: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return bytes(zstd.compress(data))


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": _zstd,
}
"""The compressions of layers and archives."""


def item(name: str, data: bytes = b"", **fields: Any) -> Item:
    """A file of a layer, or another kind of entry by ``type``."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def folder(name: str, mode: int = 0o755, **fields: Any) -> Item:
    """A folder of a layer."""
    return item(name, type=tarfile.DIRTYPE, mode=mode, **fields)


def link(name: str, target: str) -> Item:
    """A symbolic link."""
    return item(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777)


def hard(name: str, target: str) -> Item:
    """A hard link."""
    return item(name, type=tarfile.LNKTYPE, linkname=target)


def header(kind: bytes, data: bytes) -> bytes:
    """A pax or GNU header with its content."""
    info, _ = item("h", data, type=kind)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def tar(items: Sequence[Item], **options: Any) -> bytes:
    """A tar archive of these."""
    file = io.BytesIO()
    options = {"format": tarfile.PAX_FORMAT, "mode": "w", **options}
    with tarfile.open(fileobj=file, **options) as made:
        for info, data in items:
            made.addfile(info, io.BytesIO(data))
    return file.getvalue()


def digest(data: bytes) -> str:
    """The SHA-256 of some bytes as images write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def plain(layer: bytes) -> bytes:
    """A layer without its compression."""
    return gzip.decompress(layer) if layer.startswith(b"\x1f\x8b") else layer


def configuration(layers: Sequence[bytes], config: dict[str, Any] | None = None) -> bytes:
    """An image's configuration as JSON text."""
    value = {
        "architecture": machine(),
        "os": "linux",
        "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": [digest(plain(layer)) for layer in layers]},
    }
    return json.dumps(value).encode()


def saved(layers: Sequence[bytes], config: bytes | None = None, **changes: Any) -> bytes:
    """The archive of ``docker save``: manifest.json, the configuration, and layers."""
    config = configuration(layers) if config is None else config
    name = f"{digest(config)[7:]}.json"
    names = [f"{index}{digest(layer)[8:]}/layer.tar" for index, layer in enumerate(layers)]
    manifest = [{"Config": name, "RepoTags": ["it:latest"], "Layers": names, **changes}]
    members = [item(name, config)]
    members += [item(name, layer) for name, layer in zip(names, layers, strict=True)]
    return tar([*members, item("manifest.json", json.dumps(manifest).encode())])


def layout(
    layers: Sequence[bytes], config: bytes | None = None, *, level: int = 9
) -> dict[str, bytes]:
    """The files of an OCI layout, layers compressed."""
    config = configuration(layers) if config is None else config
    packed = [gzip.compress(layer, level, mtime=0) for layer in layers]

    def describe(data: bytes, kind: str) -> dict[str, Any]:
        full = f"application/vnd.oci.image.{kind}"
        return {"mediaType": full, "digest": digest(data), "size": len(data)}

    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": describe(config, "config.v1+json"),
            "layers": [describe(data, "layer.v1.tar+gzip") for data in packed],
        }
    ).encode()
    top = {"schemaVersion": 2, "manifests": [describe(manifest, "manifest.v1+json")]}
    blobs = {f"blobs/sha256/{digest(data)[7:]}": data for data in (config, manifest, *packed)}
    return {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(top).encode(),
        **blobs,
    }


def write_layout(where: Path, files: dict[str, bytes]) -> Path:
    """A layout as a folder."""
    for name, data in files.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(data)
    return where


Unpack = Callable[..., Path]


@pytest.fixture
def unpack(tmp_path: Path) -> Iterator[Unpack]:
    """Unpack layers made of items into ``root``, and check that no other file changes.

    The root is in the middle of a canary tree. A path that leads out of it by a few steps ends
    there.
    """
    outside = tmp_path / "outside"
    root = outside / "within/root"
    root.mkdir(parents=True)
    canary_tree(outside)
    (outside / "etc").mkdir()
    (outside / "etc/passwd").write_text("untouched")
    (root.parent / "victim").write_text("untouched")
    before = facts(outside, without=root)

    def work(
        *layers: Sequence[Item] | bytes, limits: Limits = DEFAULT_LIMITS, points: Sequence[str] = ()
    ) -> Path:
        packed = [layer if isinstance(layer, bytes) else tar(layer) for layer in layers]
        path = tmp_path / "image.tar"
        path.write_bytes(saved(packed))
        with archive.opened(str(path), limits=limits) as content:
            made = extract.unpack(content, str(root), points=points)
        work.facts = made  # type: ignore[attr-defined]
        return root

    yield work
    assert set(os.listdir(tmp_path)) <= {"outside", "image.tar"}
    assert facts(outside, without=root) == before
