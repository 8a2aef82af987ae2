"""The user of tests inside: read, and resolved for a way to start runsc."""

import json
import os
import pwd
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.base.errors import InsideError, ProtocolError, UsageError
from pytest_gvisor.inside.view import users
from pytest_gvisor.oci.mounts import bind
from pytest_gvisor.oci.rootfs import host
from pytest_gvisor.oci.skeleton import Account
from pytest_gvisor.runsc.rootless import Way


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("caller", "caller"), ("root", "root"), ("0", "root"), ("0:0", "root"), ("7", "7:7"),
        ("1000:27", "1000:27"), ("007:1", "7:1"), ("4294967294", "4294967294:4294967294"),
    ],
)  # fmt: skip
def test_a_user_has_one_form(written: str, meant: str) -> None:
    """Tests whose users are the same share a sandbox, so each user has one form."""
    assert users.read(written, "user") == meant


@pytest.mark.parametrize(
    "written",
    ["", "nobody", "Root", "1000:", ":7", "1:2:3", "-1", "+1", "0x10", "1 ", "1\n", "٣", "0:7",
     "4294967295", "1:4294967295", "99999999999", 1000, None, True, (1, 2), b"root", 1.5],
)  # fmt: skip
def test_what_is_no_user_is_a_usage_error(written: object) -> None:
    """The error names the place where it is written."""
    with pytest.raises(UsageError, match=r"--gvisor-user="):
        users.read(written, "--gvisor-user")


@pytest.mark.parametrize(
    ("option", "ini", "meant"),
    [(None, "", "caller"), (None, "7", "7:7"), ("root", "7", "root"), ("caller", "7", "caller")],
)
def test_the_option_goes_before_the_ini_key(option: str | None, ini: str, meant: str) -> None:
    """An ini key that is empty says nothing."""
    config = SimpleNamespace(
        getoption=lambda *_: option, getini=lambda _: ini, inipath="pytest.ini"
    )
    assert users.of_run(config) == meant  # type: ignore[arg-type]


def as_user(monkeypatch: pytest.MonkeyPatch, uid: int, gid: int, groups: list[int]) -> None:
    """Let this process pass for an ordinary user's."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "getegid", lambda: gid)
    monkeypatch.setattr(os, "getgroups", lambda: groups)


@pytest.mark.parametrize("way", list(Way))
def test_root_stays_root(monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    """Root's tests are root as on the host, and whoever asks for root gets it."""
    as_user(monkeypatch, 0, 0, [])
    assert users.inhabitant("caller", way, []) is None
    as_user(monkeypatch, 1000, 1000, [])
    assert users.inhabitant("root", way, []) is None


@pytest.mark.parametrize(
    ("way", "nested"),
    [(Way.PRIVILEGED, False), (Way.MAPPED, False), (Way.OWN, False), (Way.FLAG, True)],
)
def test_a_given_user_needs_a_namespace_where_an_ordinary_user_asks(way: Way, nested: bool) -> None:
    """For root it is a plain setuid."""
    found = users.inhabitant("1000:27", way, [])
    assert found is not None
    assert (found.nested, found.groups, found.account.home) == (nested, (27,), "/home/user")


