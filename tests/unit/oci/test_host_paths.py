import errno
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pytest_gvisor.base.errors import LaunchError, UsageError
from pytest_gvisor.oci import host_paths
from pytest_gvisor.oci.host_paths import canonical, executed
from pytest_gvisor.oci.mounts import bind
from pytest_gvisor.programs.paths import caches
from pytest_gvisor.sessions import private


@pytest.fixture(autouse=True)
def projects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The root folders, none at first; each test stands in a folder of its own."""
    noted: list[str] = []
    monkeypatch.setattr(host_paths, "projects", noted)
    monkeypatch.setattr(host_paths, "_planted", set())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return noted


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder with a file, and a link to the folder: data on another disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/file").touch()
    (tmp_path / "data").symlink_to("disk")
    return tmp_path


def test_a_link_above_is_followed(disk: Path) -> None:
    """A home folder or data on another disk keep their names, and `..` leaves the link's target."""
    assert canonical(f"{disk}/data/file") == f"{disk}/disk/file"
    (disk / "far").symlink_to(disk / "disk")
    assert canonical(f"{disk}/far/../data/./file") == f"{disk}/disk/file"
    assert canonical("../data") == f"{disk}/disk"
    assert canonical("/..") == "/"


@pytest.mark.parametrize("where", ["here", "project", "written"])
@pytest.mark.parametrize("name", ["link", "folder/link", "link/below", "folder/../link"])
def test_no_link_is_followed_where_one_may_be_planted(
    tmp_path: Path, projects: list[str], where: str, name: str
) -> None:
    """The current folder, a project and what a sandbox wrote: the error names link and target."""
    top = tmp_path / where
    (top / "folder").mkdir(parents=True)
    (tmp_path / "secret/below").mkdir(parents=True)
    projects.append(str(tmp_path / "project"))
    host_paths.note_writable(str(tmp_path / "written"))
    for link in ("link", "folder/link"):
        (top / link).symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match=r"(?s)/link. is a link to .*/secret.*follow=True"):
        bind(top / name, "/data")
    assert bind(top / name, "/data", follow=True).source.startswith(f"{tmp_path}/secret")
    assert canonical(f"{top}/folder") == f"{top}/folder"


def test_a_link_into_a_noted_folder_is_followed_up_to_there(disk: Path) -> None:
    """The link itself lies elsewhere; a second one below the folder is refused."""
    host_paths.note_writable(str(disk / "disk"))
    assert canonical(f"{disk}/data/file") == f"{disk}/disk/file"
    (disk / "disk/inner").symlink_to("file")
    with pytest.raises(UsageError, match=r"inner. is a link to"):
        canonical(f"{disk}/data/inner")


def test_a_link_of_another_user_is_refused(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names its owner; where only root and this user can put a link, any is followed."""
    if os.geteuid() == 0:
        os.lchown(disk / "data", 65534, 65534)
        disk.chmod(0o1777)
    else:  # this user's link and folder are another one's to user 1
        monkeypatch.setattr(os, "geteuid", lambda: 1)
    owner = os.lstat(disk / "data").st_uid
    with pytest.raises(UsageError, match=f"link to 'disk', and uid {owner} has put it there"):
        canonical(f"{disk}/data/file")
    assert canonical(f"{disk}/data/file", follow=True) == f"{disk}/disk/file"
    assert canonical(f"{disk}/disk/file") == f"{disk}/disk/file"
    if os.geteuid() == 0:
        disk.chmod(0o755)
        assert canonical(f"{disk}/data") == f"{disk}/disk"


def test_links_that_go_round_end(tmp_path: Path) -> None:
    """The kernel follows forty, and so does this."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        canonical(f"{tmp_path}/a")
    with pytest.raises(UsageError, match="cannot be used: Too many levels"):
        bind(tmp_path / "a", "/data")


def test_where_the_current_folder_is_the_root_its_links_are_followed(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or no path of the host could be named from there."""
    monkeypatch.chdir("/")
    assert canonical(f"{disk}/data") == f"{disk}/disk"


def test_what_the_host_executes_is_not_to_be_written(
    tmp_path: Path, projects: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project, git's folder, imports, the interpreter and this package's own: at or above."""
    (tmp_path / "top/project/out").mkdir(parents=True)
    (tmp_path / "imports/below").mkdir(parents=True)
    (tmp_path / "clone/.git/hooks").mkdir(parents=True)
    projects.append(str(tmp_path / "top/project"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "imports")])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = caches("images-2")
    Path(images).mkdir(parents=True)
    refused = [
        "top", "top/project", "imports", "clone", "clone/.git", "clone/.git/hooks", "cache",
        images, sys.prefix, os.path.join(sys.prefix, "bin"),
    ]  # fmt: skip
    for name in refused:
        with pytest.raises(UsageError, match="dangerous=True"):
            bind(tmp_path / name, "/data", readonly=False)
        assert executed(bind(tmp_path / name, "/data", readonly=False, dangerous=True).source)
        bind(tmp_path / name, "/data")
    for name in ("top/project/out", "imports/below"):
        bind(tmp_path / name, "/data", readonly=False)


def test_no_folder_that_cannot_be_looked_into_is_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where descriptors are short, a hard link to a module of the host would not be found."""
    (tmp_path / "data/deep").mkdir(parents=True)
    imported = ModuleType("twin")
    imported.__file__ = str(tmp_path / "twin.py")
    (tmp_path / "twin.py").touch()
    (tmp_path / "data/deep/other").hardlink_to(imported.__file__)
    monkeypatch.setitem(sys.modules, "twin", imported)
    assert "another name" in executed(str(tmp_path / "data"))
    scan = os.scandir

    def refused(path: str) -> object:
        if path.endswith("deep"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(LaunchError, match="cannot look into"):
        executed(str(tmp_path / "data"))


def test_what_a_run_may_write_is_noted_while_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links there are not followed afterwards either."""
    source = str(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to("/usr")
    monkeypatch.setattr(private, "written", set())
    with host_paths.writing([source]), host_paths.writing([source]):
        assert host_paths.written_now == [source, source]
    assert host_paths.written_now == []
    assert private.written == {source}
    with pytest.raises(UsageError, match="is a link to '/usr'"):
        canonical(f"{source}/link")


def test_of_an_environment_what_is_temporary_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tox and nox have pytest's base temp in it; its programs and packages are refused."""
    for name in ("bin", "lib/python3", "tmp/test_it0"):
        (tmp_path / "env" / name).mkdir(parents=True)
    (tmp_path / "env/pyvenv.cfg").touch()
    for running in (sys.prefix, str(tmp_path / "env")):
        monkeypatch.setattr(sys, "prefix", running)
        bind(tmp_path / "env/tmp/test_it0", "/data", readonly=False)
        for name in ("", "bin", "lib/python3", "pyvenv.cfg"):
            with pytest.raises(UsageError, match="a Python that the host runs"):
                bind(tmp_path / "env" / name, "/data", readonly=False)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "code"))
    (tmp_path / "code/below").mkdir(parents=True)
    with pytest.raises(UsageError, match="byte code"):
        bind(tmp_path / "code/below", "/data", readonly=False)
