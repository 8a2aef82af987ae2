"""Our unpacking beside that of umoci, a tool that unpacks images for runc, on the same images.

Times are compared where the image says them. A folder that no entry names has the time at which it
was made.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_gvisor.images import archive, extract
from pytest_gvisor.images.streams import CHUNK
from pytest_gvisor.images.tar import Tar
from tests import archives
from tests.unit.images.conftest import Item, folder, hard, item, layout, link, tar, write_layout

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners as umoci keeps them"),
    # Only `make test` installs it, and takes no such skip.
    pytest.mark.skipif(shutil.which("umoci") is None, reason="no umoci on this machine"),
]

Layers = Sequence[Sequence[Item]]
ESCAPE = "pytest-gvisor-escape"
ODD = b"\xff\n\x1b".decode("utf-8", "surrogateescape")

SAME: dict[str, Layers] = {
    "modes, owners, times, links": [
        [folder("d", 0o1777, mtime=1000), item("d/s", b"x", mode=0o6755, mtime=2000, uid=12, gid=3),
         link("l", "d/s"), hard("h", "d/s"), folder("e", 0o500, mtime=5), item("e/x", mtime=7),
         item("f", uid=2**31, mode=0), link("dangling", "/no/where")],
        [item("d/t", b"y", mtime=3), item("e/.wh.x"), item("q/r/s", mtime=9)],
    ],
    "names": [[item("n" * 255), item(ODD), item("Case", b"1"), item("case", b"2")]],
    "opaque folder": [
        [item("d/old"), item("d/deep/old"), item("o")], [item("d/.wh..wh..opq"), item("d/deep/new")]
    ],
    "opaque folder, said last": [
        [item("d/old"), item("d/deep/old"), item("o")], [item("d/deep/new"), item("d/.wh..wh..opq")]
    ],
    "opaque root": [[item("old")], [item(".wh..wh..opq"), item("new")]],
    "whiteouts": [[item("a"), item("b/c")], [item(".wh.a"), item("b/.wh.c"), item(".wh.none")]],
    "whiteout of its own layer's": [[item("own", b"1")], [item("own", b"2"), item(".wh.own")]],
    "whiteout through a link": [
        [folder("etc"), item("etc/passwd"), link("way", "../../../etc")], [item("way/.wh.passwd")]
    ],
    "absolute name": [[item(f"/{ESCAPE}")]],
    **{
        f"through a link to {target}": [
            [folder("etc"), link("way", target), item(f"way/{ESCAPE}")], [item("way/later")]
        ]
        for target in ("/etc", "../../../../etc", "/", "..")
    },
    "hard link to a link": [[link("l", "/etc/passwd"), hard("m", "l")]],
    "folder over link": [[folder("t"), link("b", "t")], [folder("b"), item("b/y")]],
    "folder over file": [[item("a")], [folder("a"), item("a/x")]],
    "link over folder": [[item("a/x")], [link("a", "/etc")]],
    "file over folder": [[item("a/x")], [item("a", b"new")]],
}  # fmt: skip
"""Both make the same tree of these."""

Tree = dict[str, tuple[object, ...]]


class Both:
    """The trees that we and umoci make of the same image."""

    def __init__(self, where: Path, layers: Sequence[bytes], config: bytes | None = None) -> None:
        files = layout(layers, config, level=0)
        top = json.loads(files["index.json"])
        top["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
        files["index.json"] = json.dumps(top).encode()
        write_layout(where / "layout", files)
        self.ours = self._ours(where)
        self.theirs = self._theirs(where)
        assert {"layout", "ours"} <= set(os.listdir(where)) <= {"layout", "ours", "theirs"}
        assert os.listdir(where / "ours") == ["rootfs"]
        assert not os.path.exists(f"/{ESCAPE}")
        assert not os.path.exists(f"/etc/{ESCAPE}")

    def _ours(self, where: Path) -> Tree:
        root = where / "ours/rootfs"
        root.mkdir(parents=True)
        with archive.opened(str(where / "layout")) as content:
            extract.unpack(content, str(root))
        return archives.tree(root)

    def _theirs(self, where: Path) -> Tree:
        argv = ["umoci", "unpack", "--image", f"{where}/layout:latest", str(where / "theirs")]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
        return archives.tree(where / "theirs/rootfs")

    def without_times(self, named: set[str]) -> list[Tree]:
        """Both trees, without the times that the image does not have."""
        return [
            {p: v if p in named else (*v[:2], *v[3:]) for p, v in found.items()}
            for found in (self.ours, self.theirs)
        ]


def named(layer: bytes, where: Path) -> set[str]:
    """The paths that a layer has entries for."""
    (where / "layer").write_bytes(layer)
    with open(where / "layer", "rb") as file:
        tar_file = Tar(file)
        return {os.fsdecode(entry.name).strip("/") for entry in tar_file}


def test_fixture_images_come_out_as_umoci_unpacks_them(tmp_path: Path) -> None:
    """Paths, modes, owners, targets, contents and times: of an interpreter, users and volumes."""
    for name in ("python", "users", "volumes"):
        layers = []
        with archive.opened(str(archives.archive(name))) as content:
            for layer in content.layers:
                source, parts = layer.source(), []
                while data := source.read(CHUNK):
                    parts.append(data)
                layers.append(b"".join(parts))
        (tmp_path / name).mkdir()
        both = Both(tmp_path / name, layers, content.config)
        paths = {path for layer in layers for path in named(layer, tmp_path)}
        ours, theirs = both.without_times(paths)
        assert ours == theirs
        assert len(ours) > 4


@pytest.mark.parametrize("name", SAME)
def test_both_make_the_same_tree(tmp_path: Path, name: str) -> None:
    """Both make the same tree of benign images, and of hostile ones that are valid in the root."""
    layers = [tar(layer) for layer in SAME[name]]
    both = Both(tmp_path, layers)
    ours, theirs = both.without_times({info.name for layer in SAME[name] for info, _ in layer})
    assert ours == theirs
    assert ours
