"""Files that a failure names and that tests inside are not shown."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor.inside.view import shown_files
from pytest_gvisor.programs.paths import within
from pytest_gvisor.programs.proc import Mount

MISSING = "FileNotFoundError: [Errno 2] No such file or directory: {!r}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that tests inside see, beside a folder that they do not see."""
    for name in ("project", "data/deep", "main/.git/worktrees/one"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/file").touch()
    (tmp_path / "project/link").symlink_to("../data")
    return tmp_path / "project"


def told(project: Path, *texts: str) -> str:
    """The hint at the end of failures with these texts."""
    return shown_files.hint(texts, lambda path: within(path, str(project)), str(project))


@pytest.mark.parametrize("path", ["{0}/data/file", "../data/file"])
def test_a_file_of_the_host_is_named_with_the_option(project: Path, path: str) -> None:
    """A relative path is one from where pytest was started."""
    file = f"{project.parent}/data/file"
    assert told(project, MISSING.format(path.format(project.parent))) == (
        f"{file} is on the host, and is not shown to tests inside.\n"
        f"To show: --gvisor-readable={file} (or ini gvisor_readable)"
    )


@pytest.mark.parametrize(
    "text", ["man: can't open {}", "E   cannot load [{}]: status 2", 'config="{}"']
)
def test_the_text_around_a_file_does_not_matter(project: Path, text: str) -> None:
    """Each program has a message of its own."""
    file = f"{project.parent}/data/file"
    assert f"To show: --gvisor-readable={file} (" in told(project, text.format(file))


def test_lines_that_name_no_hidden_file_make_no_hint(project: Path) -> None:
    """A folder, a part of a longer name, and what a sandbox has itself."""
    folder = project.parent
    for path in (
        f"{folder}/data",
        f"x{folder}/data/file",
        "/etc/hosts",
        "/etc/passwd",
        "/dev/null",
    ):
        assert not told(project, f"looking at {path}")
    assert not told(project, f"looking at {folder}/data/nothing", "and at /etc/ssl/certs/x")


def test_a_link_out_of_the_project_is_named_with_its_target(project: Path) -> None:
    """The option is one for the target."""
    said = told(project, MISSING.format(f"{project}/link/file"))
    assert f"{project}/link is a link on the way to {project.parent}/data/file" in said
    assert f"--gvisor-readable={project.parent}/data/file (" in said


@pytest.mark.parametrize("name", ["module.py", "module"])
def test_a_module_in_the_folder_of_the_start_is_named(
    project: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``python -m pytest`` puts that folder on ``sys.path``, and it may be too wide to be shown."""
    start = project.parent
    (start / name).touch()
    monkeypatch.syspath_prepend(start)
    text = "E   ModuleNotFoundError: No module named 'module.part'"
    said = shown_files.hint([text], lambda _path: False, str(start))
    assert said.startswith(f"{start}/{name} is on the host")


def test_a_database_s_folder_is_named_and_not_its_file_too(project: Path) -> None:
    """sqlite makes files beside a database. Its message has no path, other lines may have one."""
    error, folder = "E   sqlite3.OperationalError: unable to open database file", project.parent
    for name in ("file", "new.db"):
        line = f'>   sqlite3.connect("{folder}/data/{name}")'
        option = f"To show: --gvisor-readable={folder}/data (or ini gvisor_readable)"
        assert told(project, f"{line}\n{error}").splitlines()[1:] == [option]
    for line in ("sqlite3.connect(path)", f"{project}/file", f"{folder}/none/new.db"):
        assert told(project, f"{line}\n{error}").endswith(
            "\nIf the database lies elsewhere: --gvisor-readable=FOLDER (or ini gvisor_readable)"
        )


def test_no_file_is_named_beside_its_folder(project: Path) -> None:
    """The option for the folder shows the file too."""
    folder = f"{project.parent}/data"
    said = told(project, MISSING.format(folder), f"man: can't open {folder}/file")
    assert said.splitlines()[1:] == [
        f"To show: --gvisor-readable={folder} (or ini gvisor_readable)"
    ]


def test_the_parts_of_all_paths_together_are_bounded(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links may lead to links without an end."""
    file = f"{project.parent}/data/file"
    for left, seen in ((0, True), (1, False)):
        monkeypatch.setattr(shown_files, "_MOST_PARTS", file.count("/") - left)
        assert bool(told(project, MISSING.format(file))) is seen


def test_a_git_folder_elsewhere_is_named_as_a_whole(project: Path) -> None:
    """Git needs all of it, and not the folder of a worktree alone."""
    said = told(project, f"fatal: not a git repository: {project.parent}/main/.git/worktrees/one")
    assert f"To show: --gvisor-readable={project.parent}/main/.git (" in said


def test_a_link_that_is_not_shown_itself_is_named(project: Path) -> None:
    """Its target may be shown, under another name."""
    (project.parent / "alias").symlink_to(project)
    (project / "file").touch()
    said = told(project, MISSING.format(f"{project.parent}/alias/file"))
    assert f"--gvisor-readable={project.parent}/alias/file (" in said


@pytest.mark.parametrize(
    "text",
    [
        MISSING.format("{0}/data/missing"), MISSING.format("{0}/project/missing"),
        MISSING.format("{0}/project/link/../project"), MISSING.format("/proc/self"),
        MISSING.format("/"), MISSING.format("\0"), MISSING.format("loop"),
        "No such file or directory",
    ],
)  # fmt: skip
def test_nothing_is_said_of_other_failures(project: Path, text: str) -> None:
    """The host has no such file, tests see it, or it cannot be shown."""
    (project / "loop").symlink_to("loop")
    assert told(project, text.format(project.parent)) == ""


def test_nothing_is_said_of_tmp_path(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host may have a file of the same name, from a run of its own."""
    file = f"{project.parent}/data/file"
    monkeypatch.setattr(shown_files, "_OWN", f"{project.parent}/")
    assert shown_files.hint([MISSING.format(file)], lambda _path: False, "/") == ""
    assert told(project, MISSING.format(file))


def test_what_is_said_is_bounded_and_escaped(project: Path) -> None:
    """A failure that names a thousand files is answered for five."""
    for number in range(100):
        (project.parent / f"data/\x1b{number}").touch()
    lines = [MISSING.format(f"{project.parent}/data/X{n}").replace("X", "\x1b") for n in range(100)]
    said = told(project, "\n".join(lines))
    assert said.count("--gvisor-readable") == 5
    assert "\x1b" not in said
    assert not told(project, lines[0].rjust(10_000))


@pytest.mark.parametrize(
    ("kind", "seen"), [("autofs", False), ("nfs4", False), ("of tomorrow", False), ("ext4", True)]
)
def test_nothing_is_looked_up_where_looking_has_an_effect(
    project: Path, monkeypatch: pytest.MonkeyPatch, kind: str, seen: bool
) -> None:
    """An automounter would mount what the path names, another machine may never answer.

    So a file system counts that this kernel is known to serve alone.
    """
    point = str(project.parent / "data")
    table = [Mount("0:1", "/", "/", "ext4", ""), Mount("0:2", "/", point, kind, "")]
    monkeypatch.setattr(shown_files, "mounts", lambda: table)
    looked: list[str] = []
    lstat = os.lstat

    def record(path: str) -> os.stat_result:
        looked.append(path)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", record)
    for path in (f"{point}/file", f"{project}/link/file"):
        assert bool(told(project, MISSING.format(path))) is seen
    told(project, f"see {point}")
    assert any(within(path, point) for path in looked) is seen


def test_a_mount_point_that_is_not_there_is_no_error(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another mount may hide it, and FUSE forbids one of another user."""
    point = f"{project.parent}/gone"
    table = [Mount("0:1", "/", "/", "ext4", ""), Mount("0:2", "/", point, "ext4", "")]
    monkeypatch.setattr(shown_files, "mounts", lambda: table)
    assert told(project, f"see {point}") == ""


def test_a_project_on_such_a_file_system_is_looked_up(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project is needed anyway, and a mount in an automounter's folder is there already."""
    auto = Mount("0:1", "/", str(project.parent.parent), "autofs", "")
    table = [
        auto,
        Mount("0:2", "/", str(project.parent), "ext4", ""),
        Mount("0:3", "/", str(project), "nfs", ""),
    ]
    monkeypatch.setattr(shown_files, "mounts", lambda: table)
    assert told(project, MISSING.format(f"{project}/link/file"))


def test_nothing_is_looked_up_on_what_is_mounted_below_a_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that serves it may hang, and no test needs it."""
    (project / "mnt").symlink_to("../data")
    table = [Mount("0:1", "/", "/", "ext4", ""), Mount("0:2", "/", f"{project}/mnt", "fuse.x", "")]
    monkeypatch.setattr(shown_files, "mounts", lambda: table)
    assert not told(project, MISSING.format(f"{project}/mnt/file"))
    assert told(project, MISSING.format(f"{project}/link/file"))


def test_there_is_an_end_to_links_and_to_paths(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test may leave links to links in a writable folder, and name any number of paths."""
    way = "../project/" * 100
    for number in range(30):
        (project / f"l{number}").symlink_to(f"{way}l{number + 1}")
    (project / "l30").symlink_to("../data/file")
    assert told(project, MISSING.format("l10"))
    looked: list[str] = []
    lstat = os.lstat

    def record(path: str) -> os.stat_result:
        looked.append(path)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", record)
    named = "\n".join(MISSING.format(f"l{number % 30}/{number}") for number in range(6_000))
    assert not told(project, *[named] * 20)
    assert len(looked) < 5000


def test_a_link_that_this_user_may_not_read_is_no_error(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a name that is too long, or that no file can have."""

    def refuse(path: str) -> str:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "readlink", refuse)
    for path in (f"{project}/link/file", "a" * 300, "a\ud800", "b/" * 2000):
        assert not told(project, MISSING.format(path))
    assert not told(project, f"No such file or directory: '{project}/\ud800'")


def test_without_a_table_of_mounts_nothing_is_said(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing tells then where looking is safe."""

    def fail() -> list[Mount]:
        raise OSError

    monkeypatch.setattr(shown_files, "mounts", fail)
    assert told(project, MISSING.format(f"{project.parent}/data/file")) == ""


def test_no_more_paths_are_made_of_a_failure_than_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A report may have millions of lines that each name a file in several folders."""
    made: list[str] = []
    paths = shown_files._paths

    def noted(line: str, cwd: str) -> Iterator[str]:
        for path in paths(line, cwd):
            made.append(path)
            yield path

    monkeypatch.setattr(shown_files, "_paths", noted)
    text = "No module named 'a'\n" * 10_000
    shown_files.hint([text, "unable to open database file"], lambda _path: True, "/srv")
    assert len(made) == 4096
