"""``scripts/with-runsc``: tests find a runsc, and nothing is written outside of the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import releases

SCRIPTS = Path(__file__).parents[2] / "scripts"
FIND = """
import os
from pytest_gvisor import Runsc
runsc = Runsc.find()
found = sorted(os.listdir("/usr/local/bin"))
print(runsc.path, runsc.origin, found, os.environ["TESTS_RUNSC"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a mount namespace")
def test_tests_find_the_choice_of_set_up_and_the_machine_stays_as_it_is(tmp_path: Path) -> None:
    """The machine's own programs of that folder are there too."""
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".build").mkdir()
    choice = tmp_path / "runsc"
    shutil.copy(releases.found(), choice)
    setup = f"#!/bin/sh\necho {choice} > {tmp_path}/.build/runsc-to-put\n"
    (tmp_path / "scripts/setup").write_text(setup)
    local = tmp_path / "local"
    local.mkdir(mode=0o755)
    (local / "other").touch()
    script = 'mount --bind "$1" /usr/local/bin; shift; exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script, "-", local, tmp_path / "scripts/with-runsc",
         "test", sys.executable, "-c", FIND],
        cwd=SCRIPTS.parent, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        "/usr/local/bin/runsc found by the search ['other', 'runsc'] yes"
    ]
    assert os.listdir(local) == ["other"]
