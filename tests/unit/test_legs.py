"""The parts of scripts/test: together they run every test."""

from __future__ import annotations

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
