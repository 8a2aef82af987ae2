"""Coverage from a pytest inside, as the host keeps it: checked and bounded."""

import base64
import errno
import os
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import coverage
import pytest
from coverage.numbits import nums_to_numbits

from pytest_gvisor.base.errors import ProtocolError
from pytest_gvisor.inside.back import coverage_data
from pytest_gvisor.inside.back.coverage_data import InsideCoverage
from pytest_gvisor.inside.view import shown_files
from pytest_gvisor.inside.view.configuration import data_folder
from pytest_gvisor.inside.view.shown_files import ShownFiles
from pytest_gvisor.inside.wire.session_bounds import SessionBounds
from pytest_gvisor.programs import linux
from pytest_gvisor.programs.proc import Mount


class Sandbox:
    """A project that is visible inside, and the messages about its coverage."""

    def __init__(self, base: Path) -> None:
        self.said: list[str] = []
        self.data = base / "data"
        self.project = base / "project"
        self.writable = self.project / "out"
        self.writable.mkdir(parents=True)
        self.data.mkdir()
        self.source = self.project / "mine.py"
        self.source.write_text("a = 1\n" * 20)

    def cov(self, *tracers: str, branch: bool = False) -> SimpleNamespace:
        """The measuring on the host."""
        names = ["plugin.Templates", *tracers]
        options = {"run:data_file": str(self.data / ".coverage"), "run:branch": branch}
        return SimpleNamespace(
            get_option=options.get, sys_info=lambda: [("plugins.file_tracers", names)]
        )

    def measured(self, *, branch: bool = False) -> InsideCoverage:
        """The receiver of the sandbox's messages."""
        config = SimpleNamespace(
            issue_config_time_warning=lambda warning, **_: self.said.append(str(warning)),
            pluginmanager=pytest.PytestPluginManager(),
        )
        return InsideCoverage(
            self.cov(branch=branch),
            ShownFiles([str(self.project)], [str(self.writable)], ["/own"]),
            cwd=str(self.project),
            bounds=SessionBounds(cast("Any", config)),
        )

    def files(self) -> list[Path]:
        """The data files."""
        return sorted(self.data.iterdir())

    def read(self) -> coverage.CoverageData:
        """Read the only data file."""
        (path,) = self.files()
        data = coverage.CoverageData(basename=str(path))
        data.read()
        return data


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """One with a single source file."""
    return Sandbox(tmp_path)


def message(file: object, tracer: object = "", **parts: Any) -> dict[str, Any]:
    """A message about one file."""
    return {"type": "coverage", "file": str(file), "tracer": tracer, **parts}


def bits(*lines: int) -> str:
    """Lines as they travel."""
    return base64.b64encode(nums_to_numbits(lines)).decode()


def test_lines_of_each_context_are_the_host_s_own_data(sandbox: Sandbox) -> None:
    """Pieces of one file are joined, and a file of which nothing ran is there."""
    taker = sandbox.measured()
    taker.take(message(sandbox.source))
    taker.take(message(sandbox.source, lines=[["", bits(1, 7, 8)], ["x|run", bits(2)]]))
    taker.take(message(sandbox.source, lines=[["x|run", bits(3, 20)]]))
    taker.finish()
    taker.close(complete=True)
    data, name = sandbox.read(), str(sandbox.source)
    assert data.measured_files() == {name}
    assert sorted(data.lines(name) or []) == [1, 2, 3, 7, 8, 20]
    assert data.contexts_by_lineno(name)[20] == ["x|run"]
    assert sandbox.said == []


