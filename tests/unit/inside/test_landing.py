"""Files from inside on their way to a path of the host, where something else may be."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_gvisor.inside import landing
from pytest_gvisor.programs import linux

Land = Callable[..., bool]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder below which everything is to stay."""
    made = tmp_path / "folder"
    made.mkdir()
    return made


@pytest.fixture
def land(folder: Path, tmp_path: Path) -> Iterator[Land]:
    """Write a text to a path below the folder."""
    (tmp_path / "spool").write_bytes(b"...new text...")
    fd = os.open(tmp_path / "spool", os.O_RDONLY)

    def write(path: str, size: int = 8) -> bool:
        return landing.land(str(folder), path, fd, 3, size)

    yield write
    os.close(fd)


def test_a_file_is_new_whole_and_not_executable(land: Land, folder: Path) -> None:
    """Missing folders are made; the mode is 0666 less the umask, whatever was there."""
    before = os.umask(0o027)
    try:
        assert land("a/b/c.txt")
        (folder / "run").write_text("old")
        (folder / "run").chmod(0o755)
        os.link(folder / "run", folder / "other")
        assert land("run")
    finally:
        os.umask(before)
    assert (folder / "a/b/c.txt").read_text() == (folder / "run").read_text() == "new text"
    assert (folder / "a/b/c.txt").stat().st_mode & 0o7777 == 0o640
    assert (folder / "run").stat().st_mode & 0o7777 == 0o640
    assert (folder / "other").read_text() == "old"


def test_a_file_with_the_same_content_is_left_alone(land: Land, folder: Path) -> None:
    """Its owner, mode and times stay as they are."""
    (folder / "same").write_text("new text")
    os.utime(folder / "same", (1, 1))
    assert not land("same")
    assert (folder / "same").stat().st_mtime == 1
    (folder / "same").write_text("new mess")
    assert land("same")


@pytest.mark.parametrize("what", ["link", "dangling", "fifo", "folder"])
def test_nothing_but_a_regular_file_is_replaced(land: Land, folder: Path, what: str) -> None:
    """A link, a FIFO or a folder of the host stays, and what a link leads to is not touched."""
    target = folder.parent / "secret"
    target.write_text("secret")
    path = folder / "x.txt"
    if what == "link":
        path.symlink_to(target)
    elif what == "dangling":
        path.symlink_to(folder.parent / "made")
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    before = path.lstat()
    with pytest.raises(OSError, match="no regular file"):
        land("x.txt")
    after = path.lstat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert target.read_text() == "secret"
    assert sorted(os.listdir(folder.parent)) == ["folder", "secret", "spool"]


@pytest.mark.parametrize("path", ["link/x.txt", "link/new/x.txt", "../x.txt", "a/../../x", "/x"])
def test_no_path_leads_out_of_the_folder(land: Land, folder: Path, path: str) -> None:
    """A folder on the way that is a link is an error, and so is a way up."""
    outside = folder.parent / "outside"
    outside.mkdir()
    (folder / "link").symlink_to(outside)
    with pytest.raises(OSError, match=r"openat2|no regular file"):
        land(path)
    assert list(outside.iterdir()) == []
    assert sorted(os.listdir(folder.parent)) == ["folder", "outside", "spool"]


def test_a_folder_that_was_removed_meanwhile_is_made_again(land: Land, folder: Path) -> None:
    """The files of a test do not depend on what else its host does."""
    folder.rmdir()
    assert land("a/x.txt")
    assert (folder / "a/x.txt").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EXDEV, errno.EACCES])
@pytest.mark.parametrize("call", ["write", "rename"])
def test_an_error_leaves_the_old_file_and_no_other(
    land: Land, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    """A full disk, or a mount point at the file's place, costs the new content alone."""
    (folder / "x.txt").write_text("old")

    def fail(*_arguments: object, **_more: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        land("x.txt")
    assert os.listdir(folder) == ["x.txt"]
    assert (folder / "x.txt").read_text() == "old"


def test_a_file_system_without_unnamed_files_works(
    land: Land, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file then has a name of its own until it is whole."""
    real = os.open

    def without(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", without)
    assert land("x.txt")
    assert os.listdir(folder) == ["x.txt"]
    assert (folder / "x.txt").read_text() == "new text"


def test_a_kernel_without_openat2_is_an_error(
    land: Land, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is written in a less careful way."""

    def missing(*_arguments: object) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented in openat2")

    monkeypatch.setattr(linux, "openat2", missing)
    with pytest.raises(OSError, match="openat2"):
        land("x.txt")
    assert os.listdir(folder) == []


def test_kept_content_that_is_gone_is_an_error(land: Land, folder: Path) -> None:
    """Half a file is none."""
    with pytest.raises(OSError, match="gone"):
        land("x.txt", 1000)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("what", ["nothing", "file", "link", "fifo"])
def test_what_is_added_goes_to_a_regular_file(folder: Path, tmp_path: Path, what: str) -> None:
    """A log of the host's goes on; nothing else is written to."""
    (tmp_path / "spool").write_bytes(b"...new text...")
    target = tmp_path / "secret"
    target.write_text("secret")
    path = folder / "it.log"
    if what == "file":
        path.write_text("old ")
    elif what == "link":
        path.symlink_to(target)
    elif what == "fifo":
        os.mkfifo(path)
    fd = os.open(tmp_path / "spool", os.O_RDONLY)
    try:
        if what in ("link", "fifo"):
            with pytest.raises(OSError, match=r"openat2"):
                landing.append(str(folder), "it.log", fd, 3, 8)
        else:
            landing.append(str(folder), "it.log", fd, 3, 8)
            assert path.read_text() == ("old new text" if what == "file" else "new text")
    finally:
        os.close(fd)
    assert target.read_text() == "secret"
