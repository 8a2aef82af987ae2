"""Users by an image's own passwd and group."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images.identity import find

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
    """By name or number; supplementary groups unless a group is named."""
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
    """Neither where the image has none, nor through links out of it, nor from what is no file."""
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
