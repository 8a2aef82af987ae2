"""The files that a kept sandbox had read: which count, and which changes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gvisor.inside import kept_state
from pytest_gvisor.inside.visible import Shown
from pytest_gvisor.oci import skeleton


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a plugin, settings, tests and a package."""
    for name in ("plugin.py", "setup.cfg", "test_it.py", "data.txt", "notes.py"):
        (tmp_path / name).write_text("old")
    (tmp_path / "package").mkdir()
    (tmp_path / "package/inner.py").write_text("old")
    return tmp_path


@pytest.fixture
def state(project: Path) -> kept_state.State:
    """The state for a sandbox that has imported the plugin, in the form in which it is kept."""
    return state_of(project)


def state_of(project: Path, *folders: Path) -> kept_state.State:
    """The state for a sandbox with files in use in these folders."""
    files = [str(project / "plugin.py"), "/etc/shadow", "/proc/self/maps"]
    shown = Shown(paths=(str(project),), start=str(project))
    found = kept_state.of(files, [*map(str, folders)], shown, [str(project)])
    loaded: kept_state.State = json.loads(json.dumps(found))
    return loaded


def changed(state: kept_state.State) -> str:
    """Return the file or folder that has changed since."""
    return kept_state.changed(state, kept_state.again(state))


def test_only_what_is_shown_is_looked_at(state: kept_state.State, project: Path) -> None:
    """A sandbox cannot ask for the state of any file of the host."""
    assert str(project / "plugin.py") in state["files"]
    assert "/etc/shadow" not in state["files"]
    assert not any(name.startswith("/proc") for name in state["files"])
    assert changed(state) == ""


def rewrite(path: Path) -> None:
    """Write a file, and put its mtime back."""
    before = path.stat()
    path.write_text("NEW")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a plugin": (lambda folder: (folder / "plugin.py").write_text("new"), "plugin.py"),
    "a plugin of the same size and mtime": (
        lambda folder: rewrite(folder / "plugin.py"),
        "plugin.py",
    ),
    "a plugin that is gone": (lambda folder: (folder / "plugin.py").unlink(), "plugin.py"),
    "settings": (lambda folder: (folder / "setup.cfg").write_text("new"), "setup.cfg"),
    "new settings": (lambda folder: (folder / "tox.ini").touch(), ""),
    "a new module": (lambda folder: (folder / "json.py").touch(), ""),
    "a new package": (lambda folder: (folder / "email").mkdir(), ""),
    "an installed plugin": (lambda folder: (folder / "new-1.dist-info").mkdir(), ""),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_the_sandbox_may_have_read_counts(
    name: str, state: kept_state.State, project: Path
) -> None:
    """The file or folder is named."""
    change, where = CHANGES[name]
    change(project)
    assert changed(state) == str(project / where).rstrip("/")


@pytest.mark.parametrize(
    "name",
    ["test_it.py", "test_new.py", "it_test.py", "conftest.py", "data.txt", "notes.py", "new.txt",
     "package/inner.py", "__pycache__/a.pyc", ".coverage", "report.xml", "my-folder/file"],
)  # fmt: skip
def test_what_no_start_reads_does_not_count(
    name: str, state: kept_state.State, project: Path
) -> None:
    """Tests, conftest.py files and output change all the time."""
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text("new")
    assert changed(state) == ""


@pytest.mark.parametrize("name", ["package/other.txt", "other.txt"])
def test_names_in_a_folder_that_is_in_use_count(name: str, project: Path) -> None:
    """gVisor has kept them, and those of the folders above."""
    state = state_of(project, project / "package")
    (project / name).touch()
    assert changed(state) == str((project / name).parent)


def test_a_file_that_changed_since_the_start_is_named(
    state: kept_state.State, project: Path
) -> None:
    """Its old content may have been read. Nobody can set this time back."""
    moment = time.time_ns() + 10**9
    assert kept_state.since(state, moment) == ""
    os.utime(project / "plugin.py", (0, 0))
    found = kept_state.again(state)
    assert kept_state.since(found, time.time_ns()) == str(project / "plugin.py")


def test_a_file_system_that_counts_seconds_has_more_time() -> None:
    """Two changes within a second could look the same there."""
    second = 10**9
    state = {"files": {"/a": [1, 1, 5 * second, 5 * second], "/b": None}, "names": {}}
    assert kept_state.since(state, 6 * second) == "/a"
    assert kept_state.since(state, 8 * second) == ""
    state["files"]["/a"] = [1, 1, 5 * second, 5 * second + 1]
    assert kept_state.since(state, 6 * second) == ""


@pytest.mark.parametrize("value", [None, "/a", {"/a": 1}, [1], ["/a"] * 20_001])
def test_what_is_no_list_of_paths_is_refused(value: object) -> None:
    """A list from inside is short enough, and has texts alone."""
    assert kept_state.paths(value) is None


def test_paths_that_lead_elsewhere_are_left_out() -> None:
    """Relative ones, those with dots, and those with a null byte."""
    odd = ["/a/../b", "a", "/a/./b", "/a\0b", "socket:[1]", "//a"]
    assert kept_state.paths(["/a/b", *odd]) == ["/a/b"]


def test_the_files_of_the_root_count(
    monkeypatch: pytest.MonkeyPatch, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Copies use the /etc that was made for the first of them."""
    etc = tmp_path_factory.mktemp("etc")
    (etc / "services").write_text("old")
    monkeypatch.setattr(
        skeleton, "sources", lambda: [str(etc / "services"), str(etc / "protocols")]
    )
    before = state_of(project)
    assert changed(before) == ""
    (etc / "protocols").touch()
    assert changed(before) == str(etc / "protocols")
    (etc / "protocols").unlink()
    (etc / "services").write_text("new")
    assert changed(before) == str(etc / "services")
