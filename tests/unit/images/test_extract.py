"""Unpacking: the meaning of layers, and no path out of the folder."""

import io
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images.tar import Tar
from tests.mounts import masked
from tests.unit.images.conftest import Item, Unpack, folder, hard, item, link, tar

# Shapes that would lead out: each is refused, or done inside of the folder.


@pytest.mark.fault("C1")
@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/../x", "..", "/../x", "x/.."])
def test_a_name_with_two_dots_is_refused(unpack: Unpack, name: str) -> None:
    """Wherever they are in it: no honest image has them."""
    with pytest.raises(ImageError, match=r"has a '\.\.' in it"):
        unpack([folder("a"), item(name, b"x")])


@pytest.mark.fault("C1")
@pytest.mark.parametrize("name", ["/abs", "//abs", "./abs", "/./abs"])
def test_an_absolute_name_is_in_the_root(unpack: Unpack, name: str) -> None:
    """The root is the image's own."""
    assert (unpack([item(name, b"x")]) / "abs").read_bytes() == b"x"


@pytest.mark.fault("C2", "C3")
@pytest.mark.parametrize(
    "target", ["/etc", "../../etc", "../../../../etc", "/", "..", "/proc/self/root/etc"]
)
@pytest.mark.parametrize("is_later", [False, True])
def test_writing_through_a_link_stays_in_the_root(
    unpack: Unpack, target: str, *, is_later: bool
) -> None:
    """Links resolve as they do inside, in the same layer and in the next."""
    first = [folder("etc"), folder("proc"), folder("proc/self"), link("way", target)]
    if target.startswith("/proc"):
        first.append(folder("proc/self/root/etc"))
    second = [item("way/pytest-gvisor-escape", b"x")]
    root = unpack(first, second) if is_later else unpack(first + second)
    found = list(root.rglob("pytest-gvisor-escape"))
    assert len(found) == 1
    assert not os.path.exists("/etc/pytest-gvisor-escape")


def test_a_link_of_the_host_s_proc_is_not_followed(unpack: Unpack) -> None:
    """A link to /proc/self/root where the image has no proc leads nowhere."""
    with pytest.raises(ImageError, match="cannot unpack"):
        unpack([link("way", "/proc/self/root"), item("way/x", b"x")])


@pytest.mark.fault("C4")
def test_a_chain_of_links_longer_than_a_path_stays_in_the_root(unpack: Unpack) -> None:
    """The shape of CVE-2025-4517: names that together are beyond PATH_MAX."""
    items: list[Item] = []
    path = ""
    long = "d" * 247
    for step in "abcdefghijklmnop":
        items.append(folder(f"{path}{long}"))
        items.append(link(f"{path}{step}", long))
        path += f"{step}/"
    items.append(link(f"{path}{'l' * 254}", "../" * 16))
    items.append(link("escape", f"{path}{'l' * 254}/../../../../../../etc"))
    items.append(item("escape/pytest-gvisor-escape", b"x"))
    with pytest.raises(ImageError, match="cannot unpack"):
        unpack(items)
    assert not os.path.exists("/etc/pytest-gvisor-escape")


@pytest.mark.fault("C5")
@pytest.mark.parametrize("way", ["..", "a/../..", "back"])
def test_leaving_and_coming_back_makes_nothing_outside(
    unpack: Unpack, tmp_path: Path, way: str
) -> None:
    """The shape of CVE-2026-19672: no folder is made on the way, whether by name or by a link."""
    before = set(tmp_path.rglob("*"))
    name = f"{way}/evil/../root/f"
    with pytest.raises(ImageError, match=r"'\.\.'"):
        unpack([folder("a"), link("back", ".."), item(name, b"x")])
    root = unpack([link("out", "../evil/../root"), folder("evil"), folder("root"), item("out/f")])
    made = {path for path in set(tmp_path.rglob("*")) - before if root not in path.parents}
    assert made == {tmp_path / "image.tar"}
    assert (root / "root/f").is_file()


@pytest.mark.fault("C6")
def test_a_link_without_a_target_is_refused(unpack: Unpack) -> None:
    """A link without a target is refused, as is a chain that starts with one."""
    with pytest.raises(ImageError, match="without a target"):
        unpack([link("a", ""), link("b", "a/.."), item("b/x")])


