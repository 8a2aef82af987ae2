"""The sandbox of tests inside that one session saves, and the next ones begin with."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAVED = "gvisor: the first sandbox of tests inside is kept for later sessions"
USED = "gvisor: the first sandbox of tests inside was kept from an earlier session"
DROPPED = "gvisor: a sandbox that an earlier session has kept was not used: {}"
NEVER = "gvisor: no sandbox of tests inside is kept for later sessions: {}"
TEST = "import os\nfrom pytest_gvisor import is_gvisor_kernel\n"
TEST += "def test_it(): assert is_gvisor_kernel(os.uname().release)\n"

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, kept_answers: str
) -> Path:
    """A cache folder of its own, with the answers of runsc; it is not shown to tests inside."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "pytest-gvisor/answers").mkdir(mode=0o700, parents=True)
    (folder / "pytest-gvisor").chmod(0o700)
    for note in Path(kept_answers).glob("*.json"):
        # Another process may have swept it since.
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(note, folder / "pytest-gvisor/answers")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def run(project: pytest.Pytester, cache: Path) -> Run:
    """Run the project's tests inside, where pytest keeps a cache."""
    assert cache.is_dir()
    project.makepyfile(TEST)

    def once(*arguments: str) -> pytest.RunResult:
        # pytester's own way gives each run another --basetemp, which a plugin may read in sys.argv.
        words = "-m", "pytest", "--in-gvisor", "--gvisor-strict", "-v", *arguments
        return project.run(sys.executable, *words)

    return once


def said(result: pytest.RunResult) -> list[str]:
    """The lines on saved sandboxes of a run whose tests passed."""
    assert {"passed"} <= set(result.parseoutcomes()) <= {"passed", "deselected"}
    words = ("is kept", "was kept", "has kept")
    return [line for line in result.outlines if any(word in line for word in words)]


def files(cache: Path) -> list[Path]:
    """The files of saved sandboxes, without locks."""
    found = (cache / "pytest-gvisor/sandboxes-1").rglob("*")
    return [path for path in found if path.is_file() and path.name != "lock"]


def test_the_second_session_begins_with_the_sandbox_of_the_first(run: Run) -> None:
    """`-v` reports that, and a changed test or conftest.py makes no difference."""
    assert said(run()) == [SAVED]
    Path("conftest.py").write_text("value = 1\n")
    Path("test_kept.py").write_text(TEST + "def test_two():\n    from conftest import value\n")
    second = run()
    assert said(second) == [USED]
    second.assert_outcomes(passed=3)


def test_copies_share_one_root(run: Run, cache: Path) -> None:
    """The first one makes it, and the next ones find it."""
    assert said(run()) == [SAVED]
    made = []
    for _ in range(2):
        assert said(run()) == [USED]
        found = (cache / "pytest-gvisor/sandboxes-1").glob("*-*/roots/*")
        made.append(sorted((path.name, path.stat().st_ino) for path in found))
    assert made[0] == made[1] != []


def record_of(cache: Path) -> Path:
    """The file on how the kept sandbox was started."""
    (path,) = (path for path in files(cache) if path.name == "start.json")
    return path


def test_the_second_session_starts_it_before_it_is_planned(run: Run, cache: Path) -> None:
    """The first one has recorded how. A right record stays as it is."""
    assert said(run()) == [SAVED]
    before = record_of(cache).stat().st_ino
    for _ in range(2):
        assert said(run("-k", "test_it")) == [USED]
        assert record_of(cache).stat().st_ino == before


