"""Our unpacking beside that of umoci, a tool that unpacks images for runc, on the same images.

Times are compared where the image says them. A folder that no entry names has the time at which it
was made. `DIFFERENT` has what is left out here: devices, FIFOs, and attributes that are not
``user.*``. It has, too, what only one of the two refuses. Each has its cause.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images import archive, extract
from pytest_gvisor.images.streams import CHUNK
from pytest_gvisor.images.tar import Tar
from tests import archives
from tests.unit.images.conftest import Item, folder, hard, item, layout, link, tar, write_layout

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners as umoci keeps them")

Layers = Sequence[Sequence[Item]]
ESCAPE = "pytest-gvisor-escape"
ODD = b"\xff\n\x1b".decode("utf-8", "surrogateescape")
REFUSED = "refused"

SAME: dict[str, Layers] = {
    "modes, owners, times, links": [
        [folder("d", 0o1777, mtime=1000), item("d/s", b"x", mode=0o6755, mtime=2000, uid=12, gid=3),
         link("l", "d/s"), hard("h", "d/s"), folder("e", 0o500, mtime=5), item("e/x", mtime=7),
         item("f", uid=2**31, mode=0), link("dangling", "/no/where")],
        [item("d/t", b"y", mtime=3), item("e/.wh.x"), item("q/r/s", mtime=9)],
    ],
    "names": [[item("n" * 255), item(ODD), item("Case", b"1"), item("case", b"2")]],
    "an attribute of users": [[item("f", pax_headers={"SCHILY.xattr.user.mine": "1"})]],
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

BOTH_REFUSE: dict[str, Layers] = {
    "link without a target": [[link("a", ""), link("b", "a/.."), item("b/x")]],
    "links that go round": [[link("a", "b"), link("b", "a"), item("a/x")]],
    "hard link to the host's": [[hard("stolen", "/etc/passwd")]],
    "hard link up to the host's": [[hard("stolen", "../../../../../../etc/passwd")]],
    "hard link through a link": [[link("way", "/etc"), hard("stolen", "way/passwd")]],
    "name of 256 bytes": [[item("n" * 256)]],
    # umoci has removed the root by then; for the first, which names the folder above it, that one.
    **{f"whiteout {name}": [[item("a/b")], [item(name)]] for name in (".wh...", ".wh..", ".wh.")},
}

DIFFERENT: dict[str, tuple[Layers, str, str]] = {
    # An honest image has no '..': umoci takes them as they would be taken with the root above them.
    **{
        f"name {name}": ([[folder("a"), item(name)]], REFUSED, made)
        for name, made in (
            (f"../{ESCAPE}", f"a {ESCAPE}"),
            (f"a/../{ESCAPE}", f"a {ESCAPE}"),
            (f"../evil/../rootfs/{ESCAPE}", f"a rootfs rootfs/{ESCAPE}"),
        )
    },
    # A folder is not made through a link that leads nowhere: umoci makes what it names.
    "through a link to /proc/self/root": (
        [[link("way", "/proc/self/root"), item(f"way/{ESCAPE}")]],
        REFUSED,
        f"proc proc/self proc/self/root proc/self/root/{ESCAPE} way",
    ),
    # A limit, which umoci does not have.
    "200 folders deep": ([[folder("a/" * 200)]], REFUSED, " ".join("/".join("a" * n)
        for n in range(1, 201))),
    # A policy: nothing in a sandbox could use them.
    "devices and FIFOs": (
        [[item("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3), item("f"),
          item("pipe", type=tarfile.FIFOTYPE)]],
        "f",
        "f null pipe",
    ),
    # A policy: left out with a note, while the kernel takes this one from nobody.
    "damaged capabilities": (
        [[item("f", pax_headers={"SCHILY.xattr.security.capability": "2"})]], "f", REFUSED
    ),
}  # fmt: skip
"""The result of each program: the paths, or a refusal."""

Tree = dict[str, tuple[object, ...]]


class Both:
    """The trees that we and umoci make of the same image, None where it is refused."""

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

    def _ours(self, where: Path) -> Tree | None:
        root = where / "ours/rootfs"
        root.mkdir(parents=True)
        try:
            with archive.opened(str(where / "layout")) as content:
                extract.unpack(content, str(root))
        except ImageError:
            return None
        return archives.tree(root)

    def _theirs(self, where: Path) -> Tree | None:
        argv = ["umoci", "unpack", "--image", f"{where}/layout:latest", str(where / "theirs")]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        if done.returncode:
            assert "create runtime bundle" in done.stderr
            return None
        return archives.tree(where / "theirs/rootfs")

    def without_times(self, named: set[str]) -> tuple[Tree, Tree]:
        """Both trees, without the times that the image does not have."""
        made = []
        for found in (self.ours, self.theirs):
            assert found is not None
            made.append({p: v if p in named else (*v[:2], *v[3:]) for p, v in found.items()})
        return made[0], made[1]


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
        both = Both(tmp_path / name, layers, content.config_bytes)
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


@pytest.mark.parametrize("name", BOTH_REFUSE)
def test_both_refuse(tmp_path: Path, name: str) -> None:
    """Both refuse an image that is invalid in the root."""
    both = Both(tmp_path, [tar(layer) for layer in BOTH_REFUSE[name]])
    assert (both.ours, both.theirs) == (None, None)


@pytest.mark.parametrize("name", DIFFERENT)
def test_each_does_as_it_does(tmp_path: Path, name: str) -> None:
    """The list has the differences and their causes; neither program writes outside of the root."""
    layers, ours, theirs = DIFFERENT[name]
    both = Both(tmp_path, [tar(layer) for layer in layers])
    found = [REFUSED if t is None else " ".join(t) for t in (both.ours, both.theirs)]
    assert found == [ours, theirs]
