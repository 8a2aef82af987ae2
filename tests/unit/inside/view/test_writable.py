"""The folders of ``--gvisor-writable`` that the host would import, collect or execute from."""

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.inside.view import visible, writable
from pytest_gvisor.oci import host_paths, packages
from pytest_gvisor.programs import leftovers
from pytest_gvisor.programs.proc import IdRange
from pytest_gvisor.sessions import places


@pytest.fixture(autouse=True)
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root folder of a project, with an ini file, data folders, and a package."""
    monkeypatch.setattr(host_paths, "projects", [str(pytester.path)])
    monkeypatch.setattr(host_paths, "_planted", set())
    monkeypatch.setattr(writable, "harmful", lambda _folder: "")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in {"", "."}])
    for name in ("build/data", "build/lib", "out", "src/pkg/data", "tests/data"):
        (pytester.path / name).mkdir(parents=True)
    (pytester.path / "src/pkg/__init__.py").touch()
    pytester.makeini("[pytest]\n")
    return pytester.path


def check(pytester: pytest.Pytester, *folders: str, args: Any = (), items: Any = ()) -> None:
    """Check these folders, relative to the project, as the session does."""
    given = [f"--gvisor-writable={folder}" for folder in folders]
    writable.check(pytester.parseconfig(*given, *args), items)


@pytest.mark.parametrize("folder", ["build/data", "build/missing", "build", ".cache/data"])
def test_a_folder_that_pytest_does_not_collect_from_is_fine(
    pytester: pytest.Pytester, folder: str
) -> None:
    """By the ini key norecursedirs, `build` is none, and what begins with a dot; or it is none yet.

    A folder beside the project is fine too, and the same one twice.
    """
    (pytester.path / ".cache/data").mkdir(parents=True)
    check(pytester, folder, folder)
    beside = pytester.path.parent / f"{pytester.path.name}-data"
    beside.mkdir()
    check(pytester, str(beside))


@pytest.mark.parametrize("folder", ["out", "src/pkg/data", "tests", "tests/data"])
@pytest.mark.parametrize("args", [(), ("src",)])
def test_no_folder_that_pytest_collects_from_is_written(
    pytester: pytest.Pytester, folder: str, args: tuple[str, ...]
) -> None:
    """A test would leave tests for the next session, whatever the arguments of this one are."""
    with pytest.raises(UsageError, match=r"(?s)pytest collects.*=build/data"):
        check(pytester, folder, args=args)


@pytest.mark.parametrize("key", ["testpaths = tests", "norecursedirs = o*"])
def test_the_ini_file_says_where_pytest_collects(pytester: pytest.Pytester, key: str) -> None:
    """A folder beside `testpaths` is fine, unless an argument or a test's file lies there."""
    pytester.makeini(f"[pytest]\n{key}\n")
    check(pytester, "out")
    if "testpaths" in key:
        (pytester.path / "out/test_it.py").touch()
        for args in ([pytester.path / "out/test_it.py::test_it"], ["out"]):
            with pytest.raises(UsageError, match="pytest collects"):
                check(pytester, "out", args=args)
        item = types.SimpleNamespace(path=pytester.path / "out/test_it.py")
        with pytest.raises(UsageError, match="pytest collects"):
            check(pytester, "out", items=[item])


@pytest.mark.parametrize(
    ("entry", "folder", "reason"),
    [
        ("build/lib", "build", "imports"),
        ("build/lib", "build/lib", "imports"),
        ("src", "src/pkg", "imported as pkg"),
        ("src", "src/pkg/data", "imported as pkg.data"),
        ("", "src/pkg/data", "imported as src.pkg.data"),
        ("", "json", "imported as json"),
        ("", "pytest", "imported as pytest"),
        ("", "generated", "imported as generated"),
        ("", "build/generated", "imported as build.generated"),
        ("src", "src/pkg.egg-info", "imported as pkg.egg-info"),
        ("src", "src/pkg.egg-info/deep", "imported as pkg.egg-info"),
        ("", "elsewhere", "imported as elsewhere"),
        ("", "out/deep", ""),
        ("", "build/data", ""),
        ("", "build/lib-1", ""),
        ("", "out", ""),
        ("src", "out", ""),
    ],
)
def test_no_folder_is_written_from_which_the_host_can_import(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, entry: str, folder: str, reason: str
) -> None:
    """By a name for which there is code, or by the name of another module."""
    pytester.makeini("[pytest]\nnorecursedirs = *\n")
    for name in ("json", "pytest", "generated/deep", "build/generated", "build/lib-1"):
        (pytester.path / name).mkdir(parents=True)
    for name in ("generated/deep", "build/generated", "build/lib-1", "."):
        (pytester.path / name / "made.py").touch()
    for name in ("elsewhere", "out/deep", "src/pkg.egg-info/deep", "others"):
        (pytester.path / name).mkdir(parents=True)
    (pytester.path / "others/elsewhere.py").touch()
    monkeypatch.syspath_prepend(pytester.path / "others")
    monkeypatch.syspath_prepend(pytester.path / entry)
    if not reason:
        return check(pytester, folder)
    with pytest.raises(UsageError, match=reason):
        check(pytester, folder)
    return None


