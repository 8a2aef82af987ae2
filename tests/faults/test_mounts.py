"""The network namespace that runsc mounts in its state folder is gone, however a run ends.

By our flags runsc makes none. A flag of the user's can have it back. A sandbox that sees nothing of
the host has no mount namespace of its own. Its mount is one of the host's. An ordinary user's is in
a namespace of runsc's, and releases before 2026-08 have none.
"""

import contextlib
import os
import signal
import subprocess

import pytest

from pytest_gvisor import Runsc
from pytest_gvisor.programs.proc import words_of
from tests.faults.little import PATIENCE, Little, eventually
from tests.mounts import points

TEST = """
    from pathlib import Path
    from pytest_gvisor import empty

    ROOTFS = empty({"busybox": Path("/bin/busybox").read_bytes()})

    def test_hangs(gvisor):
        gvisor.run(["/busybox", "sleep", "100"], rootfs=ROOTFS, timeout=50)

    def test_ends(gvisor):
        assert gvisor.run(["/busybox", "true"], rootfs=ROOTFS).returncode == 0
"""


PLUGIN = """
    def pytest_gvisor_runsc_args(item):
        return ["--gofer-network-namespace=null"]
"""


def hung(little: Little, mounted: bool, null: bool) -> subprocess.Popen[bytes]:
    """Start a run that hangs, and wait until its sandbox, and its mount, can be seen."""
    little.write(test_it=TEST, null=PLUGIN)
    process = little.start("test_it.py::test_hangs", *(["-p", "null"] if null else []))
    assert eventually(lambda: any("boot" in words_of(pid) for pid in little.processes()))
    assert process.poll() is None, little.output()
    assert bool(eventually(lambda: points(little.base), PATIENCE if mounted else 1)) == mounted
    return process


@pytest.fixture(params=[False, True], ids=["new", "null"])
def null(request: pytest.FixtureRequest, runsc: Runsc) -> bool:
    """Whether the user's flag asks for a mount, and the release has this flag."""
    return bool(request.param) and "gofer-network-namespace" in runsc.flags


@pytest.fixture
def mounted(null: bool) -> bool:
    """Whether the host has the mount while the sandbox runs."""
    return null and os.geteuid() == 0


@pytest.mark.fault("F4")
def test_sigkill_of_pytest_leaves_no_mount(little: Little, mounted: bool, null: bool) -> None:
    """The keeper unmounts the killed sandbox's mount, as it removes the other files."""
    process = hung(little, mounted, null)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    little.assert_gone()


@pytest.mark.fault("F6")
def test_the_sweep_unmounts_what_a_dead_session_has_left(
    little: Little, mounted: bool, null: bool
) -> None:
    """A session that is killed with its keeper and warden leaves all; the next one removes it."""
    process = hung(little, mounted, null)
    for pid in little.processes():  # the keeper unmounts at once when pytest is dead
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    os.killpg(process.pid, signal.SIGKILL)
    while pids := little.processes():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()
    assert little.files()
    assert bool(points(little.base)) == mounted
    little.run("test_it.py::test_ends")
    little.assert_gone()
    assert points(little.base) == []
