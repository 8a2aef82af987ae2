"""Records of files that came back, which only this user and this package have written."""

from pathlib import Path

import pytest

from pytest_gvisor.base.errors import LaunchError
from pytest_gvisor.inside.back import landing, records
from pytest_gvisor.inside.back.landing import locked
from pytest_gvisor.inside.back.records import Records
from pytest_gvisor.sessions import private


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of records, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/pytest-gvisor/returned"


def noted(folder: Path, *names: str, digest: str = "1") -> str:
    """Record files, which are there, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked() as made:
        for name in names:
            (folder / name).touch()
            made.note(str(folder), name, digest)
        made.save(private.write)
    return str(folder)


def test_a_file_is_known_by_its_path_whatever_folder_it_was_recorded_of(tmp_path: Path) -> None:
    """The project, for instance, or one above it; then each of its digests counts."""
    folder = noted(tmp_path / "project/out", "a", "b c")
    noted(tmp_path, "project/out/a", digest="2")
    made = Records()
    assert made.digests(f"{folder}/a") == {"1", "2"}
    assert made.digests(f"{folder}/b c") == {"1"}
    assert made.digests(f"{folder}/c") == made.digests(folder) == made.digests("/") == set()


def test_a_file_that_is_gone_is_forgotten_with_the_next_one(tmp_path: Path) -> None:
    """A file that is about to come back is not."""
    folder = noted(tmp_path / "out", "kept", "gone", "again")
    for name in ("gone", "again"):
        (tmp_path / "out" / name).unlink()
    with locked() as made:
        made.note(folder, "again", "2")
        made.save(private.write)
    made = Records()
    assert made.digests(f"{folder}/kept") == {"1"}
    assert made.digests(f"{folder}/again") == {"2"}
    assert made.digests(f"{folder}/gone") == set()


def test_a_record_is_read_line_by_line_and_by_no_link(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other lines are nothing, and neither is more than a record may have."""
    folder = noted(tmp_path / "out", "a")
    (record,) = cache.iterdir()
    record.write_bytes(b"\xff\0\n1\n 2\n1  \n" + b"x" * 9000 + b"\n2 a\n")
    assert Records().digests(f"{folder}/a") == {"2"}
    monkeypatch.setattr(records, "_MOST_BYTES", 9000)
    assert Records().digests(f"{folder}/a") == set()
    with pytest.raises(OSError, match="too many files"):
        noted(tmp_path / "out", "x" * 200, digest="1" * 9000)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    record.rename(tmp_path / "elsewhere")
    record.symlink_to(tmp_path / "elsewhere")
    assert Records().digests(f"{folder}/a") == set()


def test_nobody_else_writes_records(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process waits, and the folder is this user's alone."""
    noted(tmp_path / "out", "a")
    assert cache.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(landing, "_PATIENCE", 0.0)
    with locked(), pytest.raises(TimeoutError, match="another process"), locked():
        pass
    cache.chmod(0o770)
    with pytest.raises(LaunchError, match="lets others in"), locked():
        pass
