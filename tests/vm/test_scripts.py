"""The scripts of this project where no VM can be made: they say so, and nothing else fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_gvisor.runsc import locate

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the scripts and this Python's environment, which has built nothing yet."""
    (tmp_path / "scripts").mkdir()
    for name in ("common.sh", "archive.sh", "vm-parts", "demo-in-vm"):
        shutil.copy(SCRIPTS / name, tmp_path / "scripts")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def on_another_processor(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script where uname(2) tells another processor, for which there is no such VM."""
    return subprocess.run(
        ["setarch", "i686", script, *arguments],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_vm_that_cannot_be_made_is_said_loudly_and_fails_nothing(checkout: Path) -> None:
    """The tests of the VM skip, with this reason; options of an earlier time are gone."""
    made = checkout / ".build/vm"
    made.mkdir(parents=True)
    (made / "options").write_text("--kernel=/gone\n")
    done = on_another_processor(checkout / "scripts/vm-parts")
    assert done.returncode == 0
    assert "NO VM CAN BE MADE HERE: it emulates nested KVM on an x86-64 machine" in done.stderr
    assert "gVisor's kvm platform is not tested in this run" in done.stderr
    assert not (made / "options").exists()
    assert (made / "reason").read_text().endswith("and this is i686\n")


def test_a_demo_without_sandboxes_and_without_a_vm_ends_with_the_doctors_words(
    checkout: Path,
) -> None:
    """The demo names what the machine lacks for both, with status 1 and no traceback."""
    runsc = locate.find()
    runsc.close()
    done = on_another_processor(checkout / "scripts/demo-in-vm", runsc.path)
    assert done.returncode == 1
    assert " vm " in done.stdout
    assert "Python" in done.stdout
    assert done.stderr.splitlines()[-1].startswith(
        "demo-in-vm: no sandbox runs on this machine, and no VM can be made here: it emulates"
    )
    assert "Traceback" not in done.stdout + done.stderr


FAKE = """\
#!/bin/bash
# Stands in for the VM: a line of "outcomes" is a status, or the age of the clock of one that hangs.
read -r what number <outcomes
sed -i 1d outcomes
while [ "$1" != --share ]; do shift; done
[ "${TESTS_FAILED%/*}" = "$2" ] || exit 3
echo "test_of_$number" >>"$TESTS_FAILED"
[ "$what" = status ] && exit "$number"
touch -d "-$number seconds" "$2/beat"
exec sleep 15
"""


@pytest.mark.parametrize(
    ("outcomes", "status", "left"),
    [
        ("status 1\nstatus 0\n", 1, 1),
        ("status 124\nstatus 0\n", 124, 1),
        ("clock 30\nstatus 7\n", 0, 1),
        ("clock 900\nstatus 7\n", 7, 0),
        ("status 125\nstatus 1\n", 1, 0),
        ("status 125\nstatus 125\nstatus 0\n", 125, 1),
    ],
    ids=["failed", "hung", "clock-goes", "clock-stands", "died", "died-twice"],
)
def test_only_a_vm_that_died_or_stood_still_is_started_once_more(
    tmp_path: Path, outcomes: str, status: int, left: int
) -> None:
    """A command that fails, or hangs while the VM's clock goes on, keeps its status.

    The tests that failed in the last VM are noted for `make test`.
    """
    (tmp_path / "scripts").mkdir()
    for name in ("common.sh", "vm.sh"):
        shutil.copy(SCRIPTS / name, tmp_path / "scripts")
    (tmp_path / ".build/vm").mkdir(parents=True)
    (tmp_path / ".build/runsc-path").write_text("/usr/bin/true\n")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text(FAKE)
    (tmp_path / ".venv/bin/python").chmod(0o755)
    (tmp_path / "outcomes").write_text(outcomes)
    script = tmp_path / "scripts/try"
    script.write_text('. "$(dirname "$0")/common.sh"\n. "$(dirname "$0")/vm.sh"\nin_vm 600 true\n')
    noted = tmp_path / "noted"
    done = subprocess.run(
        ["bash", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "TESTS_FAILED": str(noted)},
    )  # fmt: skip
    assert done.returncode == status, done
    assert (tmp_path / "outcomes").read_text().count("\n") == left
    last = outcomes.splitlines()[-left - 1 :][0].split()[1]
    assert noted.read_text() == f"test_of_{last}\n"
    assert list((tmp_path / ".build/vm").iterdir()) == []
