"""The owners in an image, the parts that are left out, and the time for unpacking."""

import errno
import os
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images import extract, image_users
from pytest_gvisor.images.streams import Limits
from pytest_gvisor.programs import clock
from pytest_gvisor.programs.proc import ALL_IDS, IdRange
from tests.unit.images.conftest import Item, Unpack, folder, hard, item, link, saved, tar

DEVICE: dict[str, Any] = {"type": tarfile.CHRTYPE}
FIFO: dict[str, Any] = {"type": tarfile.FIFOTYPE}
SOME_IDS = (IdRange(0, 1000, 1), IdRange(1, 100000, 65536))


def notes(unpack: Unpack) -> set[str]:
    """The notes of the last unpacking."""
    return set(unpack.facts.notes)  # type: ignore[attr-defined]


@pytest.mark.fault("C9")
@pytest.mark.parametrize("kind", [DEVICE, FIFO])
def test_what_is_left_out_hides_what_lies_below_it(unpack: Unpack, kind: dict[str, Any]) -> None:
    """The file of a lower layer, a whole folder, a link: none of them is seen in its place."""
    root = unpack(
        [item("file", b"secret"), item("folder/file"), link("link", "file"), item("other")],
        [item("file", **kind), item("folder", **kind), item("link", **kind)],
    )
    assert os.listdir(root) == ["other"]


@pytest.mark.fault("C9")
def test_a_hard_link_to_what_is_left_out_is_left_out(unpack: Unpack) -> None:
    """A link to a device, and a link to that link, are left out; other bad links are errors."""
    root = unpack(
        [item("old", b"secret"), item("d/null", **DEVICE), hard("old", "d/null"),
         hard("d/two", "old"), item("p", **FIFO), hard("q", "p")]
    )  # fmt: skip
    assert [path for path in root.rglob("*") if not path.is_dir()] == []
    assert notes(unpack) == {"left out of the image: 3 devices", "left out of the image: 2 FIFOs"}
    with pytest.raises(ImageError, match="cannot unpack"):
        unpack([item("n", **DEVICE), item("n", b"x"), hard("m", "n"), item("x")], [
            item(".wh.n"), hard("o", "n")])  # fmt: skip
    assert (root / "m").read_bytes() == b"x"


@pytest.mark.fault("C9")
def test_every_way_of_writing_attributes_is_noted(unpack: Unpack) -> None:
    """Attributes in each program's format are noted once, also with a NUL in a name."""
    root = unpack(
        [
            item("a", pax_headers={"SCHILY.xattr.user.a\0b": "1"}),
            item("b", pax_headers={"SCHILY.acl.access": "user::rw-", "RHT.security.selinux": "x"}),
            # bsdtar writes each attribute twice, once in its own way.
            item("d", pax_headers={
                "SCHILY.xattr.user.x%y": "1", "LIBARCHIVE.xattr.user.x%25y": "MQ",
            }),
        ]
    )  # fmt: skip
    assert os.listxattr(root / "d") == []
    assert notes(unpack) == {"left out of the image: 4 extended attributes"}


ALONE = """
import os, sys
from pytest_gvisor.images import archive, cache
with archive.opened(sys.argv[1]) as content:
    hold = cache.Cache(sys.argv[2]).hold(content)
status = os.stat(hold.path + "/f")
print(status.st_uid, status.st_gid, oct(status.st_mode))
"""


