"""The parts of scripts/test: together they run every test, and the end says how each ended."""

from __future__ import annotations

import glob
import re
import subprocess
from pathlib import Path

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
