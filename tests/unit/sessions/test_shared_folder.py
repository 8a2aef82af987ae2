"""`SharedDir`: made by the first of its users, removed by the last, swept when all were killed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_gvisor.errors import LaunchError
from pytest_gvisor.sessions import session_folder
from pytest_gvisor.sessions.shared_folder import SharedDir

# Another process that has the folder, until its standard input ends.
USER = """
import sys
from pytest_gvisor.sessions import session_folder
from pytest_gvisor.sessions.shared_folder import SharedDir
session_folder.base_folder = lambda: sys.argv[1]
print(SharedDir("one").path(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds the sessions, not made yet."""
    path = tmp_path / "base"
    monkeypatch.setattr(session_folder, "base_folder", lambda: str(path))
    return path


def entries(base: Path) -> set[str]:
    """The entries of the base folder, apart from its lock."""
    return {path.name for path in base.iterdir()} - {".lock"}


def test_nothing_is_made_before_the_path_is_asked_for(base: Path) -> None:
    """A run whose tests use no gVisor makes no folder, and closing does not either."""
    shared = SharedDir("one")
    assert shared.lock == -1
    assert shared.close() == []
    assert not base.exists()


def test_it_is_removed_by_the_last_of_its_users(base: Path) -> None:
    """Users of one name share a private folder; it goes with the last, and may come again."""
    first, second, other = SharedDir("one"), SharedDir("one"), SharedDir("two")
    path = Path(first.path())
    assert path == Path(second.path()) == Path(first.path())
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    (path / "file").write_text("shared")
    assert other.path() != str(path)
    other.close()
    first.close()
    first.close()
    assert (path / "file").read_text() == "shared"
    second.close()
    assert entries(base) == set()
    again = SharedDir("one")
    assert os.listdir(again.path()) == ["lock"]
    again.close()


def test_a_sweep_leaves_it_while_a_user_lives_and_removes_it_after_a_kill(base: Path) -> None:
    """Another session's sweep tells a folder in use from one whose users were all killed."""
    user = subprocess.Popen(
        [sys.executable, "-c", USER, base], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with user:
        assert user.stdout is not None
        path = user.stdout.readline().strip()
        assert session_folder.sweep(str(base)) == []
        assert os.path.isdir(path)
        user.kill()
        user.wait()
    assert session_folder.sweep(str(base)) == [path]
    assert entries(base) == set()


def test_it_is_made_again_where_somebody_has_removed_it(base: Path) -> None:
    """A cleaner of temporary folders, for one; the base folder may go with it."""
    shared = SharedDir("one")
    path = shared.path()
    shutil.rmtree(base)
    before = len(os.listdir("/proc/self/fd"))
    assert shared.path() == path
    assert os.listdir(path) == ["lock"]
    assert len(os.listdir("/proc/self/fd")) == before
    shared.close()
    assert entries(base) == set()


@pytest.mark.parametrize("gone", ["base", "parent"])
def test_it_is_let_go_of_where_somebody_has_removed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """A removed folder, as by a logout in /run/user/UID, is closed without making it again."""
    base = tmp_path / "parent" / "base"
    base.parent.mkdir()
    monkeypatch.setattr(session_folder, "base_folder", lambda: str(base))
    before = set(os.listdir("/proc/self/fd"))
    shared = SharedDir("one")
    shared.path()
    shutil.rmtree(base if gone == "base" else base.parent)
    assert shared.close() == []
    assert not base.exists()
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_removed_is_told(base: Path) -> None:
    """A folder that cannot be removed is returned, so that other clean-ups follow."""
    before = set(os.listdir("/proc/self/fd"))
    shared = SharedDir("one")
    path = shared.path()
    base.chmod(0o755)
    (leak,) = shared.close()
    assert leak.startswith(f"{path}: ")
    assert "lets others in" in leak
    assert shared.close() == []
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_fork_lets_its_parent_s_folder_be(base: Path) -> None:
    """The fork and its parent share the lock, so a change by the fork would affect both."""
    shared = SharedDir("one")
    path = shared.path()
    pid = os.fork()
    if pid == 0:
        try:
            shared.close()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.path.isdir(path)
    assert session_folder.sweep(str(base)) == []
    shared.close()
    assert entries(base) == set()


def test_a_folder_that_others_may_enter_is_refused(base: Path) -> None:
    """The base folder is checked as for a session."""
    base.mkdir()
    base.chmod(0o755)
    with pytest.raises(LaunchError, match="lets others in"):
        SharedDir("one").path()
    assert entries(base) == set()
