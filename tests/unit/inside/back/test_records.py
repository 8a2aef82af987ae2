"""Records of files that came back, which only this user and this package have written."""

import contextlib
import errno
import os
import stat
import time
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


def test_a_folder_and_a_file_have_any_name(tmp_path: Path) -> None:
    """With bytes that are no text, too, and with ends of lines."""
    folder = noted(tmp_path / "new\nline \udcff", "a\nb \udcfe", "c")
    assert Records().digests(f"{folder}/a\nb \udcfe") == {"1"}
    assert Records().digests(f"{tmp_path}/new") == Records().digests(f"{folder}/a") == set()


def test_a_session_reads_the_files_of_no_other_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project without records costs the first path of each record, read once."""
    folders = [noted(tmp_path / name, "a") for name in ("one", "two")]
    read, made = Records._fields, Records()
    sizes: list[int] = []

    def count(self: Records, name: str, most: int) -> list[str]:
        sizes.append(most)
        return read(self, name, most)

    monkeypatch.setattr(Records, "_fields", count)
    for name in ("three/a", "three/b", "a"):
        assert made.digests(f"{tmp_path}/{name}") == set()
    assert sizes == [4096, 4096]
    for _ in range(2):
        assert made.digests(f"{folders[0]}/a") == {"1"}
    assert len(sizes) == 3


def test_a_recorded_file_is_left_out_by_each_way_to_it(tmp_path: Path) -> None:
    """Through a link to it, or to its folder; and a file without a record is collected."""
    folder = Path(noted(tmp_path / "out", "a"))
    (folder / "b").touch()
    (tmp_path / "file").symlink_to(folder / "a")
    (tmp_path / "folder").symlink_to(folder)
    left_out = records.LeftOut()._has
    for path in (folder, tmp_path / "folder"):
        assert left_out(path / "a")
        assert not left_out(path / "b")
        assert not left_out(path)
    assert left_out(tmp_path / "file")
    assert not left_out(Path("/"))


def test_a_record_is_read_field_by_field_and_by_no_link(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other fields are nothing, and neither is more than a record may have."""
    folder = noted(tmp_path / "out", "a")
    (record,) = cache.iterdir()
    fields = (b"\xff\n", b"1", b" 2", b"1 ", b"x" * 9000, b"2 a", b"")
    record.write_bytes(b"\0".join((folder.encode(), *fields)))
    assert Records().digests(f"{folder}/a") == {"2"}
    monkeypatch.setattr(records, "_MOST_BYTES", 9000)
    assert Records().digests(f"{folder}/a") == set()
    record.write_bytes(b"1 a\n")
    assert Records().names == {}
    record.write_text(f"{folder}\0001 a\0")
    assert Records().digests(f"{folder}/a") == {"1"}
    record.rename(tmp_path / "elsewhere")
    record.symlink_to(tmp_path / "elsewhere")
    assert Records().digests(f"{folder}/a") == set()
    record.unlink()
    os.mkfifo(record)
    assert Records().digests(f"{folder}/a") == set()


def test_a_record_is_at_most_as_long_as_one_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could read the end of a longer one."""
    folder = str(tmp_path / "out")
    monkeypatch.setattr(records, "_MOST_BYTES", len(f"{folder}_1 a_"))
    noted(tmp_path / "out", "a")
    assert Records().digests(f"{folder}/a") == {"1"}
    with pytest.raises(OSError, match="there are too many files below"):
        noted(tmp_path / "out", "a", digest="22")


def test_a_record_is_as_long_as_its_bytes_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is not ASCII has more of them than characters, and the last file counts too."""
    folder, names = tmp_path / "out", ("\u20ac" * 80, "test_b.txt")
    monkeypatch.setattr(records, "_MOST_BYTES", len(f"{folder}_") + sum(map(len, names)) + 6)
    with pytest.raises(OSError, match="there are too many files below"):
        noted(folder, *names)
    monkeypatch.setattr(records, "_MOST_BYTES", 160 + records._MOST_BYTES)
    assert records.LeftOut()._has(Path(noted(folder, *names), "test_b.txt"))


