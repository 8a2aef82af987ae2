"""The folders of files from inside, and the way of a file below them, where others may be."""

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.inside.back import anchors
from pytest_gvisor.inside.back.anchors import Anchor, Anchors
from pytest_gvisor.programs import linux
from tests.mounts import masked

Land = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder below which everything is to stay."""
    made = tmp_path / "folder"
    made.mkdir()
    return made


@pytest.fixture
def anchor(folder: Path) -> Iterator[Anchor]:
    """The anchor of the folder, in a project beside it."""
    known = Anchors(str(folder.parent / "project"))
    found = known.find(str(folder))
    assert found is not None
    yield found
    known.close()


@pytest.fixture
def land(anchor: Anchor, tmp_path: Path) -> Iterator[Land]:
    """Write a text to a path below the folder."""
    (tmp_path / "spool").write_bytes(b"...new text...")
    fd = os.open(tmp_path / "spool", os.O_RDONLY)

    def write(path: str, size: int = 8, **options: bool) -> None:
        anchors.land(anchor, path, fd, 3, size, **options)

    yield write
    os.close(fd)


def test_a_file_is_new_whole_and_not_executable(land: Land, folder: Path) -> None:
    """Missing folders are made; the mode is 0666 less the umask, whatever was there."""
    with masked(0o027):
        land("a/b/c.txt")
        (folder / "run").write_text("old")
        (folder / "run").chmod(0o755)
        os.link(folder / "run", folder / "other")
        land("run")
    assert (folder / "a/b/c.txt").read_text() == (folder / "run").read_text() == "new text"
    assert (folder / "a/b/c.txt").stat().st_mode & 0o7777 == 0o640
    assert (folder / "run").stat().st_mode & 0o7777 == 0o640
    assert (folder / "other").read_text() == "old"


@pytest.mark.parametrize("what", ["link", "dangling", "fifo", "folder"])
def test_nothing_but_a_regular_file_has_a_digest(anchor: Anchor, folder: Path, what: str) -> None:
    """So a link, a FIFO or a folder of the host is not replaced."""
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
    with pytest.raises(OSError, match=r"no regular file|openat2"):
        anchors.found(anchor, "x.txt")
    after = path.lstat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert target.read_text() == "secret"


@pytest.mark.parametrize(
    "path",
    ["link/x.txt", "link/new/x.txt", "near/x.txt", "file/x.txt", "../x.txt", "a/../../x", "/x"],
)
def test_no_path_leads_out_of_the_folder(land: Land, folder: Path, path: str) -> None:
    """A link on the way is an error wherever it leads, and so is a file or a way up."""
    outside = folder.parent / "outside"
    outside.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "real").mkdir()
    (folder / "near").symlink_to("real")
    (folder / "file").touch()
    with pytest.raises(OSError, match=r"openat2|No such file"):
        land(path)
    assert [*outside.iterdir(), *(folder / "real").iterdir()] == []
    assert sorted(os.listdir(folder.parent)) == ["folder", "outside", "spool"]


def test_a_folder_that_was_removed_meanwhile_is_made_again(land: Land, folder: Path) -> None:
    """The files of a test do not depend on what else its host does."""
    folder.rmdir()
    land("a/x.txt")
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
    land("x.txt")
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


@pytest.mark.parametrize("what", ["nothing", "file", "link", "dangling", "fifo"])
def test_what_is_added_goes_to_a_regular_file(
    land: Land, folder: Path, tmp_path: Path, what: str
) -> None:
    """A log of the host's goes on; nothing else is written to."""
    target = tmp_path / "secret"
    target.write_text("secret")
    path = folder / "it.log"
    if what == "file":
        path.write_text("old ")
    elif what == "link":
        path.symlink_to(target)
    elif what == "dangling":
        path.symlink_to(tmp_path / "made")
    elif what == "fifo":
        os.mkfifo(path)
    if what in ("link", "dangling", "fifo"):
        with pytest.raises(OSError, match=r"openat2"):
            land("it.log", adds=True)
    else:
        land("it.log", adds=True)
        assert path.read_text() == ("old new text" if what == "file" else "new text")
    assert target.read_text() == "secret"
    assert not (tmp_path / "made").exists()


