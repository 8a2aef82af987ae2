"""The parts of scripts/test: together they run every test."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
LISTS = r"""
. <(sed -n '/^hardy=/,/^of_root=/p' scripts/test)
for name in side_by_side by_itself of_root; do
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
    side, alone, root = (line.split()[1:] for line in done.stdout.splitlines())
    files = list((CHECKOUT / "tests").rglob("test_*.py"))
    assert len(files) > 100
    legs = {file: [covered(side, file), covered([*alone, *root], file)] for file in files}
    assert [str(file) for file, found in legs.items() if sum(found) != 1] == []


VMS = r"""
checkout=$1 build=$1 failed=0
. <(sed -n '/^ended() {/,/^}/p; /^part() {/,/^}/p; /^vms() {/,/^}/p' scripts/test)
say() { echo "$*"; }
vms
printf %s "$PYTEST_GVISOR_TESTS_PARTS"
exit "$failed"
"""


@pytest.mark.parametrize(("kvm", "cgroup2"), [(0, 0), (3, 0), (0, 4)])
def test_the_vm_in_the_background_is_shown_second_and_counts(
    tmp_path: Path, kvm: int, cgroup2: int
) -> None:
    """Each VM has its line among the parts, and a failure of either is the run's."""
    (tmp_path / "scripts").mkdir()
    for name, status in {"kvm": kvm, "cgroup2": cgroup2}.items():
        script = tmp_path / "scripts" / name
        script.write_text(f"#!/bin/sh\necho from {name}\nexit {status}\n")
        script.chmod(0o755)
    argv = ["bash", "-euc", f"PYTEST_GVISOR_TESTS_PARTS=\n{VMS}", "test", str(tmp_path)]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == (kvm or cgroup2), done.stderr
    printed = [line for line in done.stdout.splitlines() if line.startswith("from ")]
    assert printed == ["from cgroup2", "from kvm"]
    parts = [line for line in done.stdout.splitlines() if line.startswith("make test: ")]
    assert ["FAILED" in line for line in parts] == [cgroup2 != 0, kvm != 0]


def test_a_run_that_ends_early_ends_the_vm_in_the_background(tmp_path: Path) -> None:
    """An interrupt of one VM leaves no other: it is a process group of its own."""
    (tmp_path / "scripts").mkdir()
    # The pipe of the output ends with the last process that holds it.
    for name, text in {"kvm": "sleep 100 & wait", "cgroup2": "sleep 1; exit 130"}.items():
        (tmp_path / "scripts" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "scripts" / name).chmod(0o755)
    os.mkfifo(tmp_path / "kvm.log")
    reader = os.open(tmp_path / "kvm.log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        argv = ["bash", "-euc", f"PYTEST_GVISOR_TESTS_PARTS=\n{VMS}", "test", str(tmp_path)]
        done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, timeout=30)
        assert done.returncode == 130
        assert select.select([reader], [], [], 10)[0], "a process of the VM holds its output"
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)