def test_root_that_is_alone_in_its_namespace_unpacks_as_any_user(tmp_path: Path) -> None:
    """In a namespace with one user, every file belongs to root."""
    (tmp_path / "i").write_bytes(saved([tar([item("f", uid=7, gid=42, mode=0), folder("d", 0)])]))
    argv = ["unshare", "-r", sys.executable, "-c", ALONE, str(tmp_path / "i"), str(tmp_path / "c")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert (done.stderr, done.stdout) == ("", f"0 0 {oct(stat.S_IFREG | 0o400)}\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives files away")
def test_a_tree_of_another_namespace_is_not_taken(tmp_path: Path) -> None:
    """Each namespace has a tree with its own users."""
    (tmp_path / "i").write_bytes(saved([tar([item("f", uid=7, gid=42, mode=0o4755)])]))
    code = [sys.executable, "-c", ALONE, str(tmp_path / "i"), str(tmp_path / "c")]
    found = []
    for way in (["unshare", "-r"], [], ["unshare", "-r"], []):
        done = subprocess.run([*way, *code], capture_output=True, text=True, timeout=30, check=True)
        found.append(done.stdout.split()[:2])
    assert found == [["0", "0"], ["7", "42"]] * 2
    assert len(list((tmp_path / "c").glob("owners-*"))) == 1


def test_a_policy_is_of_one_map_and_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each map and user has a part of the cache; without a namespace the whole folder is used."""
    whole, one, some = ALL_IDS, (IdRange(0, 1000, 1),), SOME_IDS
    seen = []
    asked = [(0, (whole, whole)), (7, (whole, whole)), (0, (some, some)), (0, (some, one))]
    for uid, maps in [*asked, (7, (some, some)), (0, (whole, some))]:
        said = dict(zip(("uid", "gid"), maps, strict=True))
        monkeypatch.setattr(image_users, "_map", said.__getitem__)
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        seen.append(image_users.part_of("/c"))
    assert seen[:2] == ["/c", "/c"]
    assert len({*seen}) == 5


def test_a_link_s_owner_is_its_own(unpack: Unpack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link's target, which may be anywhere, keeps its owner."""
    given: list[tuple[object, ...]] = []

    def chown(what: object, uid: int, gid: int, *, follow_symlinks: bool = True, **_: Any) -> None:
        given.append((what, uid, gid, follow_symlinks))

    monkeypatch.setattr(extract, "keeps_owners", lambda: True)
    monkeypatch.setattr(os, "chown", chown)
    entry = link("l", "/etc/passwd")
    entry[0].uid, entry[0].gid = 7, 42
    unpack([entry])
    assert given == [(b"l", 7, 42, False)]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EINVAL, r"belongs to 0:424242, which .* does not have"),
        (errno.EPERM, r"cannot unpack .*: Operation not permitted\Z"),
    ],
)
def test_an_owner_that_a_namespace_does_not_have_is_named(
    unpack: Unpack, monkeypatch: pytest.MonkeyPatch, number: int, text: str
) -> None:
    """The error names the owner that a namespace with some ids lacks, unlike the kernel's."""
    monkeypatch.setattr(extract, "keeps_owners", lambda: True)
    monkeypatch.setattr(os, "chown", Mock(side_effect=OSError(number, os.strerror(number))))
    for entry in (item("f"), folder("d"), link("l", "f")):
        entry[0].gid = 424242
        with pytest.raises(ImageError, match=text):
            unpack([entry])


def test_owners_are_kept_where_there_is_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners are kept if the maps of this process's namespace have several ids."""
    maps = {"uid": ALL_IDS, "gid": SOME_IDS}
    monkeypatch.setattr(image_users, "_map", lambda kind: maps[kind])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert image_users.keeps_owners()
    maps["gid"] = SOME_IDS[:1]
    assert not image_users.keeps_owners()
    maps["gid"] = maps["uid"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not image_users.keeps_owners()


# What it may cost


@pytest.mark.fault("C10")
def test_folders_that_no_entry_names_are_counted(unpack: Unpack) -> None:
    """Ten thousand names can make a million of them."""
    names = [f"{number}/" + "/".join("abcdefgh") for number in range(10)]
    with pytest.raises(ImageError, match="more than 50 entries"):
        unpack([item(name) for name in names], limits=Limits(max_entries=50))
    unpack([item(name) for name in names], limits=Limits(max_entries=90))


def listings(work: Any) -> int:
    """How many folders are listed meanwhile."""
    count = 0
    real = os.listdir

    def listdir(where: Any) -> list[Any]:
        nonlocal count
        count += isinstance(where, int)
        return real(where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", listdir)
        work()
    return count


@pytest.mark.fault("C8", "C10")
@pytest.mark.parametrize("marker", ["d/.wh..wh..opq", ".wh.d", ".wh..wh..opq"])
def test_a_layer_clears_a_folder_once(unpack: Unpack, marker: str) -> None:
    """A thousand markers walk the tree one time, and new files stay."""
    lower: Sequence[Item] = [item(f"d/{number}/old") for number in range(20)]
    upper = [item("d/0/new"), *([item(marker)] * 1000), item("d/1/new"), item(marker)]
    roots: list[Path] = []
    assert listings(lambda: roots.append(unpack(lower, upper, upper))) < 100
    left = {str(path.relative_to(roots[0])) for path in roots[0].rglob("*") if path.is_file()}
    assert left == {"d/0/new", "d/1/new"}


@pytest.mark.fault("C10")
def test_unpacking_has_a_deadline(unpack: Unpack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow image fails at the deadline."""
    now = time.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)

    def slowly(*_: object) -> None:
        nonlocal now
        now += 400

    monkeypatch.setattr(extract.Tree, "begin_layer", slowly)
    unpack([item("f")])
    with pytest.raises(ImageError, match=r"takes longer than 600 s to unpack\nTo raise"):
        unpack([item("f")], [item("g")])