def test_a_part_of_a_record_hides_no_file_of_the_whole(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed while it writes one leaves a part, which may be listed later."""
    folder = noted(tmp_path / "out", "a", "test_b.txt")
    (record,) = cache.iterdir()
    listed = os.listdir
    with monkeypatch.context() as killed:
        killed.setattr(os, "replace", None)
        killed.setattr(private, "on_error", lambda *_: contextlib.nullcontext())
        with pytest.raises(TypeError):
            noted(tmp_path / "out", "c")
    (part,) = set(cache.iterdir()) - {record}
    part.write_bytes(record.read_bytes()[:-13])
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listed(path)))
    assert records.LeftOut()._has(Path(folder, "test_b.txt"))


def test_a_file_that_comes_back_while_others_are_collected_is_left_out(tmp_path: Path) -> None:
    """Another session has recorded it since this one read the records."""
    folder = Path(noted(tmp_path / "out", "a"))
    left_out = records.LeftOut()._has
    assert not left_out(folder / "b")
    time.sleep(0.02)  # for a later time of the folder
    noted(folder, "b")
    assert left_out(folder / "b")
    assert left_out(folder / "a")


def test_a_file_that_comes_back_within_the_same_tick_is_left_out(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of records has had this time before, when its files were read."""
    folder = noted(tmp_path / "out", "a.txt")
    monkeypatch.setattr(records, "_TICK", 10**12, raising=False)  # also on a busy machine
    now = time.time_ns()
    os.utime(cache, ns=(now, now))
    left_out = records.LeftOut()._has
    assert (left_out(Path(folder, "a.txt")), left_out(Path(folder, "b.txt"))) == (True, False)
    noted(tmp_path / "out", "b.txt")
    os.utime(cache, ns=(now, now))
    assert left_out(Path(folder, "b.txt"))


def test_the_records_are_where_they_were_when_pytest_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conftest.py may set another home, or a test."""
    folder = Path(noted(tmp_path / "out", "a"))
    left_out = records.LeftOut()._has
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert left_out(folder / "a")


def test_a_recorded_file_is_not_collected(pytester: pytest.Pytester) -> None:
    """pytest finds nothing in it, even if an argument names it."""
    pytester.makepyfile(test_a="def test(): pass", test_b="def test(): pass")
    noted(pytester.path, "test_a.py")
    for arguments, passed in (((), 1), (("test_b.py",), 1), (("test_a.py",), 0)):
        ran = pytester.inline_run("-p", "no:cacheprovider", *arguments, plugins=[records.LeftOut()])
        ran.assertoutcome(passed=passed)


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


def test_no_record_counts_where_another_user_may_put_one(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a hard link to a file of this user's that all may write, they could hide any test."""
    path = Path(noted(tmp_path / "out", "a"), "a")
    cache.chmod(0o720)
    with pytest.raises(pytest.UsageError, match=r"cannot be read in .*: others may put files"):
        records.LeftOut()._has(path)
    cache.chmod(0o750)
    assert records.LeftOut()._has(path)
    fstat = os.fstat

    def another_s(fd: int) -> os.stat_result:
        found = [*fstat(fd)]
        found[stat.ST_UID] += stat.S_ISDIR(int(found[stat.ST_MODE]))
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", another_s)
    assert not records.LeftOut()._has(path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENFILE, errno.ESTALE])
@pytest.mark.parametrize("place", ["records.os.listdir", "records.Records._open"])
def test_a_record_that_cannot_be_read_lets_no_file_be_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    """The host would run what came back from inside; nobody knows whether this file did."""
    folder = noted(tmp_path / "out", "a.txt")

    def refused(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(f"pytest_gvisor.inside.back.{place}", refused)
        with pytest.raises(pytest.UsageError, match=f"cannot be read.*{os.strerror(number)}"):
            records.LeftOut()._has(Path(folder, "a.txt"))
    assert records.LeftOut()._has(Path(folder, "a.txt"))
