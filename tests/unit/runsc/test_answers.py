"""The answers of a runsc: kept for later sessions, of one state of one file."""

import errno
import json
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from pytest_gvisor.runsc import answers, features
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.sessions import private
from tests.unit.runsc.conftest import FakeRunsc


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for answers, below a cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/pytest-gvisor/answers"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Counts the times that a binary is asked."""
    ask = Mock(wraps=features.ask)
    monkeypatch.setattr(features, "ask", ask)
    return ask


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file count as one that has not changed for long."""
    monkeypatch.setattr(answers, "_SETTLED", -(10**18))


def find(path: Path) -> tuple[str, str]:
    """Find the runsc as a new session does; return its digest and version."""
    runsc = Runsc.find(str(path))
    runsc.close()
    return runsc.sha256, runsc.version


def test_a_later_session_asks_nothing(
    good: Path, asked: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second session has the digest and the features of the first."""
    settle(monkeypatch)
    assert find(good) == find(good)
    assert asked.call_count == 1


def test_answers_where_a_sandbox_may_have_written_are_not_used(
    good: Path, asked: Mock, monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    """At the folder, above or below it."""
    settle(monkeypatch)
    find(good)
    asked.reset_mock()
    for written in (base, base.parents[2], base / "some.json"):
        monkeypatch.setattr(private, "written", {os.path.realpath(written)})
        find(good)
        asked.assert_called_once()
        asked.reset_mock()
    monkeypatch.setattr(private, "written", {str(base.parent / "other")})
    find(good)
    asked.assert_not_called()


def test_a_file_that_has_just_changed_is_not_kept(good: Path, asked: Mock, base: Path) -> None:
    """A binary whose next change could have the same ctime is asked by each session."""
    find(good)
    assert not base.exists() or os.listdir(base) == []
    find(good)
    assert asked.call_count == 2


def test_a_changed_file_is_asked_again(
    fake_runsc: FakeRunsc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another binary at the same path has its own digest and version, with the old times too."""
    settle(monkeypatch)
    path = fake_runsc()
    other = fake_runsc(version='puts("runsc version release-20260817.0")')
    digest, version = find(path)
    assert version == "20240729.0"
    before = path.stat()
    other.rename(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    new_digest, new_version = find(path)
    assert new_version == "20260817.0"
    assert new_digest != digest


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", "[" * 5000, '["a", "b"]', json.dumps(["0" * 64, 1, 2, 3, 4])]
)
def test_a_damaged_note_is_none(
    good: Path, asked: Mock, base: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note that is no list of texts is not used, and is written anew."""
    settle(monkeypatch)
    found = find(good)
    (note,) = base.iterdir()
    whole = note.read_text()
    note.write_text(text)
    assert find(good) == found
    assert asked.call_count == 2
    assert note.read_text() == whole


def test_a_failure_is_not_kept(fake_runsc: FakeRunsc, base: Path) -> None:
    """A binary that does not answer as runsc does is asked again."""
    path = fake_runsc(version='puts("Hello")')
    for _ in range(2):
        with pytest.raises(Exception, match="does not answer as runsc does"):
            find(path)
    assert not base.exists() or os.listdir(base) == []


def test_without_a_folder_each_session_asks(
    good: Path, asked: Mock, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache folder that cannot be trusted is no error of the search."""
    settle(monkeypatch)
    base.mkdir(parents=True)
    base.chmod(0o777)
    find(good)
    find(good)
    assert asked.call_count == 2
    assert os.listdir(base) == []


def test_answers_of_an_earlier_boot_are_removed(
    fake_runsc: FakeRunsc, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answers of a boot replace those of the boots before."""
    settle(monkeypatch)
    find(fake_runsc())
    (old,) = os.listdir(base)
    monkeypatch.setattr(answers, "boot_id", lambda: "0" * 36)
    find(fake_runsc())
    (new,) = os.listdir(base)
    assert new != old


@pytest.mark.parametrize("kind", ["owner", "link", "fifo"])
def test_what_is_no_file_of_this_user_is_not_read(
    good: Path, asked: Mock, base: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A symlink is not followed, a FIFO does not block, and another user decides nothing."""
    settle(monkeypatch)
    find(good)
    (kept,) = base.iterdir()
    if kind == "owner":
        if os.geteuid() != 0:
            pytest.skip("needs root: a file of another owner")
        os.chown(kept, 12345, 12345)
    else:
        kept.rename(base.parent / "kept")
        os.mkfifo(kept) if kind == "fifo" else kept.symlink_to(base.parent / "kept")
    find(good)
    assert asked.call_count == 2


def test_what_cannot_be_written_leaves_nothing(
    good: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves no file."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    settle(monkeypatch)
    monkeypatch.setattr(os, "replace", refuse)
    find(good)
    assert os.listdir(base) == []


def test_nothing_is_kept_where_the_boot_has_no_name(
    good: Path, asked: Mock, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the name of the boot, answers would be valid for ever."""

    def refuse() -> str:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    settle(monkeypatch)
    monkeypatch.setattr(answers, "boot_id", refuse)
    for _ in range(2):
        find(good)
    assert asked.call_count == 2
    assert not base.exists() or os.listdir(base) == []
