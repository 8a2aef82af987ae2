"""runsc's own logs of runs without a fault: their warnings are no cause of anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, Platform, Runsc, empty
from pytest_gvisor.run import logs
from pytest_gvisor.sessions.launcher import Launcher
from pytest_gvisor.settings import Settings

BUSYBOX = Path("/bin/busybox").read_bytes()


def causes(gvisor: Gvisor) -> dict[str, str]:
    """The cause that each log of the last run would be given."""
    return {name: logs.cause(text) for name, text in gvisor.records[-1].debug_logs.items()}


@pytest.mark.parametrize("status", [0, 3])
def test_a_good_run_has_no_cause_in_its_logs(each_runsc: Runsc, status: int) -> None:
    """Each release logs no cause in a good run, with the host's folders, an image or a network."""
    launcher = Launcher()
    gvisor = Gvisor(
        runsc=each_runsc,
        platform=Platform.SYSTRAP,
        launcher=launcher,
        settings=Settings(debug=True),
    )
    try:
        done = gvisor.run(["sh", "-c", f"exit {status}"])
        assert (done.stdout, done.stderr, done.returncode) == ("", "", status)
        assert set(causes(gvisor).values()) == {""}
        script = ["/busybox", "sh", "-c", f"exit {status}"]
        done = gvisor.run(script, rootfs=empty({"busybox": BUSYBOX}))
        assert (done.stdout, done.stderr, done.returncode) == ("", "", status)
        assert set(causes(gvisor).values()) == {""}
        if os.geteuid() == 0:
            done = gvisor.run(["true"], network="sandbox")
            assert (done.stderr, done.returncode) == ("", 0)
            assert set(causes(gvisor).values()) == {""}
    finally:
        launcher.close()
