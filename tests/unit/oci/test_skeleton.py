"""The passwd and group files of root file systems of ours."""

import os
import pwd
from pathlib import Path

import pytest

from pytest_gvisor.oci import skeleton
from pytest_gvisor.oci.skeleton import Account, account_of


def entries(account: Account | None, name: str) -> dict[int, list[str]]:
    """The lines of a file in fields, by their third one."""
    lines = skeleton.account_files(account)[f"etc/{name}"].splitlines()
    fields = [line.split(":") for line in lines]
    assert len({one[0] for one in fields}) == len({one[2] for one in fields}) == len(fields)
    return {int(one[2]): one for one in fields}


def test_a_given_user_has_one_entry_in_each_file() -> None:
    """The entries name a user, a group and a home folder; root's and nobody's stay."""
    account = account_of(1000, 1001)
    assert entries(account, "passwd")[1000][:4] == ["user", "x", "1000", "1001"]
    assert entries(account, "passwd")[1000][4:] == ["", "/tmp", "/bin/sh"]
    assert entries(account, "group")[1001] == ["user", "x", "1001", ""]
    assert entries(account, "passwd").keys() == {0, 65534, 1000}
    assert entries(account, "group").keys() == {0, 5, 65534, 1001}


@pytest.mark.parametrize(("uid", "gid"), [(0, 0), (0, 5), (65534, 65534), (65534, 0)])
def test_users_that_are_there_anyway_need_no_account(uid: int, gid: int) -> None:
    """Root and nobody have entries in each root file system of ours."""
    assert account_of(uid, gid) is None
    assert uid in entries(None, "passwd")
    assert gid in entries(None, "group")


@pytest.mark.parametrize("name", ["root", "nobody", "", "a:b", "a\nb", "a\0b"])
def test_a_name_that_is_taken_or_breaks_the_file_is_replaced(name: str) -> None:
    """No two entries share a name, and a name of the host's cannot add a line."""
    account = Account(uid=7, gid=8, name=name, groups=((8, name), (9, "tty"), (5, "x")))
    assert entries(account, "passwd")[7][0] == "user"
    names = {gid: fields[0] for gid, fields in entries(account, "group").items()}
    assert names[5] == "tty"
    assert names[9] == "group9"
    assert names[8] == (name if name == "nobody" else "group8")


def test_nobody_may_be_the_user() -> None:
    """The caller's entry takes the place of nobody's."""
    account = Account(uid=65534, gid=65534, name="nobody", home="/home/nobody")
    assert entries(account, "passwd")[65534][5] == "/home/nobody"
    assert entries(account, "passwd").keys() == {0, 65534}


def test_a_root_of_another_group_keeps_its_name() -> None:
    """Uid 0 is root, whatever its group is."""
    account = account_of(0, 1001)
    assert entries(account, "passwd")[0][0] == "root"
    assert entries(account, "group")[1001][0] == "user"


@pytest.mark.parametrize(
    "path", ["/", "/home", "/tmp", "/proc/self", "/dev", "/tmp/../var", "/usr"]
)
def test_what_all_share_is_wide(path: str) -> None:
    """Nobody owns such a folder, by whatever path."""
    assert skeleton.is_wide(path)


def test_a_home_folder_and_what_holds_it_are_wide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in the home folder is somebody's own; the system says which one that is."""
    monkeypatch.setattr(skeleton, "home", lambda: str(tmp_path / "me"))
    assert skeleton.is_wide(str(tmp_path))
    assert skeleton.is_wide(str(tmp_path / "me"))
    assert not skeleton.is_wide(str(tmp_path / "me/project"))


def test_a_user_without_an_entry_has_the_home_folder_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry of a user counts more than HOME, which a test may have changed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert skeleton.home() == os.path.realpath(pwd.getpwuid(os.geteuid()).pw_dir)

    def unknown(_uid: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert skeleton.home() == str(tmp_path)
