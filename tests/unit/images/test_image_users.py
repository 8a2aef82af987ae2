"""Users by an image's own passwd and group."""

import errno
from pathlib import Path

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images.image_users import find
from pytest_gvisor.programs import linux

PASSWD = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nbad:x:many:0\n# no\n"
GROUP = "root:x:0:\nbin:x:1:root,app\napps:x:1001:\nmore:x:2000:app\n"


@pytest.fixture
def root(tmp_path: Path) -> str:
    """An image with users."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("asked", "ids", "extra", "home"),
    [
        ("", (0, 0), (1,), "/root"),
        ("app", (1000, 1001), (1, 2000), "/home/app"),
        ("1000", (1000, 1001), (1, 2000), "/home/app"),
        ("app:bin", (1000, 1), (), "/home/app"),
        ("app:77", (1000, 77), (), "/home/app"),
        ("4242", (4242, 0), (), "/"),
        ("4242:apps", (4242, 1001), (), "/"),
        (":bin", (0, 1), (), "/root"),
    ],
)
def test_users_are_found_as_docker_finds_them(
    root: str, asked: str, ids: tuple[int, int], extra: tuple[int, ...], home: str
) -> None:
    """A user has a name or a number, and supplementary groups unless a group is named."""
    user, where = find(root, asked)
    assert (user.uid, user.gid) == ids
    assert (user.additional_gids, where) == ((ids[1], *extra), home)


@pytest.mark.fault("B9")
@pytest.mark.parametrize(
    "asked", ["nobody-here", "bad", "app:none", "4294967295", "app:99999999999"]
)
def test_a_user_or_group_that_is_not_there_is_an_error(root: str, asked: str) -> None:
    """The host's passwd is not asked."""
    with pytest.raises(ImageError, match=r"there is no|is not in"):
        find(root, asked)


@pytest.mark.fault("B9")
def test_the_host_s_files_are_never_read(tmp_path: Path) -> None:
    """The host's files are not read through links, for a missing file, or for a folder."""
    with pytest.raises(ImageError, match="no user"):
        find(str(tmp_path), "daemon")
    assert find(str(tmp_path), "")[0].uid == 0
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").symlink_to("/../../../../etc/passwd")
    with pytest.raises(ImageError, match="no user"):
        find(str(tmp_path), "daemon")
    (tmp_path / "etc/passwd").unlink()
    (tmp_path / "etc/passwd").mkdir()
    with pytest.raises(ImageError, match="no user"):
        find(str(tmp_path), "daemon")


def files(root: Path, passwd: str, group: str = "") -> str:
    """An image with these files."""
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text(passwd)
    (root / "etc/group").write_text(group)
    return str(root)


@pytest.mark.parametrize(
    ("line", "ids", "home"),
    [
        ("app:x:1000:1001", (1000, 1001), "/"),
        ("app:x:1000:1001:", (1000, 1001), "/"),
        ("app:x:1000", (1000, 0), "/"),
        ("app:x:1000::::", (1000, 0), "/"),
        ("app:x:1000:1001::/home/app", (1000, 1001), "/home/app"),
        ("app:x:1000:1001::/home/app:/bin/sh:more", (1000, 1001), "/home/app"),
    ],
)
def test_fields_at_the_end_of_a_line_may_be_missing(
    tmp_path: Path, line: str, ids: tuple[int, int], home: str
) -> None:
    """Missing fields are empty, and an empty id is 0, as in docker."""
    root = files(tmp_path, f"root:x:0:0::/root:\n{line}\n", "staff:x:7\nmore:x:8:app\n")
    for asked in ("app", "1000"):
        user, where = find(root, asked)
        assert (user.uid, user.gid, where) == (*ids, home)
        assert user.additional_gids == (ids[1], 8)
    assert find(root, "app:staff")[0].gid == 7


def test_a_number_is_never_a_name(tmp_path: Path) -> None:
    """A number always is an id, as in docker, also if a user or group has it as a name."""
    root = files(tmp_path, "1000:x:5:5:::\napp:x:1000:6:::\n", "6:x:70:\nsix:x:6:app\n")
    user, _ = find(root, "1000:6")
    assert (user.uid, user.gid) == (1000, 6)
    assert find(root, "1000")[0].additional_gids == (6,)


def test_a_file_that_is_there_and_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreadable file is an error, since a number would run with the wrong group."""
    root = files(tmp_path, PASSWD)
    real = linux.openat2
    for number in (errno.EMFILE, errno.EACCES, errno.ENOMEM):

        def failing(*_: object, number: int = number) -> int:
            raise OSError(number, "as the test says")

        monkeypatch.setattr(linux, "openat2", failing)
        with pytest.raises(ImageError, match="cannot read its /etc/passwd: "):
            find(root, "1000")
    monkeypatch.setattr(linux, "openat2", real)
    for odd in ("loop", "gone/passwd"):
        (tmp_path / "etc/passwd").unlink()
        (tmp_path / "etc/passwd").symlink_to(odd if "/" in odd else "passwd")
        assert find(root, "1000")[0].gid == 0
    with pytest.raises(ImageError, match="cannot read its /etc/passwd: No such file"):
        find(f"{root}/gone", "1000")


@pytest.mark.fault("B9")
def test_a_file_of_more_than_4_mib_is_an_error_and_line_ends_of_dos_are_none(
    tmp_path: Path,
) -> None:
    """A line that is cut would be another one."""
    root = files(tmp_path, PASSWD.replace("\n", "\r\n"), GROUP.replace("\n", "\r\n"))
    user, home = find(root, "app:more")
    assert (user.uid, user.gid, home) == (1000, 2000, "/home/app")
    assert find(root, "app")[0].additional_gids == (1001, 1, 2000)
    (tmp_path / "etc/passwd").write_text(PASSWD + "#" * (4 * 1024 * 1024 - len(PASSWD)))
    assert find(root, "app")[0].uid == 1000
    (tmp_path / "etc/passwd").write_text(PASSWD + "#" * (4 * 1024 * 1024))
    with pytest.raises(ImageError, match="larger than 4194304 bytes"):
        find(root, "app")
