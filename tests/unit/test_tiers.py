"""The two tiers of the suite: which tests they have, and how scripts/test says each part's end."""

import ast
import glob
import re
import signal
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests import faultcheck, parts, tiers

CHECKOUT = Path(__file__).parents[2]
FILES = sorted(str(x.relative_to(CHECKOUT)) for x in (CHECKOUT / "tests").rglob("test_*.py"))
LEFT_OUT = tomllib.loads(tiers.FILE.read_text())["left-out"]
OF_A_USER = "needs an unprivileged user: "


def held(tier: str, test: str, *groups: str) -> int:
    """The number of parts of these groups that run a file or test."""
    return sum(part.holds(test) for group in groups for part in tiers.read(tier).get(group, ()))


def marked_in(file: str) -> dict[str, str]:
    """The tests of a file, likewise."""
    tree = ast.parse((CHECKOUT / file).read_text())
    marks = {
        target.id: ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return {
        f"{file}::{node.name}": "\n".join(
            marks.get(text, text) for text in map(ast.unparse, node.decorator_list)
        )
        + marks.get("pytestmark", "")
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


@cache
def every_test() -> dict[str, str]:
    """Each test's node id, with its decorators."""
    return {test: marks for file in FILES for test, marks in marked_in(file).items()}


def test_each_file_is_in_one_part_of_test_all() -> None:
    """A file in no part would never run."""
    assert len(FILES) > 100
    assert [file for file in FILES if held("test-all", file, "main", "vm") != 1] == []


def test_each_file_is_in_make_test_or_left_out_for_a_reason() -> None:
    """A reason for a file that is in it would say what is not so."""
    groups = tiers.read("test")
    missing = {file for file in FILES if not held("test", file, *groups)}
    named = {file for file in FILES for path in LEFT_OUT if f"{file}/".startswith(f"{path}/")}
    assert missing == named
    assert all(LEFT_OUT.values())


def test_each_case_of_a_fault_is_in_make_test_or_left_out_for_a_reason() -> None:
    """One test of it is enough."""
    groups = tiers.read("test")
    seen = {
        case
        for test, marks in every_test().items()
        if "mark.fault(" in marks and held("test", test, *groups)
        for case in re.findall(r"'([A-Z]\d+)'", marks)
    }
    assert set(faultcheck.read_cases()) - seen == {name for name in LEFT_OUT if "/" not in name}


@pytest.mark.parametrize("tier", tiers.TIERS)
def test_what_only_a_user_has_is_in_the_user_s_group(tier: str) -> None:
    """Root's groups skip it."""
    lost = [test for test, marks in every_test().items() if OF_A_USER in marks]
    assert len(lost) > 10
    assert [test for test in lost if not held(tier, test, "user")] == []


def test_each_attack_and_each_claim_of_the_documents_is_in_make_test() -> None:
    """Users trust each of them; one attack is enough of those that one mend holds."""
    kept = [file for file in FILES if file.startswith("tests/attacks/")]
    kept += ["tests/unit/test_docs.py", "tests/plugin/test_downstream.py"]
    kept += re.findall(r"tests/faults/\w+\.py", (CHECKOUT / "docs/promises.md").read_text())
    assert [file for file in kept if not held("test", file, "main")] == []
    tests = [test for test in every_test() if test.partition("::")[0] in kept]
    missing = {test for test in tests if not held("test", test, "main")}
    relatives = dict(pair for part in tiers.read("test")["main"] for pair in part.relatives.items())
    assert missing == relatives.keys()
    assert [test for test in relatives if not test.startswith("tests/attacks/")] == []
    assert [test for test in relatives.values() if not held("test", test, "main")] == []
    assert [test for test in relatives if held("test-all", test, "main") != 1] == []


NAMED = re.compile(r"\b(?:tests|examples)/[\w/*]+\.py(?:::\w+)?")


def test_each_test_that_a_script_or_a_tier_names_is_there() -> None:
    """pytest runs none of its arguments' tests if one of them is not found."""
    scripts = [path for path in (CHECKOUT / "scripts").iterdir() if path.is_file()]
    words = {word for path in (*scripts, tiers.FILE) for word in NAMED.findall(path.read_text())}
    assert len(words) > 50
    assert [word for word in sorted(words) if not is_there(*word.partition("::")[::2])] == []


def is_there(path: str, function: str) -> bool:
    """Whether there is a file of this name or glob, with this function if one is named."""
    files = glob.glob(path, root_dir=CHECKOUT)
    if not function:
        return bool(files)
    return any(f"def {function}(" in (CHECKOUT / file).read_text() for file in files)


def test_a_part_is_a_line_for_a_shell() -> None:
    """The shell takes every argument as it is, and counts the workers itself."""
    part = tiers.Part(
        name="on it", tests=("a.py::b[x y]",), without=("c.py", "d.py::e"), platforms="systrap",
        workers=True, options=("-k", "not $$"),
    )  # fmt: skip
    shell = f"TESTS_AT_ONCE=3; words=({part.line()}); printf '%s\n' \"${{words[@]}}\""
    done = subprocess.run(["bash", "-euc", shell], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "on it", "beside", "--gvisor-platform", "systrap", "--ignore=c.py", "--deselect=d.py::e",
        "-k", "not $$", "-n3", "--dist", "loadfile", "--no-loadscope-reorder", "a.py::b[x y]",
    ]  # fmt: skip


ENDINGS = r"""
. <(sed -n '/^# --- how parts ended/,/^# --- groups/p' scripts/test)
tier=test TESTS_FAILED=$1
outcome "setup" 0 3
outcome "without a test" 125 5
seq -f "test_%g.py::test_it - AssertionError" 1 22 >"$TESTS_FAILED"
outcome "as a user" 1 7
"""


def test_a_failed_part_is_shown_with_its_failed_tests(tmp_path: Path) -> None:
    """Twenty names are shown, and the number of the others."""
    words = ["bash", "-euc", ENDINGS, "test", str(tmp_path / "failed")]
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
        assert not {"TESTS_FAILED", "TESTS_PARTS"} & set(os.environ)

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
        ["make test: one: passed in 3 s", "make test: two: FAILED", "  x", "*short test summary*"]
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