@pytest.mark.parametrize("branch", [False, True])
def test_what_is_held_in_memory_is_bounded(
    branch: bool, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data file grows meanwhile, and later data of a context is joined with it."""
    monkeypatch.setattr(coverage_data, "_MOST_HELD", 3)
    taker = sandbox.measured(branch=branch)
    for line in range(1, 20):
        part = {"arcs": [["a", [line, line + 1]]]} if branch else {"lines": [["a", bits(line)]]}
        taker.take(message("mine.py", **part))
    assert len(sandbox.files()) == 1
    taker.finish()
    taker.close(complete=True)
    data = sandbox.read()
    assert set(range(1, 20)) <= set(data.lines("mine.py") or [])
    assert data.measured_contexts() == {"a"}


def test_jumps_and_the_names_of_tracers_are_too(sandbox: Sandbox) -> None:
    """Branch coverage has pairs of lines, and a tracer has to be a name that the host knows."""
    taker = sandbox.measured(branch=True)
    page = sandbox.project / "page.html"
    page.write_text("<p>\n")
    taker.take(message(sandbox.source, arcs=[["", [-1, 1, 1, -1]], ["a", [1, 2]]]))
    taker.take(message(page, "plugin.Templates", arcs=[["", [1, 2]]]))
    taker.finish()
    taker.close(complete=True)
    data = sandbox.read()
    assert sorted(data.arcs(str(sandbox.source)) or []) == [(-1, 1), (1, -1), (1, 2)]
    assert data.file_tracer(str(page)) == "plugin.Templates"


def test_a_relative_name_stays_relative(sandbox: Sandbox) -> None:
    """A relative name stays relative, as ``relative_files`` needs it."""
    taker = sandbox.measured()
    taker.take(message("mine.py", lines=[["", bits(1)]]))
    taker.finish()
    taker.close(complete=True)
    assert sandbox.read().measured_files() == {"mine.py"}


@pytest.mark.parametrize(
    "what",
    [
        "outside", "missing", "link", "within", "through", "up", "device", "fifo", "folder",
        "writable", "tracer", "nul", "bytes", "long", "descriptor",
    ],
)  # fmt: skip
def test_no_file_is_measured_that_the_host_must_not_open(what: str, sandbox: Sandbox) -> None:
    """A forbidden file is left out and named; the others count."""
    secret = sandbox.data.parent / "secret.py"
    secret.write_text("the user's own\n")
    (sandbox.project / "link.py").symlink_to(secret)
    (sandbox.project / "within.py").symlink_to("mine.py")
    (sandbox.project / "away").symlink_to(secret.parent)
    os.mkfifo(sandbox.project / "fifo.py")
    (sandbox.writable / "made.py").write_text("x\n")
    path = {
        "outside": secret, "missing": "/no/such/file", "link": sandbox.project / "link.py",
        "within": "within.py", "through": "away/secret.py", "up": "../secret.py",
        "long": "a" * 5000, "descriptor": "/proc/self/exe",
        "device": "/dev/zero", "fifo": "fifo.py", "folder": sandbox.project,
        "writable": "out/made.py", "tracer": "mine.py", "nul": "mine.py\0b", "bytes": "\udcff.py",
    }[what]  # fmt: skip
    taker = sandbox.measured()
    tracer = "other.Plugin" if what == "tracer" else ""
    taker.take(message(path, tracer, lines=[["", bits(1)]]))
    assert not sandbox.files()
    taker.take(message(sandbox.source, lines=[["", bits(1)]]))
    taker.finish()
    taker.close(complete=True)
    assert sandbox.read().measured_files() == {str(sandbox.source)}
    (said,) = sandbox.said
    assert "left out" in said
    assert "\udcff" not in said


def test_a_file_that_was_made_inside_is_no_word_worth(sandbox: Sandbox) -> None:
    """A file that exists only inside is left out silently, because the host cannot show it."""
    taker = sandbox.measured()
    for path in ("made-inside.py", "mine.py/made-inside.py", "/own/made-inside.py"):
        taker.take(message(path, lines=[["", bits(1)]]))
    taker.finish()
    taker.close(complete=True)
    assert not sandbox.files()
    assert not sandbox.said


def test_a_file_is_looked_up_below_a_descriptor_of_its_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On file systems of programs and other machines nothing is, nor on one of which it knows not.

    A folder may be reached by a link, and a local file system may be mounted in it. A file may be
    shown alone.
    """
    table = [("remote", "nfs4"), ("served", "fuse.x"), ("auto", "autofs"), ("local", "ext4")]
    project, alone = tmp_path / "project", tmp_path / "alone.py"
    for folder in ("", *(name for name, _ in table)):
        (project / folder).mkdir()
        (project / folder / "a.py").touch()
    alone.touch()
    (tmp_path / "alias").symlink_to(project)
    real = [Mount("0:1", "/", str(project / name), kind, "") for name, kind in table]
    monkeypatch.setattr(shown_files, "mounts", lambda: real)
    asked: list[bytes] = []
    openat2 = linux.openat2

    def record(folder: int, path: bytes, flags: int, resolve: int) -> int:
        asked.append(path)
        return openat2(folder, path, flags, resolve)

    monkeypatch.setattr(linux, "openat2", record)
    files = ShownFiles([str(tmp_path / "alias"), str(alone), "/dev"], [], [])
    for name, _kind in table[:3]:
        assert files.find(f"{project}/{name}/a.py") is None
    assert not asked
    for path in ("a.py", "local/a.py"):
        for way in (project, tmp_path / "alias"):
            assert files.find(f"{way}/{path}") == f"{project}/{path}"
    assert files.find(str(alone)) == str(alone)
    assert asked.count(b"a.py") == 4
    with pytest.raises(OSError, match="cross-device"):  # it is mounted, and the table lacks it
        files.find("/dev/shm/a.py")
    files.close()


BAD = {
    "no file": {"file": 7},
    "no tracer": {"tracer": None},
    "no list": {"lines": "x"},
    "no pair": {"lines": [["a"]]},
    "no context": {"lines": [[7, ""]]},
    "a context that is a list": {"lines": [[["a"], ""]]},
    "no base64": {"lines": [["a", "é"]]},
    "no text": {"lines": [["a", 7]]},
    "a line too high": {"lines": [["a", "AAAA" * 200_000]]},
    "a long context": {"lines": [["a" * 2_000_000, ""]]},
    "arcs": {"arcs": [["a", [1, 2]]]},
}
BAD_ARCS = {
    "lines": {"lines": [["a", ""]]},
    "an odd number": {"arcs": [["a", [1]]]},
    "no numbers": {"arcs": [["a", ["1", "2"]]]},
    "fractions": {"arcs": [["a", [1.5, 2]]]},
    "truth": {"arcs": [["a", [True, 2]]]},
    "a line too high": {"arcs": [["a", [1, 2**40]]]},
    "no list": {"arcs": [["a", 7]]},
    "an object": {"arcs": [["a", {"1": 2, "3": 4}]]},
}


@pytest.mark.parametrize(
    ("branch", "changes"),
    [*((False, bad) for bad in BAD.values()), *((True, bad) for bad in BAD_ARCS.values())],
    ids=[*BAD, *(f"branch: {name}" for name in BAD_ARCS)],
)
def test_what_is_no_coverage_is_a_protocol_error(
    branch: bool, changes: dict[str, Any], sandbox: Sandbox
) -> None:
    """A protocol error discards all coverage of the sandbox."""
    taker = sandbox.measured(branch=branch)
    with pytest.raises(ProtocolError):
        taker.take({**message(sandbox.source), **changes})
    taker.close(complete=False)
    assert not sandbox.files()


def test_a_file_has_one_tracer(sandbox: Sandbox) -> None:
    """Else one sandbox could spoil the coverage of all: data that differ cannot be combined."""
    first, second = sandbox.measured(), sandbox.measured()
    first._cov = second._cov = sandbox.cov("a", "b")
    second._bounds = first._bounds
    first.take(message("mine.py", "a", lines=[["", bits(1)]]))
    for tracer in ("b", ""):
        second.take(message("mine.py", tracer, lines=[["", bits(2)]]))
    second.take(message("mine.py", "a", lines=[["", bits(3)]]))
    for taker in (first, second):
        taker.finish()
        taker.close(complete=True)
    one, two = sandbox.files()
    data = coverage.CoverageData(basename=str(one))
    data.read()
    other = coverage.CoverageData(basename=str(two))
    other.read()
    data.update(other)
    assert sorted(data.lines("mine.py") or []) == [1, 3]
    assert "mine.py (traced by b), mine.py (traced by )" in sandbox.said[0]


def test_there_is_an_end_to_coverage(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for all files and contexts together."""
    monkeypatch.setattr(coverage_data, "MOST_ENTRIES", 10)
    for context in ("", "c" * 320):  # 32 characters of a context count as a line
        taker = sandbox.measured()
        taker.take(message("mine.py", lines=[["", bits(*range(10 - len(context) // 32))]]))
        with pytest.raises(ProtocolError, match="more than 10 lines"):
            taker.take(message("mine.py", lines=[[context, bits(1)]]))
        taker.close(complete=False)


def test_the_folder_of_the_data_file_is_known_where_pytest_cov_measures(tmp_path: Path) -> None:
    """No writable folder may hold it: pytest-cov opens every file there that begins like it."""
    cov = SimpleNamespace(get_option=lambda _: str(tmp_path / "deep/.coverage"))
    for plugin, folder in (
        (SimpleNamespace(cov_controller=SimpleNamespace(cov=cov)), str(tmp_path / "deep")),
        (None, ""),
    ):
        manager = SimpleNamespace(get_plugin=lambda _, plugin=plugin: plugin)
        assert data_folder(cast("Any", SimpleNamespace(pluginmanager=manager))) == folder


def test_coverage_that_there_is_no_room_for_is_no_error_of_sqlite_s(sandbox: Sandbox) -> None:
    """The tests have ended: the session goes on to its end, fails, and says why."""
    measured = sandbox.measured()
    measured.take(message(sandbox.source, lines=[["", bits(1, 2)]]))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(ProtocolError, match="coverage that cannot be kept"):
            measured.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    measured.close(complete=False)
    assert sandbox.files() == []


@pytest.mark.fault("G6")
def test_no_coverage_is_left_out_for_want_of_a_descriptor(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session fails: the file is one that the host may open, and nobody would know."""
    measured = sandbox.measured()
    with monkeypatch.context() as patch:
        refused = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        patch.setattr(linux, "openat2", Mock(side_effect=refused))
        with pytest.raises(ProtocolError, match="Too many open files"):
            measured.take(message(sandbox.source))
    measured.take(message(sandbox.source))
    measured.finish()
    measured.close(complete=True)
    assert sandbox.said == []
    assert sandbox.read().measured_files() == {str(sandbox.source)}