def test_no_folder_of_an_imported_module_or_package_is_written(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way it was found: a conftest, byte code, an editable package or what lies in it."""
    module = types.ModuleType("found_by_some_finder")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for attribute in ("__file__", "__cached__"):
        monkeypatch.setattr(module, attribute, f"{pytester.path}/build/lib/m.py", raising=False)
        with pytest.raises(UsageError, match="this pytest has imported"):
            check(pytester, "build/lib")
        monkeypatch.setattr(module, attribute, None)
    monkeypatch.setattr(packages, "found", lambda: [f"{pytester.path}/build/lib"])
    (pytester.path / "build/lib/data").mkdir()
    for folder in ("build", "build/lib", "build/lib/data"):
        with pytest.raises(UsageError, match=r"(?i)package.*the host imports"):
            check(pytester, folder)
    check(pytester, "build/data")


@pytest.mark.parametrize(
    "name",
    [".", ".git", ".git/hooks", ".hg", "build/clone", "build", "build/venv/bin", "build/path"],
)
def test_no_folder_is_written_that_the_host_obeys(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The project, version control, virtual environments and folders of PATH, also deep below."""
    for made in (".git/hooks", ".hg", "build/clone/deep/.git", "build/venv/bin", "build/path/bin"):
        (pytester.path / made).mkdir(parents=True)
    (pytester.path / "build/venv/pyvenv.cfg").touch()
    (pytester.path / "build/venv/tmp").mkdir()
    monkeypatch.setenv("PATH", f"{pytester.path}/build/path/bin:{os.environ['PATH']}")
    with pytest.raises(UsageError, match=r"holds|lies in"):
        check(pytester, name)
    check(pytester, "build/venv/tmp")  # tox and nox have their temporary folders there


@pytest.mark.parametrize(
    "option",
    ["--junitxml=build/data/r.xml", "--log-file=build/data/log", "--basetemp=build/data",
     "--gvisor-report=build/data/r.html", "-o log_file=build/data/log"],
)  # fmt: skip
def test_the_host_writes_no_file_in_a_writable_folder(
    pytester: pytest.Pytester, option: str
) -> None:
    """A test could put a link in the place of a report, and the host would write to its target."""
    with pytest.raises(UsageError, match="would write through a test's link"):
        check(pytester, "build/data", args=option.split())
    check(pytester, "build/lib", args=[*option.split(), "--ignore=build/lib", "-kdata"])


def test_a_folder_that_is_not_there_yet_is_refused_by_its_place(pytester: pytest.Pytester) -> None:
    """A fixture of the host may make it before the first test inside."""
    with pytest.raises(UsageError, match="pytest collects"):
        check(pytester, "later")
    with pytest.raises(UsageError, match="one lies in the other"):
        check(pytester, "build/later", "build/later/deep")


def test_no_two_writable_folders_lie_in_each_other(pytester: pytest.Pytester) -> None:
    """A test could put a link in the place of the inner one, whichever is given first."""
    for folders in (("build", "build/data"), ("build/data", "build")):
        with pytest.raises(UsageError, match="one lies in the other"):
            check(pytester, *folders)
    with pytest.raises(UsageError, match="build/data' is writable too"):
        check(pytester, "build/data", "build/lib", "build")
    check(pytester, "build/data", "build/lib")


def test_no_link_in_the_project_leads_to_a_writable_folder(pytester: pytest.Pytester) -> None:
    """A test of an earlier session may have put it there; above the project links are followed."""
    (pytester.path / "build/link").symlink_to("/srv")
    with pytest.raises(UsageError, match=r"build/link. is a link to ./srv"):
        check(pytester, "build/link")
    above = pytester.path.parent / f"{pytester.path.name}-link"
    above.symlink_to(pytester.path)
    check(pytester, f"{above}/build/data")


def test_nothing_in_a_writable_folder_is_looked_up_to_be_shown(pytester: pytest.Pytester) -> None:
    """Tests see the folder anyway. In a later session, its links are no part of a glob."""
    (pytester.path / "build/data/link").symlink_to("/srv")
    (pytester.path / "build/data/file").touch()
    pytester.makeini("[pytest]\ngvisor_readable = build/*/*\n")
    shared = pytester.parseconfig("--gvisor-writable=build/data")
    assert visible.readable(shared) == {}
    assert [*visible.readable(pytester.parseconfig())] == [f"{pytester.path}/build/data/file"]


@pytest.mark.parametrize("name", ["link", "link/below", "inner"])
def test_a_readable_path_follows_a_link_of_the_project_no_farther_than_the_project(
    pytester: pytest.Pytester, name: str
) -> None:
    """A workload may have put it there. The error names the target; nothing of it is shown."""
    secret = pytester.path.parent / f"{pytester.path.name}-secret"
    (secret / "below").mkdir(parents=True)
    (pytester.path / "link").symlink_to(secret)
    (pytester.path / "inner").symlink_to("build")
    config = pytester.parseconfig(f"--gvisor-readable={name}")
    if name == "inner":
        assert visible.readable(config) == {}
        return
    with pytest.raises(UsageError, match=rf"(?s)--gvisor-readable.*{secret}.*Name the target"):
        visible.readable(config)


def test_a_readable_path_follows_a_link_above_the_project(pytester: pytest.Pytester) -> None:
    """Data on another disk keeps its name, and so does a glob below that name."""
    top = pytester.path.parent / f"{pytester.path.name}-top"
    (top / "disk").mkdir(parents=True)
    for name in ("a.json", "b.json"):
        (top / "disk" / name).touch()
    (top / "data").symlink_to("disk")
    (top / "disk/c.json").symlink_to("/etc/hostname")
    found = visible.readable(pytester.parseconfig(f"--gvisor-readable={top}/data/*.json"))
    assert found == {f"{top}/data/{name}": f"{top}/disk/{name}" for name in ("a.json", "b.json")}
    assert visible.readable(pytester.parseconfig(f"--gvisor-readable={top}/data/a.json"))


MAPS = {"0 0 4294967295": False, "0 1000 1": True, "0 100000 65536": True}


@pytest.mark.parametrize("line", MAPS)
def test_who_is_no_root_outside_may_hand_out_any_folder(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """Root in a user namespace leaves files of the user that it is on the host."""
    monkeypatch.setattr(places, "id_map", lambda: (IdRange(*map(int, line.split())),))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(writable, "harmful", lambda folder: folder)
    folder = str(pytester.path / "build/data")
    if MAPS[line]:
        check(pytester, folder)
        assert [mount.source for mount in writable.mounts([folder])] == [folder]
    else:
        for ask in (lambda: check(pytester, folder), lambda: writable.mounts([folder])):
            with pytest.raises(UsageError, match="set-uid"):
                ask()


def test_a_folder_that_is_not_there_yet_is_refused_when_it_is_needed() -> None:
    """The start of the session passes it over; the first sandbox does not."""
    with pytest.raises(UsageError, match="cannot mount"):
        writable.mounts(["build/missing"])


def test_the_ini_file_may_name_folders_at_any_depth(pytester: pytest.Pytester) -> None:
    """pytest reads `testpaths` so."""
    pytester.makeini("[pytest]\ntestpaths = **/checks\n")
    (pytester.path / "out/a/b/checks/data").mkdir(parents=True)
    with pytest.raises(UsageError, match="pytest collects"):
        check(pytester, "out/a/b/checks/data")
    check(pytester, "out/a/other")


def test_no_folder_is_written_that_may_hold_session_folders(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test could rewrite the bundles of other sessions."""
    base = str(pytester.path / "build/data/pytest-gvisor")
    monkeypatch.setattr(places, "session_bases", lambda: iter([base]))
    with pytest.raises(UsageError, match="holds session folders"):
        check(pytester, "build/data")


def test_a_mount_is_writable_at_its_own_path(project: Path) -> None:
    """The same folder twice is one mount."""
    folder = str(project / "build/data")
    (mount,) = writable.mounts([folder, folder])
    assert (mount.source, mount.destination) == (folder, folder)
    assert "rw" in mount.options


def test_the_mount_that_is_harmful_is_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder itself is named once."""
    monkeypatch.setattr(places, "outer_uid", lambda: 0)
    folder = str(pytester.path / "build/data")
    for point, text in ((folder, "file system is not"), (f"{folder}/x", "(its mount ")):
        monkeypatch.setattr(writable, "harmful", lambda _folder, point=point: point)
        with pytest.raises(UsageError) as caught:
            writable.mounts([folder])
        assert text in caught.value.message


@pytest.mark.parametrize(
    ("flags", "harmful"),
    [
        (os.ST_NOSUID | os.ST_NODEV, False),
        (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC, False),
        (os.ST_NOSUID, True),
        (os.ST_NODEV | os.ST_RDONLY, True),
        (0, True),
    ],
)
def test_a_folder_is_harmless_where_each_mount_has_nosuid_and_nodev(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, *, harmful: bool
) -> None:
    """A mount below it counts too."""
    monkeypatch.undo()
    below, best = f"{tmp_path}/below", os.ST_NOSUID | os.ST_NODEV
    monkeypatch.setattr(leftovers, "mount_points", lambda _folder: [below])
    for bad in (str(tmp_path), below):
        monkeypatch.setattr(
            os,
            "statvfs",
            lambda path, bad=bad: types.SimpleNamespace(f_flag=flags if path == bad else best),
        )
        assert writable.harmful(str(tmp_path)) == (bad if harmful else "")


def test_a_folder_that_cannot_be_asked_is_harmful(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system with unknown options counts as harmful."""
    monkeypatch.undo()
    assert writable.harmful(str(tmp_path / "missing")) == str(tmp_path / "missing")
