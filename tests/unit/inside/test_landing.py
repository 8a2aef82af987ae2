"""Files from inside on their way to a path of the host, where something else may be."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from pytest_gvisor.inside import landing
from pytest_gvisor.inside.landing import Store, Tally, finish, show, take_worker
from pytest_gvisor.programs import linux
from tests.mounts import masked

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
    with masked(0o027):
        assert land("a/b/c.txt")
        (folder / "run").write_text("old")
        (folder / "run").chmod(0o755)
        os.link(folder / "run", folder / "other")
        assert land("run")
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
    monkeypatch.setattr(os, call, Mock(side_effect=OSError(number, os.strerror(number))))
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
    missing = OSError(errno.ENOSYS, "Function not implemented in openat2")
    monkeypatch.setattr(linux, "openat2", Mock(side_effect=missing))
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


class Reporter:
    """A terminal reporter that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write_line(self, line: str, **_markup: bool) -> None:
        """Keep a line."""
        self.lines.append(line)


def shown(*tallies: Tally, verbosity: int = 0) -> list[str]:
    """The lines for all of these."""
    config = cast("Any", SimpleNamespace(stash=pytest.Stash(), get_verbosity=lambda: verbosity))
    for tally in tallies:
        store = Store()
        store.tally = tally
        finish(cast("Any", SimpleNamespace(config=config, exitstatus=1)), store)
    reporter = Reporter()
    show(cast("Any", reporter), config)
    return reporter.lines


def test_names_are_for_those_who_ask() -> None:
    """Numbers are there by default, and errors always."""
    tally = Tally(
        written=["/a"], count=2, others=["/b"], more=3, whole=False, errors=["bad"], notes=["n"] * 9
    )
    lines = shown(tally)
    assert lines[:2] == [
        "gvisor: 2 files came back from inside",
        (
            "gvisor: at least 3 other files that tests wrote in the project stayed inside "
            "(gvisor_returns brings files back, -v names them)"
        ),
    ]
    assert lines[2:] == [
        *["gvisor: n"] * 5, "gvisor: 4 more such lines with -v", "gvisor: ERROR: bad",
    ]  # fmt: skip
    verbose = shown(tally, verbosity=1)
    assert {"gvisor:   /a", "gvisor:   /b", "gvisor:   and 1 more", "gvisor:   and 2 more"} < {
        *verbose
    }
    assert verbose.count("gvisor: n") == 9
    assert shown(tally, verbosity=-1)[0] == "gvisor: n"
    assert shown(Tally()) == shown() == []


def test_workers_that_wrote_different_files_are_an_error() -> None:
    """The session fails, and the error names both."""
    plugins: list[landing.Landing] = []
    manager = SimpleNamespace(register=plugins.append)
    config = cast(
        "Any",
        SimpleNamespace(stash=pytest.Stash(), get_verbosity=lambda: 0, pluginmanager=manager),
    )
    for worker, digest in {"gw0": "1", "gw1": "1", "gw2": "2"}.items():
        tally = Tally(digests={"/a": [digest, "test_it"]}, count=1, notes=["n"])
        take_worker(config, worker, {"gvisor_returned": dataclasses.asdict(tally)})
    assert len(plugins) == 1
    reporter = Reporter()
    show(cast("Any", reporter), config)
    assert reporter.lines[0] == "gvisor: 3 files came back from inside"
    assert reporter.lines[1:4] == ["gvisor: gw0: n", "gvisor: gw1: n", "gvisor: gw2: n"]
    assert reporter.lines[-1].endswith("from gw0: test_it and gw2: test_it")
    session: Any = SimpleNamespace(config=config, exitstatus=pytest.ExitCode.OK)
    finish(session, None)
    assert session.exitstatus == pytest.ExitCode.TESTS_FAILED
    session.exitstatus = pytest.ExitCode.INTERRUPTED
    finish(session, None)
    assert session.exitstatus == pytest.ExitCode.INTERRUPTED
