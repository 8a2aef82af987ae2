import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

TESTS = """
import os, pathlib
import pytest
from pytest_gvisor.base.completed import SandboxCrashed

HERE = pathlib.Path(__file__).parent

def crash(panic="fatal error: fault", times=1):
    count = HERE / "count"
    count.write_text(count.read_text() + "x" if count.exists() else "x")
    if len(count.read_text()) <= times:
        raise SandboxCrashed("it died", completed=None, panic=panic)

def test_passes():
    (HERE / "runs").open("a").write("x")

@pytest.mark.parametrize("name", ["a b"])
def test_crashes(name):
    crash(**KEYWORDS)
"""
MORE = {
    "it fails": "def test_fails(): assert 0\n",
    "it dies": "def test_dies(): os._exit(0)\n",
    "it is interrupted": "def test_stops(): raise KeyboardInterrupt\n",
    "it fails at its end too": """
@pytest.fixture(autouse=True)
def ends():
    yield
    assert 0
""",
}


def again(folder: Path, keywords: str, more: str = "") -> tuple[int, str, int, int]:
    """Status and output; how often the test that crashes has run, and the other one."""
    text = TESTS.replace("KEYWORDS", keywords) + more
    (folder / "test_it.py").write_text(textwrap.dedent(text))
    (folder / "pytest.ini").write_text("[pytest]\n")
    argv = [sys.executable, "-m", "tests.again", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(
        argv, cwd=folder, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    crashing, other = (len((folder / name).read_text()) for name in ("count", "runs"))
    return done.returncode, done.stdout, crashing, other


NAMES_LATER = """
import pytest

class Later(pytest.Function):
    nodeid = property(lambda self: super().nodeid + "[later]")

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        item.__class__ = Later

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    report.nodeid = item.nodeid
    return report
"""


def test_a_test_whose_sentry_has_panicked_gets_one_more_try(tmp_path: Path) -> None:
    """Only that test runs again, and the number is printed.

    A test inside on one of several platforms has a name that is made after the collection.
    """
    (tmp_path / "conftest.py").write_text(NAMES_LATER)
    status, out, crashing, other = again(tmp_path, "{}")
    assert (status, crashing, other) == (0, 2, 1), out
    assert "again: 1 of these tests, for their sentry panicked: " in out


def test_one_that_panics_twice_has_failed(tmp_path: Path) -> None:
    """A test that panics again has no third try."""
    assert again(tmp_path, "{'times': 9}")[::2] == (1, 2)


def test_a_crash_without_a_panic_log_is_not_repeated(tmp_path: Path) -> None:
    """A killed sentry may be a fault of the package."""
    assert again(tmp_path, "{'panic': ''}")[::2] == (1, 1)


@pytest.mark.parametrize("what", MORE)
def test_nothing_is_repeated_of_a_run_in_which_something_else_is_wrong(
    tmp_path: Path, what: str
) -> None:
    """A failure, or a run that broke off, never becomes a success."""
    status, out, crashing, _ = again(tmp_path, "{}", MORE[what])
    assert (status != 0, crashing) == (True, 1), out