def test_links_that_go_round_are_refused(unpack: Unpack) -> None:
    """The kernel counts them."""
    with pytest.raises(ImageError, match="symbolic links"):
        unpack([link("a", "b"), link("b", "a"), item("a/x")])


@pytest.mark.fault("C7")
@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../etc/passwd", "../victim", "way/passwd", "near/passwd"]
)
def test_a_hard_link_to_a_file_of_the_host_is_refused(
    unpack: Unpack, tmp_path: Path, target: str
) -> None:
    """A hard link to a host file is refused, by name and through symbolic links."""
    with pytest.raises(ImageError):
        unpack([link("way", "/etc"), link("near", "../../etc"), hard("stolen", target)])
    assert (tmp_path / "outside/etc/passwd").stat().st_nlink == 1
    assert (tmp_path / "outside/within/victim").stat().st_nlink == 1


def test_a_hard_link_shares_the_file_and_keeps_a_symbolic_link(unpack: Unpack) -> None:
    """The target is taken as it is, not where it points to; one onto itself changes nothing."""
    root = unpack(
        [item("d/a", b"x"), link("l", "/d/a"), hard("b", "/d/a"), hard("m", "l"), hard("b", "b"),
         hard("d/a", "d/a"), folder("d/e"), hard("d/e", "b")]
    )  # fmt: skip
    assert (root / "d/e").stat().st_ino == (root / "d/a").stat().st_ino
    assert (root / "b").stat().st_ino == (root / "d/a").stat().st_ino
    assert os.readlink(root / "m") == "/d/a"
    with pytest.raises(ImageError, match="hard link to a folder"):
        unpack([folder("d"), hard("e", "d")])


@pytest.mark.fault("C8")
@pytest.mark.parametrize("name", [".wh...", ".wh..", ".wh.", "a/.wh..."])
def test_a_whiteout_of_no_name_is_refused(unpack: Unpack, name: str) -> None:
    """Two dots after the prefix would name the parent folder."""
    with pytest.raises(ImageError, match="hides nothing"):
        unpack([folder("a"), item("a/b")], [item(name)])


@pytest.mark.fault("C8")
@pytest.mark.parametrize(
    "name",
    [
        ".wh./../victim", ".wh.a/../../victim", "../.wh.victim", "a/../../.wh.victim",
        "../.wh..wh..opq",
    ],
)  # fmt: skip
def test_a_whiteout_with_steps_in_its_name_removes_nothing_outside(
    unpack: Unpack, tmp_path: Path, name: str
) -> None:
    """``.wh.`` and then a way up, or a way up and then ``.wh.``."""
    with pytest.raises(ImageError, match=r"has a '\.\.' in it"):
        unpack([folder("a"), item("a/b"), item("victim")], [item(name)])
    assert (tmp_path / "outside/within/victim").read_text() == "untouched"


def test_a_whiteout_removes_what_lies_below(unpack: Unpack) -> None:
    """Files, folders and links (not their targets) are removed, but none of its own layer."""
    root = unpack(
        [item("d/a", b"1"), item("d/b/c"), item("e"), link("l", "d"), item("own", b"1")],
        [item("d/.wh.b"), item(".wh.e"), item(".wh.l"), item("own", b"2"), item(".wh.own"),
         item(".wh.none"), item("no/where/.wh.x"), item(".wh..wh.plnk")],
    )  # fmt: skip
    assert sorted(str(p.relative_to(root)) for p in root.rglob("*")) == ["d", "d/a", "own"]
    assert (root / "own").read_bytes() == b"2"


@pytest.mark.fault("C8")
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("where", ["", "d/"])
def test_an_opaque_folder_hides_what_lies_below(
    unpack: Unpack, where: str, *, is_first: bool
) -> None:
    """The root can be opaque too; the layer's own entries stay, in any order."""
    marker, new = item(f"{where}.wh..wh..opq"), item(f"{where}deep/new")
    second = [marker, new] if is_first else [new, marker]
    root = unpack([item(f"{where}old"), item(f"{where}deep/old"), item("other")], second)
    left = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    assert left == {f"{where}deep/new"} | ({"other"} if where else set())


@pytest.mark.fault("C8")
def test_a_whiteout_through_a_link_stays_in_the_root(unpack: Unpack) -> None:
    """A folder that is a link out of the root is one into it."""
    root = unpack([folder("etc"), item("etc/passwd"), link("way", "../../../etc")])
    unpack([item("way/.wh.passwd"), item("way/.wh..wh..opq")])
    assert list((root / "etc").iterdir()) == []
    assert os.path.exists("/etc/passwd")


