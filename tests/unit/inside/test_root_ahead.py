"""The root of a first sandbox that a thread makes is the one that is made in the usual way."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.errors import LaunchError
from pytest_gvisor.inside import root_ahead
from pytest_gvisor.inside.root_ahead import RootAhead
from pytest_gvisor.oci.accounts import Account
from pytest_gvisor.oci.rootfs import host
from pytest_gvisor.run import threads

ACCOUNT = Account(uid=1234, gid=1234, name="someone", home="/home/someone")


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    """The mode of each path in a root, with a file's content or the target of a link."""
    found: dict[str, tuple[int, bytes]] = {}
    for path in root.rglob("*"):
        data = b""
        if path.is_symlink():
            data = os.fsencode(path.readlink())
        elif path.is_file():
            data = path.read_bytes()
        found[str(path.relative_to(root))] = path.lstat().st_mode, data
    return found


@pytest.mark.parametrize("account", [None, ACCOUNT], ids=["root", "user"])
def test_a_run_has_the_same_root_as_in_the_usual_way(
    account: Account | None, tmp_path: Path
) -> None:
    """Whoever its tests are: they have entries in /etc/passwd."""
    ahead = RootAhead(str(tmp_path))
    for name in ("run", "usual"):
        (tmp_path / name).mkdir()
    ahead.take(str(tmp_path / "run"))
    made = (tmp_path / "run/rootfs").stat().st_ino
    roots = [
        Path(host().prepare(str(tmp_path / name), account=account).root_path)
        for name in ("run", "usual")
    ]
    assert contents(roots[0]) == contents(roots[1])
    assert roots[0].stat().st_ino == made


def test_one_run_alone_gets_it(tmp_path: Path) -> None:
    """The next one makes its own."""
    ahead = RootAhead(str(tmp_path))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        ahead.take(str(tmp_path / name))
    assert (tmp_path / "one/rootfs/etc/hosts").is_file()
    assert not (tmp_path / "two/rootfs").exists()


def test_one_that_could_not_be_made_whole_is_not_taken(tmp_path: Path) -> None:
    """The run makes its own, and comes upon the error if there still is one."""
    (tmp_path / ".root/etc").mkdir(parents=True)
    ahead = RootAhead(str(tmp_path))
    (tmp_path / "run").mkdir()
    ahead.take(str(tmp_path / "run"))
    assert not (tmp_path / "run/rootfs").exists()
    assert Path(host().prepare(str(tmp_path / "run")).root_path, "etc/hosts").is_file()


def test_the_thread_is_over_when_the_context_ends(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """So hooks of other plugins may fork."""
    with root_ahead.made(pytestconfig, str(tmp_path)):
        assert root_ahead.of(pytestconfig) is not None
    assert root_ahead.of(pytestconfig) is None
    assert "gvisor-root" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("keeps", [True, False])
def test_no_root_is_made_ahead_where_a_sandbox_may_be_kept(
    keeps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kept sandbox has its root. The first session of a user or a CI machine finds none."""
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path))

    class Plugins:
        @staticmethod
        def hasplugin(name: str) -> bool:
            return keeps and name == "cacheprovider"

    config: Any = SimpleNamespace(pluginmanager=Plugins)
    assert root_ahead.is_of_use(config)
    (tmp_path / "pytest-gvisor/sandboxes-1").mkdir(parents=True)
    assert root_ahead.is_of_use(config) is not keeps


def test_no_root_is_made_ahead_without_a_thread(
    tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the sandbox makes its root in the usual way."""

    def refuse(thread: threading.Thread) -> None:
        raise LaunchError("channel", "no thread")

    monkeypatch.setattr(threads, "start", refuse)
    with root_ahead.made(pytestconfig, str(tmp_path)):
        assert root_ahead.of(pytestconfig) is None


def test_threads_take_turns_quickly_while_it_is_made(tmp_path: Path) -> None:
    """Python's own interval is back afterwards."""
    before = sys.getswitchinterval()
    config: Any = SimpleNamespace(stash=pytest.Stash())
    with root_ahead.made(config, str(tmp_path)):
        assert sys.getswitchinterval() < before
    assert sys.getswitchinterval() == before
