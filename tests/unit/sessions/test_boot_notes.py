"""Notes for later sessions: for which boot and owner they hold, and how long they stay."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import pytest

from pytest_gvisor.cli import sweep
from pytest_gvisor.sessions import boot_notes, session_folder
from pytest_gvisor.sessions.boot_notes import Note

BOOT = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of this test's own, on a machine that has booted once."""
    monkeypatch.setattr(boot_notes, "boot_id", lambda: BOOT)
    return tmp_path / "base"


@pytest.fixture
def note(base: Path) -> Note:
    """A note in that folder."""
    return Note(folder=str(base), kind="v", digest="a" * 64, name="kvm")


def test_a_note_is_found_under_its_own_name(note: Note) -> None:
    """A note of another kind, digest or name is another note."""
    note.write("text")
    assert note.read() == "text"
    for change in ({"kind": "a"}, {"digest": "b" * 64}, {"name": "ptrace"}):
        assert dataclasses.replace(note, **change).read() is None
    note.remove()
    assert note.read() is None


def test_a_note_is_of_one_boot(monkeypatch: pytest.MonkeyPatch, base: Path, note: Note) -> None:
    """A note is invalid after the next boot, and a sweep removes it."""
    note.write("text")
    (kept,) = base.iterdir()
    unfinished = Path(f"{kept}.0123abcd")
    for other in (unfinished, base / "v-mine", base / "s-0123456789ab.json"):
        other.touch()
    monkeypatch.setattr(boot_notes, "boot_id", lambda: BOOT.replace("1", "6"))
    assert note.read() is None
    boot_notes.sweep([str(base)])
    assert sorted(path.name for path in base.iterdir()) == ["s-0123456789ab.json", "v-mine"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a file of another owner")
def test_a_note_of_another_owner_s_is_none(base: Path, note: Note) -> None:
    """A note of another user decides nothing."""
    note.write("text")
    (kept,) = base.iterdir()
    os.chown(kept, 12345, 12345)
    assert note.read() is None
    os.chown(kept, 0, 0)
    assert note.read() == "text"


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_note_that_is_no_file_is_none(base: Path, tmp_path: Path, kind: str, note: Note) -> None:
    """A symlink is not followed, and a FIFO does not block."""
    note.write("text")
    (kept,) = base.iterdir()
    kept.rename(tmp_path / "kept")
    if kind == "link":
        kept.symlink_to(tmp_path / "kept")
    else:
        os.mkfifo(kept)
    assert note.read() is None


def test_what_another_process_keeps_just_now_stays(base: Path, note: Note) -> None:
    """Notes of this boot are not swept."""
    note.write("text")
    boot_notes.sweep([str(base)])
    assert len(os.listdir(base)) == 1


def test_a_note_that_cannot_be_written_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, base: Path, note: Note
) -> None:
    """A full disk leaves no file."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    note.write("text")
    assert os.listdir(base) == []


def test_nothing_is_kept_where_the_boot_has_no_name(
    monkeypatch: pytest.MonkeyPatch, base: Path, note: Note
) -> None:
    """Without the name of the boot a note would be valid for ever."""
    monkeypatch.setattr(boot_notes, "boot_id", str)
    note.write("text")
    boot_notes.sweep([str(base)])
    assert note.read() is None
    assert not base.exists()


def test_the_sweep_at_a_shell_removes_those_of_earlier_boots_too(
    base: Path, monkeypatch: pytest.MonkeyPatch, note: Note
) -> None:
    """The sweep removes notes of earlier boots although no session asks for them again."""
    # Elsewhere are sessions and notes of other tests that run, and what they keep.
    monkeypatch.setattr(session_folder, "base_folder", lambda: str(base))
    monkeypatch.setattr(session_folder, "session_bases", lambda: iter(()))
    monkeypatch.setenv("XDG_CACHE_HOME", f"{base}-cache")
    note.write("text")
    monkeypatch.setattr(boot_notes, "boot_id", lambda: BOOT.replace("1", "6"))
    assert sweep.main([]) == 0
    assert [path.name for path in base.iterdir()] == [".lock"]
