"""The parts of scripts/test: together they run every test, and the end says how each ended."""

import glob
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import parts

CHECKOUT = Path(__file__).parents[2]
LISTS = r"""
. <(sed -n '/^hardy=/,/^of_root=/p' scripts/test)
for name in side_by_side on_one by_itself of_root; do
    declare -n list=$name
    echo "$name ${list[*]}"
done
"""


def covered(paths: list[str], file: Path) -> bool:
    """Whether pytest collects the file with these arguments."""
    ignored = {CHECKOUT / path.partition("=")[2] for path in paths if path.startswith("--ignore=")}
    named = {CHECKOUT / path for path in paths if not path.startswith("-")}
    return not named.isdisjoint({file, *file.parents}) and file not in ignored


def test_each_file_of_tests_is_in_one_leg_of_root_s() -> None:
    """A file in no part would never run."""
    done = subprocess.run(
        ["bash", "-euc", LISTS], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    lists = [line.split()[1:] for line in done.stdout.splitlines()]
    files = list((CHECKOUT / "tests").rglob("test_*.py"))
    assert len(files) > 100
    legs = {file: [covered(paths, file) for paths in lists] for file in files}
    assert [str(file) for file, found in legs.items() if sum(found) != 1] == []


NAMED = re.compile(r"\b(?:tests|examples)/[\w/{},.*]+\.py(?:::[\w{},\[\]-]+)?")


def test_each_test_that_a_script_names_is_there() -> None:
    """pytest runs none of its arguments' tests if one of them is not found."""
    scripts = [path for path in (CHECKOUT / "scripts").iterdir() if path.is_file()]
    words = {word for path in scripts for word in NAMED.findall(path.read_text())}
    # Without globs, but with braces, as the script's own shell expands them.
    done = subprocess.run(
        ["bash", "-fuc", f"printf '%s\\n' {' '.join(sorted(words))}"],
        cwd=CHECKOUT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    expanded = done.stdout.split()
    assert len(expanded) > 50
    assert [word for word in expanded if not is_there(*word.partition("::")[::2])] == []


def is_there(path: str, function: str) -> bool:
    """Whether there is a file of this name or glob, with this function if one is named."""
    files = glob.glob(path, root_dir=CHECKOUT)
    if not function:
        return bool(files)
    name = function.partition("[")[0]
    return any(f"def {name}(" in (CHECKOUT / file).read_text() for file in files)


ENDINGS = r"""
build=$1
. <(sed -n '/^# --- how parts ended/,/^# --- what gives way/p' scripts/test)
PYTEST_GVISOR_TESTS_FAILED=$build/failed
outcome "setup" 0 " in 3 s"
outcome "without a test" 125 " in 5 s"
seq -f "test_%g.py::test_it - AssertionError" 1 22 >"$PYTEST_GVISOR_TESTS_FAILED"
outcome "as a user" 1 " in 7 s"
printf %s "$outcomes"
"""


def test_a_failed_part_is_shown_with_its_failed_tests(tmp_path: Path) -> None:
    """Twenty names are shown, and the number of the others."""
    words = ["bash", "-euc", ENDINGS, "test", str(tmp_path)]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "make test: setup: passed in 3 s",
        "make test: without a test: FAILED (status 125) in 5 s",
        "    no test failed: the cause is in the part's output, above",
        "make test: as a user: FAILED (status 1) in 7 s",
        *[f"    test_{number}.py::test_it - AssertionError" for number in range(1, 21)],
        "    and 2 more",
    ]


SUITE = r"""
    import os, pytest

    def test_passes():
        assert not {"PYTEST_GVISOR_TESTS_FAILED", "PYTEST_GVISOR_TESTS_PARTS"} & set(os.environ)

    def test_fails():
        assert 0, "\x1b[31mred\nand a second line"

    @pytest.fixture
    def broken():
        raise ValueError("x" * 1000)

    def test_is_not_set_up(broken):
        pass
"""


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["one process", "xdist"])
def test_each_failed_test_is_noted_with_one_line_of_its_cause(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: list[str]
) -> None:
    """The file keeps what it had; the pytests that a test starts see no variable."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    noted = pytester.path / "noted"
    noted.write_text("of a pytest before\n")
    monkeypatch.setenv(parts.FAILED, str(noted))
    monkeypatch.setenv(parts.ENDED, "make test: one: passed in 3 s\nmake test: two: FAILED\n  x\n")
    pytester.makepyfile(test_it=SUITE, test_more="import no_such_module")
    options = ["-p", "tests.parts", "--continue-on-collection-errors"]
    result = pytester.runpytest_subprocess(*options, *workers)
    result.assert_outcomes(passed=1, failed=1, errors=2)
    lines = noted.read_text().splitlines()
    assert lines[0] == "of a pytest before"
    assert sorted(lines[1:]) == [
        r"test_it.py::test_fails - AssertionError: \x1b[31mred",
        f"test_it.py::test_is_not_set_up - ValueError: {'x' * 188}",
        "test_more.py - E   ModuleNotFoundError: No module named 'no_such_module'",
    ]
    result.stdout.fnmatch_lines(
        ["make test: one: passed in 3 s", "make test: two: FAILED", "  x", "*short test summary*"],
    )


CODE = """
import os, signal, subprocess
from tests import conftest

signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts a program
conftest.pytest_configure()
os.kill(os.getpid(), signal.SIGHUP)
child = subprocess.Popen(["sleep", "1000"])
child.send_signal(signal.SIGHUP)
print(child.wait(60))
"""


def test_what_nohup_starts_lets_its_children_be_hung_up() -> None:
    """The suite itself lives on, as it is to under nohup."""
    argv = [sys.executable, "-c", CODE]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == (f"{-signal.SIGHUP}\n", 0), done.stderr