def test_only_a_file_that_may_have_come_from_inside_is_read(
    anchor: Anchor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger one has no digest, and so it is no file that came back."""
    monkeypatch.setattr(anchors, "MOST_BYTES", 4)
    for text, known in (("1234", True), ("12345", False)):
        (folder / "x.txt").write_text(text)
        digest, _ = anchors.found(anchor, "x.txt")
        assert (digest == hashlib.sha256(text.encode()).hexdigest()) is known
        assert ("too large" in digest) is not known


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that is reached by a link, with a folder that tests inside write."""
    real = tmp_path / "real"
    (real / "written/below").mkdir(parents=True)
    (real / "out").mkdir()
    (tmp_path / "project").symlink_to(real)
    return tmp_path / "project"


def test_a_project_that_a_link_leads_to_has_anchors(project: Path) -> None:
    """The link is followed once: what it is made into later does not matter."""
    known = Anchors(str(project))
    found = known.find(str(project / "out/new"))
    assert found is not None
    assert found.folder == str(project.resolve() / "out/new")
    project.unlink()
    project.symlink_to("/nowhere")
    assert known.find(str(project / "out/new")) is found
    assert anchors.found(found, "x") == ("", 0.0)
    assert found.project is None
    known.close()


@pytest.mark.parametrize("path", ["written", "written/below/x", "to_written/x", "to_below"])
def test_what_tests_inside_write_has_no_anchor(project: Path, path: str) -> None:
    """However the folder, the project or the path is spelled: what counts is which one it is."""
    (project / "to_written").symlink_to("written")
    (project / "to_below").symlink_to("written/below")
    (project / "written/out").symlink_to("../out")
    for spelled in (project, project.resolve()):
        known = Anchors(str(project), [str(spelled / "written")])
        assert known.find(str(project / path)) is None
        assert known.find(str(project / "written/out")) is None
        assert known.find(str(project.resolve() / "written/below")) is None
        known.close()


def test_a_link_within_the_project_is_followed_and_none_out_of_it(project: Path) -> None:
    """Links on the way to the project are the user's; those on any other way are refused."""
    (project / "current").symlink_to("out")
    (project / "away").symlink_to(project.parent)
    (project.parent / "elsewhere").symlink_to("/etc")
    (project.parent / "linked").symlink_to(project.parent)
    known = Anchors(f"{project.parent}/linked/project")
    for path, folder in {"project/current": "real/out", "x/y": "x/y"}.items():
        found = known.find(f"{project.parent}/linked/{path}")
        assert found is not None
        assert found.folder == str(project.parent / folder)
    for path in ("project/away/x", "elsewhere/x"):
        with pytest.raises(UsageError, match=r"a link leads from .*linked"):
            known.find(f"{project.parent}/linked/{path}")
    known.close()


def test_a_folder_that_became_a_link_gets_nothing(land: Land, folder: Path, tmp_path: Path) -> None:
    """The anchor is the folder above, and the kernel follows no link below it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    folder.rmdir()
    folder.symlink_to(outside)
    with pytest.raises(OSError, match="openat2"):
        land("x.txt")
    assert list(outside.iterdir()) == []


def test_the_project_is_known_from_a_folder_above_it(project: Path) -> None:
    """There, and in its own folder, tools look for settings."""
    known = Anchors(str(project))
    below = {}
    for path in (project, project.parent, project / "out", Path("/")):
        found = known.find(str(path))
        assert found is not None
        below[path] = found.project
    assert [*below.values()] == ["", "real", None, str(project.resolve()).lstrip("/")]
    known.close()
