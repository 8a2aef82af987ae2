"""Waiting for something that has to happen, however busy the machine is."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.programs import proc

PATIENCE = 60.0
"""Seconds after which something that has to happen is taken not to happen; it costs nothing."""


def wait_for(look: Callable[[], Any], what: str) -> Any:
    """The first true value of ``look``; fails the test if it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {PATIENCE:g} s for {what}")
        time.sleep(0.01)
    return found


def wait_for_end(pid: int) -> None:
    """Wait until there is no process of this number, not even a zombie."""
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), f"the end of process {pid}")


def stop(pid: int) -> None:
    """SIGSTOP a process, and wait until each of its threads is stopped: kill(2) does not wait.

    A process that is woken by the signal while it waits for a child may take a status first.
    """

    def is_stopped() -> bool:
        stats = [proc.stat_of(int(thread)) for thread in os.listdir(f"/proc/{pid}/task")]
        return all(stat is None or stat.state in "Tt" for stat in stats)

    os.kill(pid, signal.SIGSTOP)
    wait_for(is_stopped, f"process {pid} to stop")


def wait_for_tick(folder: Path) -> None:
    """Wait until files in this folder get a later time: the kernel's clock for these has ticks."""
    probe = folder / "tick"
    probe.touch()
    before = probe.stat().st_mtime_ns

    def look() -> bool:
        probe.touch()
        return probe.stat().st_mtime_ns > before

    wait_for(look, "a later time of files")
    probe.unlink()
