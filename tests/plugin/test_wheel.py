"""The runsc of a wheel beside the package: what says so, and what comes before it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_gvisor import Runsc
from tests.plugin.conftest import DOCTOR, Project
from tests.sidecars import has_sidecars

STRANGER = 12345
TEST = "def test_it(gvisor): assert gvisor.run(['echo', 'x'], check=True).stdout == 'x\\n'"


@pytest.fixture
def wheel(runsc: Runsc, tmp_path: Path) -> Path:
    """The runsc of this machine, laid out as the wheel has it."""
    if not has_sidecars(runsc):
        pytest.skip("no sentry beside this release of runsc")
    (tmp_path / "pytest_gvisor").mkdir()
    path = tmp_path / "pytest_gvisor_runsc/bin/gvisor_sentry"
    path.parent.mkdir(parents=True)
    shutil.copy(runsc.path, path)
    for part in (path, path.parent, path.parent.parent):
        part.chmod(0o755)
    return path


@pytest.fixture
def beside(alone: Project, wheel: Path) -> Project:
    """A project whose package has the wheel beside it."""
    return alone.test(
        TEST,
        conftest="from pytest_gvisor.runsc import locate\n"
        f"locate.find.__kwdefaults__['package'] = {str(wheel.parents[2] / 'pytest_gvisor')!r}",
    )


def test_header_and_reports_say_that_it_is_of_the_wheel(
    beside: Project, runsc: Runsc, wheel: Path
) -> None:
    """A workload runs with it."""
    ran = beside.run("--gvisor-report=r.json", "--gvisor-report=r.md").ends(passed=1)
    why = "from the wheel pytest-gvisor-runsc"
    assert ran.line("gvisor:").startswith(f"gvisor: runsc {runsc.version} ({wheel}, {why}), ")
    report = json.loads((beside.folder / "r.json").read_text())
    assert report["legs"][0]["runsc"] == [
        {"version": runsc.version, "path": str(wheel), "origin": why}
    ]
    assert f"runsc `{runsc.version}` (`{wheel}`, `{why}`)" in (beside.folder / "r.md").read_text()


def test_option_and_variable_come_before_it(beside: Project, runsc: Runsc) -> None:
    """The header says that a setting has named it."""
    named = f"gvisor: runsc {runsc.version} ({runsc.path}, named by a setting), "
    ran = beside.run(f"--gvisor-runsc={runsc.path}").ends(passed=1)
    assert ran.line("gvisor:").startswith(named)
    ran = beside.run(PYTEST_GVISOR_RUNSC=runsc.path).ends(passed=1)
    assert ran.line("gvisor:").startswith(named)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a wheel of another owner")
def test_roots_header_names_the_wheel_that_was_passed_over(
    beside: Project, runsc: Runsc, wheel: Path
) -> None:
    """``sudo pytest`` in a user's environment takes the machine's own runsc."""
    os.chown(wheel, STRANGER, STRANGER)
    ran = beside.run().ends(passed=1)
    passed = f"{wheel} was passed over: it is owned by uid {STRANGER} (allowed: root)"
    line = ran.line("gvisor:")
    assert line.startswith(f"gvisor: runsc {runsc.version} ({runsc.path}) ({passed}), ")


def test_the_doctor_says_where_runsc_is_from(beside: Project, wheel: Path) -> None:
    """Its line names the wheel, and the one beside it the sentry, which is the same file."""
    done = subprocess.run(
        [sys.executable, "-c", f"import conftest\n{DOCTOR}", "--json"],
        cwd=beside.folder, stdout=subprocess.PIPE, timeout=60,
    )  # fmt: skip
    said = {one["name"]: one["detail"] for one in json.loads(done.stdout)["findings"]}
    assert f" at {wheel}, from the wheel pytest-gvisor-runsc, trusted, with " in said["runsc"]
    assert said["sidecars"] == f"gvisor_sentry in {wheel.parent}, trusted"
