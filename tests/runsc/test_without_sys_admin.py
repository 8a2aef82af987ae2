"""Root without CAP_SYS_ADMIN, as in a container without a seccomp profile: as an ordinary user."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_gvisor import Platform
from tests.plugin.conftest import DOCTOR

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it drops a capability")

WITHOUT = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
TESTS = """
import os
import pytest
from pytest_gvisor import UsageError, WorkloadTimeout, is_gvisor_kernel

def test_who_runs_this():
    with open("/proc/self/status") as status:
        bits = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    assert (os.geteuid(), bits >> 21 & 1) == (0, 0)

@pytest.mark.parametrize("rootless", ["auto", "on"])
def test_a_workload(gvisor, rootless):
    done = gvisor.run(["sh", "-c", "uname -r; id -u; cat"], input="through", rootless=rootless)
    release, rest = done.stdout.split("\\n", 1)
    assert is_gvisor_kernel(release), done
    assert rest == "0\\nthrough"
    argv = gvisor.records[-1].argv
    assert "--rootless" not in argv
    # What is bound read-only is so for runsc too: no other way to open files was needed.
    assert "--directfs=false" not in argv

def test_off_cannot_be_had(gvisor):
    with pytest.raises(UsageError, match="needs CAP_SYS_ADMIN"):
        gvisor.run(["true"], rootless="off")

def test_a_network_of_its_own(gvisor):
    assert "lo:" in gvisor.run(["cat", "/proc/net/dev"], network="sandbox").stdout

def test_a_deadline(gvisor):
    with pytest.raises(WorkloadTimeout):
        gvisor.run(["sleep", "1000"], timeout=1)

def test_a_warm_sandbox(gvisor_sandbox):
    assert is_gvisor_kernel(gvisor_sandbox.exec(["uname", "-r"]).stdout.strip())

@pytest.mark.in_gvisor
def test_inside():
    assert is_gvisor_kernel(os.uname().release)
    assert os.getuid() == 0
"""


def test_everything_runs_and_nothing_is_left(gvisor_platform: Platform, tmp_path: Path) -> None:
    """Workloads, a network, warm sandboxes and tests inside; the session's folder is gone."""
    (tmp_path / "test_inner.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    # fmt: off
    argv = [
        *WITHOUT, sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider",
        "--basetemp", str(tmp_path / "inner"), "--gvisor-platform", gvisor_platform,
        "--gvisor-strict", "test_inner.py",
    ]
    # fmt: on
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert "8 passed" in done.stdout, done.stdout + done.stderr
    assert (done.returncode, done.stderr) == (0, "")


def test_the_doctor_says_that_tests_can_run() -> None:
    """The doctor's probe works without CAP_SYS_ADMIN, no session is left, and its JSON says it."""
    done = subprocess.run(
        [*WITHOUT, sys.executable, "-c", DOCTOR, "--json"],
        capture_output=True, text=True, timeout=120, cwd="/",
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert (told["schema"], told["can_run"]) == (1, True), told
    found = {finding["name"]: finding for finding in told["findings"]}
    assert found["runsc"]["state"] == found["platform systrap"]["state"] == "good"
    kvm = found["platform kvm"]
    assert kvm["state"] == "good" or (kvm["detail"] and kvm["next_step"])
    assert (done.returncode, done.stderr) == (0, "")


def test_a_replay_takes_the_same_way(gvisor_platform: Platform, tmp_path: Path) -> None:
    """The replay script makes the user namespace that the child made for the run."""
    (tmp_path / "test_inner.py").write_text(
        "def test_it(gvisor):\n    gvisor.run(['sh', '-c', 'echo again; exit 7'])\n"
    )
    argv = [
        *WITHOUT, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp",
        str(tmp_path / "inner"), "--gvisor-platform", gvisor_platform, "--gvisor-strict",
        "--gvisor-keep", "all", "test_inner.py",
    ]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True, timeout=100, cwd=tmp_path)
    (script,) = tmp_path.rglob("replay.sh")
    done = subprocess.run([*WITHOUT, script], capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.returncode) == ("again\n", 7), done.stderr