@pytest.mark.fault("C9")
def test_devices_and_fifos_are_left_out(unpack: Unpack) -> None:
    """The image's notes say how many."""
    root = unpack(
        [item("null", type=tarfile.CHRTYPE), item("sda", type=tarfile.BLKTYPE),
         item("pipe", type=tarfile.FIFOTYPE), item("file")]
    )  # fmt: skip
    assert os.listdir(root) == ["file"]
    notes: Any = unpack.facts.notes  # type: ignore[attr-defined]
    assert set(notes) == {"left out of the image: 2 devices", "left out of the image: 1 FIFOs"}


def test_folders_that_no_entry_describes_are_as_an_honest_image_has_them(
    unpack: Unpack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The umask does not matter, and no other user can ever write to such a folder or the root."""
    with masked(0o077):
        root = unpack([item("a/x")])
        assert [stat.S_IMODE(path.stat().st_mode) for path in (root, root / "a")] == [0o755] * 2
        os.umask(0)
        monkeypatch.setattr(os, "chmod", lambda *_, **__: None)
        assert stat.S_IMODE((unpack([item("b/x")]) / "b").stat().st_mode) == 0o755


def test_the_root_s_entry_is_its_permissions(unpack: Unpack) -> None:
    """The root's entry has to be a folder, and sets its permissions."""
    assert stat.S_IMODE(unpack([folder("./", 0o711)]).stat().st_mode) == 0o711
    with pytest.raises(ImageError, match="the root is a symbolic link"):
        unpack([link(".", "x")])


def test_the_folders_that_mounts_need_are_made_where_nothing_is(unpack: Unpack) -> None:
    """The image's own entries at those places stay."""
    root = unpack([item("proc", b"x"), link("sys", "a")], points=["dev", "proc", "sys"])
    assert (root / "dev").is_dir()
    assert (root / "proc").read_bytes() == b"x"
    assert os.readlink(root / "sys") == "a"


def test_a_file_is_private_until_it_is_whole(
    unpack: Unpack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file gets its permissions after its owner."""
    seen = []
    real = os.fchmod

    def fchmod(fd: int, mode: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(fd).st_mode))
        real(fd, mode)

    with masked(0):
        monkeypatch.setattr(os, "fchmod", fchmod)
        root = unpack([item("f", b"x", mode=0o4777)])
    assert seen[-1] == 0o600
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o4777


@pytest.mark.fault("C9")
def test_permissions_set_uid_and_times_are_kept(unpack: Unpack) -> None:
    """The umask does not matter, nor do files that are added to a folder later."""
    with masked(0o077):
        root = unpack(
            [folder("d", 0o1777, mtime=1000), item("d/s", mode=0o6755, mtime=2000),
             folder("locked", 0o500), item("locked/x")]
        )  # fmt: skip
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o1777
    assert stat.S_IMODE((root / "d/s").stat().st_mode) == 0o6755
    assert ((root / "d").stat().st_mtime, (root / "d/s").stat().st_mtime) == (1000, 2000)
    assert stat.S_IMODE((root / "locked").stat().st_mode) == (0o500 if os.geteuid() == 0 else 0o700)


def test_owners_are_kept_by_root_and_otherwise_all_is_ours(unpack: Unpack) -> None:
    """Root keeps owners, also of links; another user owns all files and can read them."""
    root = unpack(
        [item("f", uid=1234, gid=5678, mode=0), folder("d", uid=12), item("d/x", uid=2**31)]
    )
    owner = (root / "f").stat().st_uid, (root / "f").stat().st_gid
    if os.geteuid() == 0:
        assert owner == (1234, 5678)
        assert (root / "d/x").stat().st_uid == 2**31
    else:
        assert owner == (os.geteuid(), os.getegid())
        assert stat.S_IMODE((root / "f").stat().st_mode) == 0o400


@pytest.mark.fault("C9")
def test_extended_attributes_are_left_out(unpack: Unpack) -> None:
    """Capabilities, ACLs and users' attributes are left out, with a note."""
    headers = {
        "SCHILY.xattr.user.mine": "1",
        "SCHILY.xattr.security.capability": "2",
        "SCHILY.xattr.system.posix_acl_access": "3",
    }
    root = unpack([item("f", pax_headers=headers)])
    assert os.listxattr(root / "f") == []
    assert unpack.facts.notes == ("left out of the image: 3 extended attributes",)  # type: ignore[attr-defined]


@pytest.mark.fault("C12")
def test_names_are_bytes(unpack: Unpack) -> None:
    """255 of them, no UTF-8, a newline, twins but for case: as they are written."""
    odd = b"\xff\n\x1b".decode("utf-8", "surrogateescape")
    root = unpack([item("n" * 255), item(odd), item("Case", b"1"), item("case", b"2")])
    assert set(os.listdir(root)) == {"n" * 255, odd, "Case", "case"}
    with pytest.raises(ImageError, match="too long"):
        unpack([item("n" * 256)])


@pytest.mark.fault("C12")
def test_a_name_with_a_nul_byte_is_refused(unpack: Unpack) -> None:
    """The kernel would cut it there."""
    with pytest.raises(ImageError, match="NUL byte"):
        unpack([item("f", pax_headers={"path": "a\0b"})])


def test_what_is_in_the_way_is_replaced(unpack: Unpack) -> None:
    """Files, folders and links replace each other, and never the target of a link."""
    root = unpack(
        [item("a"), item("b/c/d"), link("l", "keep"), item("keep", b"k")],
        [folder("a"), item("a/x"), link("b", "a"), item("l", b"new"), item("b/y")],
    )
    assert (root / "a/x").is_file()
    assert os.readlink(root / "b") == "a"
    assert (root / "a/y").is_file()
    assert ((root / "l").read_bytes(), (root / "keep").read_bytes()) == (b"new", b"k")


@pytest.mark.parametrize("removed", [link("a", "z"), item(".wh.a")])
def test_a_folder_that_is_replaced_while_it_is_filled_is_looked_up_anew(
    unpack: Unpack, removed: Item
) -> None:
    """The next file goes where the name leads by then."""
    root = unpack([folder("z/b"), item("a/b/1")], [removed, item("a/b/2")])
    assert [p.name for p in (root / "a/b").iterdir()] == ["2"]


@pytest.mark.fault("C11")
def test_a_file_that_is_cut_short_is_refused(unpack: Unpack) -> None:
    """An archive that ends in a header, in content, or between a long name and its entry."""
    whole = tar([item("f", b"x" * 1000), item("g" * 200)], format=tarfile.GNU_FORMAT)
    for length in (100, 700, 1511, 1600, 2100):
        with pytest.raises(ImageError, match="truncated"):
            unpack(whole[:length])
    with pytest.raises(ImageError, match="ends after the header"):
        unpack(whole[: 1536 + 1024])


@pytest.mark.parametrize("length", [1512, 1536, 2048, 0])
def test_a_layer_needs_no_zeros_at_its_end(unpack: Unpack, length: int) -> None:
    """umoci writes none, nor the padding of the last file; docker has saved layers of no bytes.

    Its digest says that nothing is missing. A tarball without one needs them.
    """
    layer = tar([item("f", b"x" * 1000), item("g")])[:length]
    assert sorted(os.listdir(unpack(layer))) == ["f", "g"][: (length + 511) // 1024]
    if layer:
        with pytest.raises(ImageError, match="truncated"):
            list(Tar(io.BytesIO(layer)))


def test_formats_of_tar(unpack: Unpack) -> None:
    """ustar with its prefix, GNU with long names and links, pax: the same tree."""
    long = "/".join(["d" * 60] * 3) + "/f"
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        items = [item(long, b"x")]
        if kind != tarfile.USTAR_FORMAT:
            items += [item("e" * 200, b"y"), link("l", "t" * 300)]
        root = unpack(tar(items, format=kind))
        assert (root / long).read_bytes() == b"x"
    assert os.readlink(root / "l") == "t" * 300


def test_a_tree_of_this_machine_comes_out_as_it_is(unpack: Unpack, tmp_path: Path) -> None:
    """Something real: a folder of the interpreter's library, packed by tarfile."""
    source = Path(os.__file__).parent / "json"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as made:
        made.add(source, "json")
    root = unpack(file.getvalue())
    for path in source.rglob("*.py"):
        assert (root / "json" / path.relative_to(source)).read_bytes() == path.read_bytes()