TAMPERED: dict[str, Callable[[dict[str, Any]], None]] = {
    "specification": lambda data: data.update(config=data["config"].replace("TERM=", "OTHER=")),
    "command": lambda data: data["order"]["argv"].insert(1, "--debug"),
    "environment": lambda data: data["order"]["env"].update(HOME="/"),
    "streams": lambda data: data.update(max_output=1),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_one_that_was_started_otherwise_runs_no_test(what: str, run: Run, cache: Path) -> None:
    """The kept sandbox is started as it was planned instead, and the record is corrected."""
    assert said(run()) == [SAVED]
    path = record_of(cache)
    right = json.loads(path.read_text())
    TAMPERED[what](wrong := json.loads(path.read_text()))
    path.write_text(json.dumps(wrong))
    assert wrong != right
    result = run()
    assert said(result) == [USED]
    result.stdout.fnmatch_lines(["gvisor: a sandbox that was started before it was planned *"])
    assert json.loads(path.read_text()) == {**right, "missed": 1}
    assert said(run()) == [USED]
    assert json.loads(path.read_text()) == right


def test_nothing_is_kept_where_pytest_keeps_no_cache(run: Run, cache: Path) -> None:
    """`-p no:cacheprovider` switches both off, and `-v` does not mention it."""
    assert said(run("-p", "no:cacheprovider")) == []
    assert not os.path.lexists(cache / "pytest-gvisor/sandboxes-1")


def test_a_variable_that_is_passed_on_is_in_no_file(
    run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable may be a secret, and would be in the memory that is saved."""
    monkeypatch.setenv("DATABASE", "sesame-open-up")
    assert said(run("--gvisor-env=DATABASE")) == [
        NEVER.format("variables are passed on by hand: DATABASE")
    ]
    assert said(run()) == [SAVED]
    assert len(files(cache)) > 1
    assert not any(b"sesame-open-up" in path.read_bytes() for path in files(cache))


def test_a_changed_plugin_is_imported_anew(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is one that the saved sandbox had read."""
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    plugin = Path("early_plugin.py")
    plugin.write_text("value = 1\n")
    assert said(run("-p", "early_plugin")) == [SAVED]
    plugin.write_text("value = 22\n")
    Path("test_value.py").write_text(
        "import early_plugin\ndef test_value(): assert early_plugin.value == 22\n"
    )
    why = f"{plugin.resolve()} has changed since"
    assert said(run("-p", "early_plugin")) == [DROPPED.format(why), SAVED]


@pytest.mark.parametrize(
    "change", [["-p", "no:doctest"], ["-o", "console_output_style=classic"], ["--strict-markers"]]
)
def test_another_command_line_is_another_sandbox(change: list[str], run: Run) -> None:
    """Each has its own, and both are used again."""
    for arguments in ([], change):
        assert said(run(*arguments)) == [SAVED]
    for arguments in ([], change):
        assert said(run(*arguments)) == [USED]


def test_another_choice_of_tests_begins_with_the_same_sandbox(run: Run) -> None:
    """The tests see the command line of their own run, and only those that are chosen run."""
    Path("test_line.py").write_text(
        "import sys\n"
        "def test_line(pytestconfig):\n"
        "    assert sys.argv[-1] == sys.orig_argv[-1] == pytestconfig.invocation_params.args[-1]\n"
        "    assert sys.argv[-1] == 'test_line.py::test_line'\n"
        "    assert type(sys.argv) is type(sys.orig_argv) is list\n"
    )
    first = run("-k", "test_it")
    assert said(first) == [SAVED]
    second = run("test_line.py::test_line")
    assert said(second) == [USED]
    second.assert_outcomes(passed=1)


def test_a_plugin_that_reads_the_command_line_has_one_for_each(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would know of an earlier run's."""
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    Path("reading_plugin.py").write_text("import sys\nlast = sys.argv[-1]\n")
    Path("test_last.py").write_text(
        "import sys, reading_plugin\ndef test_last(): assert reading_plugin.last == sys.argv[-1]\n"
    )
    for expected in (SAVED, USED):
        for line in (["test_last.py"], ["-k", "test_last"]):
            assert said(run("-p", "reading_plugin", *line)) == [expected]


def test_each_worker_of_xdist_has_its_own(run: Run, cache: Path, project: pytest.Pytester) -> None:
    """Both begin with kept ones in the second run, and know the run that they are in."""
    project.makepyfile(
        test_ids="""
import os
import pytest

@pytest.mark.parametrize("number", range(8))
def test_ids(number, testrun_uid, worker_id):
    assert os.environ["PYTEST_XDIST_TESTRUNUID"] == testrun_uid
    assert os.environ["PYTEST_XDIST_WORKER"] == worker_id
"""
    )
    for _ in range(2):
        assert set(run("-n2", "-p", "xdist").parseoutcomes()) <= {"passed", "warnings"}
        locks = sorted((cache / "pytest-gvisor/sandboxes-1").glob("*-*/lock"))
        assert len(locks) == 2
    for lock in locks:
        assert lock.stat().st_mtime > (lock.parent / "facts.json").stat().st_mtime


@pytest.mark.parametrize("part", [1.0, 0.5, 0.0])
def test_a_broken_one_costs_nothing_but_time(run: Run, cache: Path, part: float) -> None:
    """The content is wrong or cut, although no file looks changed: runsc or the pytest notices."""
    assert said(run()) == [SAVED]
    (facts,) = (path for path in files(cache) if path.name == "facts.json")
    pages = facts.parent / "image/pages.img"
    pages.write_bytes(bytes(int(pages.stat().st_size * part)))
    info = pages.stat()
    kept = json.loads(facts.read_text())
    state = [info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
    facts.write_text(json.dumps({**kept, "image": {**kept["image"], "pages.img": state}}))
    result = run()
    assert set(result.parseoutcomes()) == {"passed"}
    result.stdout.fnmatch_lines([DROPPED.format("it did not go on: *")])
    assert said(run()) == [SAVED]


MOMENTS = {
    "runsc writes": "from pytest_gvisor.inside import kept_state\nkept_state.of = kill\n",
    "it is copied": "from pytest_gvisor.run import saved_store\nsaved_store._states = kill\n",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_session_leaves_no_half_one(
    moment: str, run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next session starts its sandbox in the usual way, and removes what is left."""
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    Path("killed").touch()
    Path("killing_plugin.py").write_text(
        "import os, signal\n"
        "def kill(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def pytest_configure(config):\n"
        "    if os.path.exists('killed') and 'PYTEST_GVISOR_INSIDE' not in os.environ:\n"
        + "".join(f"        {line}\n" for line in MOMENTS[moment].splitlines())
    )
    assert run("-p", "killing_plugin").ret == -signal.SIGKILL
    assert not any(path.name == "facts.json" for path in files(cache))
    Path("killed").unlink()
    assert said(run("-p", "killing_plugin")) == [SAVED]
    assert len([*(cache / "pytest-gvisor/sandboxes-1").glob("*-*/")]) == 1
    assert said(run("-p", "killing_plugin")) == [USED]


def test_tests_inside_see_no_kept_sandbox(run: Run, cache: Path) -> None:
    """The cache is neither a place that they see nor a name in their environment."""
    Path("test_cache.py").write_text(
        "import os\n"
        f"def test_cache():\n"
        f"    assert not os.path.lexists({str(cache / 'pytest-gvisor')!r})\n"
        f"    assert {str(cache)!r} not in os.environ.values()\n"
        "    with open('/proc/mounts') as mounts: assert 'sandboxes-1' not in mounts.read()\n"
    )
    for expected in (SAVED, USED):
        assert said(run()) == [expected]


def test_a_folder_that_others_can_write_is_not_used(run: Run, cache: Path) -> None:
    """Nothing is taken from it, and nothing is left there."""
    assert said(run()) == [SAVED]
    before = {path: path.stat().st_mtime_ns for path in files(cache)}
    (cache / "pytest-gvisor/sandboxes-1").chmod(0o777)
    (line,) = {*said(run())}
    assert line.startswith(NEVER.format(""))
    assert "lets others in" in line
    assert {path: path.stat().st_mtime_ns for path in files(cache)} == before


def test_reprobe_begins_anew(run: Run) -> None:
    """The old one is dropped, and a new one is kept."""
    assert said(run("--gvisor-reprobe")) == [SAVED]
    assert said(run("--gvisor-reprobe")) == [SAVED]


def test_two_sessions_at_once_disturb_each_other_not(run: Run, project: pytest.Pytester) -> None:
    """Both find none, one of them keeps its own, and a third session uses that."""
    words = "-m", "pytest", "--in-gvisor", "--gvisor-strict", "-v"
    # In the environment of pytester's own runs, which is a part of the key.
    null = subprocess.DEVNULL
    both = [
        project.popen([sys.executable, *words], stdin=null, stdout=null, stderr=null)
        for _ in range(2)
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    assert said(run()) == [USED]
