"""``pytest-gvisor doctor`` under obstacles to sandboxes: it names each with a remedy."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fakes.fake import FINE, FakeRunsc
from tests.plugin.conftest import DOCTOR

CHECKOUT = Path(__file__).parents[2]
REFUSING = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.faults import seccomp
seccomp.NUMBERS["x86_64"].update(ptrace=101, unshare=272)
seccomp.NUMBERS["aarch64"].update(ptrace=117, unshare=97)
for call in sys.argv[2].split(","):
    seccomp.refuse(call, 1)
del sys.argv[1:3]
"""
RELEASES = {"current": "", "2024": "runsc-2024"}


def words(text: str) -> str:
    """The doctor's lines as one."""
    return " ".join(text.split())


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The doctor's arguments for a runsc of two releases, whose texts differ."""
    name = RELEASES[request.param]
    if not name:
        return []
    path = CHECKOUT / ".build" / name / "usr/bin/runsc"
    if not path.exists():
        pytest.skip(f"no Debian archive with {name}: scripts/older-runsc")
    copy = tmp_path / "runsc"
    shutil.copyfile(path, copy)
    copy.chmod(0o755)
    return ["--runsc", str(copy)]


def doctor_without(*calls: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """The doctor where the kernel refuses these calls to it and all that it starts."""
    return subprocess.run(
        [sys.executable, "-c", REFUSING + DOCTOR, str(CHECKOUT), ",".join(calls), *options],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_without_ptrace_the_cause_is_what_the_sentry_said(release: list[str]) -> None:
    """runsc's own message is that the sandbox is gone; its log has the reason, in each release."""
    done = doctor_without("ptrace", options=release)
    told = words(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    bad = re.search(r"NO platform \w+ the probe failed: (.*?) (?:-|ok|NO) (?:platform|user) ", told)
    assert bad, told
    assert re.search(r"runsc's log: [^|]*unable to attach: operation not permitted \|", bad[1])
    assert "this process is under a seccomp filter, as in a container" in bad[1]
    assert "a program that forks, runs a thread and reads a file" in bad[1]
    assert "-> Let the container's profile allow ptrace, namespaces and mounts: " in bad[1]
    assert "Tests cannot run here: see NO above." in told


def test_the_platforms_of_the_binary_are_listed_beside_those_that_are_known(tmp_path: Path) -> None:
    """The doctor tries an unknown platform of the binary; a missing one is no problem."""
    fake = FakeRunsc.make(tmp_path / "fake")
    fake.script(
        *FINE, ["write", 1, "4.19.0-gvisor\n"], ["task_exit", 0], ["exit", 0],
        platforms=["systrap", "slimvm"],
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest_gvisor", "doctor", "--runsc", str(fake.path)],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    told = words(done.stdout)
    assert "ok platform systrap works, and is the default" in told
    assert "- platform ptrace not compiled in: this runsc has slimvm, systrap" in told
    assert "ok platform slimvm works" in told
    assert done.returncode == 0


def test_without_user_namespaces_the_switch_is_named(release: list[str]) -> None:
    """The doctor names the switch with every release, although only one release names it itself."""
    if release and os.geteuid() != 0:
        pytest.skip("needs root: another user's namespace shows nobody as the owner of /tmp")
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces"
    done = subprocess.run(
        ["unshare", "--map-root-user", "sh", "-ec", f'{forbid}; exec "$@"', "sh", sys.executable,
         "-m", "pytest_gvisor", "doctor", *release],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, cwd=CHECKOUT,
    )  # fmt: skip
    told = words(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    bad = re.search(r"NO platform \w+ the probe failed: (.*?) (?:-|ok|NO) (?:platform|user) ", told)
    assert bad, told
    assert "no space left on device" in bad[1]
    assert "/proc/sys/user/max_user_namespaces is 0: no user can make a user namespace" in bad[1]
    assert "-> As root: sysctl user.max_user_namespaces=10000" in bad[1]


def test_without_namespaces_their_want_is_said() -> None:
    """The failed launch names the missing namespaces."""
    done = doctor_without("unshare")
    told = words(done.stdout)
    assert done.stderr == ""
    if os.geteuid() == 0:  # another user's runsc makes its own by clone(2)
        assert done.returncode == 1
        assert "NO platform systrap the launch failed at mount_namespace: " in told
        assert "-> This process may not make namespaces or mounts" in told
