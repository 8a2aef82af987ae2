"""EROFS images of file trees, read back by a reader of the test's own."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor.oci import erofs

BLOCK = 4096


class Image:
    """Reads what fs/erofs/erofs_fs.h describes, as far as plain extended inodes."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        (self.root,) = struct.unpack_from("<H", self.data, 1024 + 14)

    def inode(self, nid: int) -> tuple[int, ...]:
        """Format, xattrs, mode, -, size, block, number, uid, gid, seconds, nanoseconds, links."""
        return struct.unpack_from("<HHHHQIIIIqII", self.data, 32 * nid)

    def content(self, nid: int) -> bytes:
        """The data of an inode."""
        size, block = self.inode(nid)[4:6]
        return self.data[block * BLOCK : block * BLOCK + size]

    def entries(self, nid: int) -> Iterator[tuple[bytes, int, int]]:
        """The names in a folder, with their inodes and kinds."""
        data = self.content(nid)
        for start in range(0, len(data), BLOCK):
            block = data[start : start + BLOCK]
            first = struct.unpack_from("<H", block, 8)[0]
            found = [struct.unpack_from("<QHB", block, at) for at in range(0, first, 12)]
            ends = [place for _, place, _ in found[1:]] + [len(block)]
            for (number, place, kind), end in zip(found, ends, strict=True):
                yield block[place:end].rstrip(b"\0"), number, kind

    def tree(self, nid: int | None = None, path: str = "") -> Iterator[tuple[str, int]]:
        """Each path with its inode."""
        nid = self.root if nid is None else nid
        yield path or "/", nid
        for name, number, kind in self.entries(nid):
            if name not in {b".", b".."}:
                below = f"{path}/{os.fsdecode(name)}"
                yield from self.tree(number, below) if kind == 2 else [(below, number)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with all that an image can have."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/name").write_text("gvisor\n")
    (root / "etc/nothing").touch()
    (root / "program").write_bytes(bytes(range(256)) * 100)
    (root / "program").chmod(0o4755)
    os.link(root / "program", root / "etc/again")
    (root / "link").symlink_to("etc/name")
    os.utime(root / "etc/name", ns=(0, 1_234_567_890_123_456_789))
    os.utime(root / "etc/nothing", ns=(0, -1_500_000_000))
    many = root / "many"
    many.mkdir(0o700)
    for number in range(300):
        (many / f"{'x' * (number % 200)}{number}").write_text(str(number))
    return root


def test_an_image_has_the_files_of_the_tree(tree: Path, tmp_path: Path) -> None:
    """Names, kinds, modes, sizes, times, contents and links are the tree's."""
    erofs.pack(str(tree), str(tmp_path / "image"))
    image = Image(tmp_path / "image")
    found = dict(image.tree())
    assert set(found) == {"/", *(f"/{path.relative_to(tree)}" for path in tree.rglob("*"))}
    for path, nid in found.items():
        status = os.lstat(f"{tree}{path}")
        form, _, mode, _, size, _, _, uid, gid, seconds, nanoseconds, links = image.inode(nid)
        assert (form, mode) == (1, status.st_mode), path
        assert seconds * 10**9 + nanoseconds == status.st_mtime_ns, path
        assert (uid, gid) == ((0, 0) if os.geteuid() else (status.st_uid, status.st_gid)), path
        if stat.S_ISREG(mode):
            assert (size, links) == (status.st_size, status.st_nlink), path
            assert image.content(nid) == Path(f"{tree}{path}").read_bytes(), path
    assert image.content(found["/link"]) == b"etc/name"
    assert found["/program"] == found["/etc/again"]


def test_the_names_of_a_folder_are_in_order(tree: Path, tmp_path: Path) -> None:
    """A reader may search by halves, through blocks and inside one."""
    erofs.pack(str(tree), str(tmp_path / "image"))
    image = Image(tmp_path / "image")
    names = [name for name, _, _ in image.entries(dict(image.tree())["/many"])]
    assert len(names) == 302
    assert names == sorted(names)


def test_a_tree_with_a_fifo_has_no_image(tree: Path, tmp_path: Path) -> None:
    """Nothing is written for it."""
    os.mkfifo(tree / "fifo")
    with pytest.raises(erofs.Unsuitable, match="neither a file nor a folder nor a link"):
        erofs.pack(str(tree), str(tmp_path / "image"))
    assert os.listdir(tmp_path) == ["root"]


def test_a_large_tree_has_no_image(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image would take up as much room again."""
    monkeypatch.setattr(erofs, "LARGEST", 1000)
    with pytest.raises(erofs.Unsuitable, match="more than 1000 bytes"):
        erofs.pack(str(tree), str(tmp_path / "image"))


def test_a_tree_with_extended_attributes_has_no_image(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gVisor reads none from an image; SELinux's label, which it never shows, does not count."""
    given = ["security.selinux"]
    monkeypatch.setattr(os, "listxattr", lambda _path, *, follow_symlinks: given)
    erofs.pack(str(tree), str(tmp_path / "image"))
    given.append("user.some")
    with pytest.raises(erofs.Unsuitable, match="has extended attributes"):
        erofs.pack(str(tree), str(tmp_path / "other"))


def test_a_failure_leaves_no_part_of_an_image(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has no name before it is whole, so a killed process leaves none either."""
    monkeypatch.setattr(os, "sendfile", lambda *_: 0)
    with pytest.raises(erofs.Unsuitable, match="has become shorter"):
        erofs.pack(str(tree), str(tmp_path / "image"))
    assert os.listdir(tmp_path) == ["root"]


def test_the_second_use_makes_the_image(tree: Path, tmp_path: Path) -> None:
    """The first one does not pay for it, and later ones make no other."""
    target = str(tmp_path / "image")
    assert erofs.again(str(tree), target) == ""
    assert erofs.again(str(tree), target) == target
    made = os.stat(target)
    assert erofs.again(str(tree), target) == target
    now = os.stat(target)
    # A reader moves the time of access, so the whole status is not compared.
    assert (now.st_ino, now.st_ctime_ns) == (made.st_ino, made.st_ctime_ns)


def test_a_shortened_image_is_not_used(tree: Path, tmp_path: Path) -> None:
    """Its length is what its first block says, or it is no image."""
    target = tmp_path / "image"
    erofs.pack(str(tree), str(target))
    assert erofs.is_whole(str(target))
    target.chmod(0o600)
    os.truncate(target, target.stat().st_size - 1)
    assert not erofs.is_whole(str(target))
    assert erofs.again(str(tree), str(target)) == ""
    assert erofs.again(str(tree), str(target)) == ""