def test_the_caller_keeps_name_groups_and_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The passwd of the host names the user; a home is one that is the user's own."""
    uid = os.getuid()
    as_user(monkeypatch, 4711, 4712, [4712, 0, 4713])
    monkeypatch.setenv("HOME", "/")
    entry = SimpleNamespace(pw_name="ada", pw_dir=str(tmp_path))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: entry)
    found = users.inhabitant("caller", Way.FLAG, [])
    assert found is not None
    assert (found.account.uid, found.account.gid, found.account.name) == (4711, 4712, "ada")
    assert found.groups == (4712, 0, 4713)
    assert [gid for gid, _ in found.account.groups] == [4712, 0, 4713]
    assert found.account.home == "/home/ada"
    assert users._home("ada", str(tmp_path), uid) == str(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert users._home("ada", "/nonexistent", uid) == str(tmp_path)


@pytest.mark.parametrize("path", ["", "/", "relative", "/a/../b", "/a:b", "/a\nb", "/no/such"])
def test_what_cannot_be_a_home_is_replaced(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """No path of the host's can break the passwd file, or make the root folder a user's."""
    monkeypatch.setenv("HOME", path)
    assert users._home("ada", path, os.getuid()) == "/home/ada"
    assert users._home("a:b", path, os.getuid()) == "/home/user"


def test_a_user_without_an_entry_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host of a user of `docker run --user` has no entry, and the sandbox has one."""

    def nobody(_uid: int) -> None:
        raise KeyError

    as_user(monkeypatch, 4711, 4712, [])
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    found = users.inhabitant("caller", Way.FLAG, [])
    assert found is not None
    assert (found.account.name, found.account.home) == ("user", "/home/user")


def test_a_folder_that_a_group_gives_access_to_shows_that_group(tmp_path: Path) -> None:
    """A project of another user's is reached by the group that is the user's too."""
    gid = tmp_path.stat().st_gid
    shown = ["/no/such", str(tmp_path)]
    assert users._group_of(shown, os.getuid() + 1, {gid}) == gid
    assert users._group_of(shown, os.getuid(), {gid}) == 0
    assert users._group_of(shown, os.getuid() + 1, {gid + 1}) == 0


def test_what_is_roots_on_a_host_is_roots_inside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """System folders are, links, mount points, the home and this user's own folders are not."""
    own = tmp_path / "own"
    (own / "project").mkdir(parents=True)
    mounts = [bind(own / "project", str(own / "project"))]
    prepared = host().prepare(str(tmp_path / "r"), mounts=mounts)
    as_user(monkeypatch, os.getuid() or 4711, os.getgid(), [])
    real = os.stat

    def seen(path: Any, **more: Any) -> Any:
        if str(path) == str(own):
            return SimpleNamespace(st_uid=os.geteuid())
        return SimpleNamespace(st_uid=0) if str(path) in ("/", "/home") else real(path, **more)

    monkeypatch.setattr(os, "stat", seen)
    account = Account(uid=1, gid=1, home="/home/a")
    found = users.Inhabitant(account=account, groups=(), nested=True)
    roots = json.loads(found.argument(prepared))["roots"]
    assert {"/", "/etc", "/etc/passwd", "/home", "/dev"} <= set(roots)
    assert not set(roots) & {"/bin", "/usr", "/proc", "/sys", str(own), str(own / "project")}
    assert len(set(roots)) == len(roots)


def test_a_plain_setuid_changes_no_owner(tmp_path: Path) -> None:
    """The owners are right already where all ids are mapped."""
    prepared = host().prepare(str(tmp_path / "r"))
    found = users.inhabitant("7:7", Way.PRIVILEGED, [])
    assert found is not None
    assert json.loads(found.argument(prepared))["roots"] == []


def test_a_refusal_from_inside_says_what_to_write() -> None:
    """The error is typed, has the number, and names the way out."""
    error = users.refused({"errno": 1, "text": "unshare\x1b[2J"})
    assert isinstance(error, InsideError)
    assert error.errno == 1
    assert "--gvisor-user root" in error.message
    assert "\x1b" not in error.message


@pytest.mark.parametrize(
    "message",
    [{}, {"errno": "1", "text": ""}, {"errno": True, "text": ""}, {"errno": -1, "text": ""},
     {"errno": 10**30, "text": ""}, {"errno": 1}, {"errno": 1, "text": 7}],
)  # fmt: skip
def test_a_refusal_of_another_shape_is_a_protocol_error(message: dict[str, Any]) -> None:
    """A message from inside may hold anything."""
    assert isinstance(users.refused(message), ProtocolError)


def test_a_long_refusal_is_cut() -> None:
    """A message from inside has no end that can be trusted."""
    assert len(users.refused({"errno": 1, "text": "x" * 10**6}).message) < 2000
