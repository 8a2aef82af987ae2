"""The network namespace that runsc mounts in its state folder is gone, however a run ends.

A sandbox that sees nothing of the host has no mount namespace beside the host's: its mount is one
of the host's. An ordinary user's is in a namespace of runsc's, and releases before 2026-08 have
none; there the same tests hold that no mount was made.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import pytest

from pytest_gvisor import Runsc
from tests.faults.little import Little, eventually, words_of
from tests.mounts import points

if TYPE_CHECKING:
    import subprocess

TEST = """
    from pathlib import Path
    from pytest_gvisor import empty

    ROOTFS = empty({"busybox": Path("/bin/busybox").read_bytes()})

    def test_hangs(gvisor):
        gvisor.run(["/busybox", "sleep", "100"], rootfs=ROOTFS, timeout=50)

    def test_ends(gvisor):
        assert gvisor.run(["/busybox", "true"], rootfs=ROOTFS).returncode == 0
"""


def hung(little: Little, runsc: Runsc) -> subprocess.Popen[bytes]:
    """Start a run that hangs, and wait until its sandbox, and its mount, can be seen."""
    little.write(test_it=TEST)
    process = little.start("test_it.py::test_hangs")
    assert eventually(lambda: any("boot" in words_of(pid) for pid in little.processes()))
    assert process.poll() is None, little.output()
    assert bool(eventually(lambda: points(little.base), 5)) == is_hosts(runsc)
    return process


def is_hosts(runsc: Runsc) -> bool:
    """Whether a mount of this release is one of the host's."""
    return runsc.has_flag("gofer-network-namespace") and os.geteuid() == 0


@pytest.mark.fault("F4")
def test_sigkill_of_pytest_leaves_no_mount(little: Little, runsc: Runsc) -> None:
    """The keeper unmounts what the killed sandbox had, as it removes the rest."""
    process = hung(little, runsc)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    little.assert_gone()


@pytest.mark.fault("F6")
def test_the_sweep_unmounts_what_a_dead_session_has_left(little: Little, runsc: Runsc) -> None:
    """A session that is killed with its keeper and warden leaves all; the next one removes it."""
    process = hung(little, runsc)
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
    assert bool(points(little.base)) == is_hosts(runsc)
    little.run("test_it.py::test_ends")
    little.assert_gone()
    assert points(little.base) == []
