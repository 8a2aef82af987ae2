"""The sandbox of tests inside that one session saves, and the next ones begin with."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

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
    (folder / "pytest-gvisor").mkdir(mode=0o700)
    shutil.copytree(kept_answers, folder / "pytest-gvisor/answers")
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
    assert set(result.parseoutcomes()) == {"passed"}
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
