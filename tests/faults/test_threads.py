"""Many threads launch at once, and the thread that launched is gone."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_gvisor import Gvisor
from pytest_gvisor.sessions.launcher import Launcher

THREADS = 8


@pytest.mark.fault("D2")
def test_eight_threads_run_200_sandboxes(gvisor: Gvisor, is_first_platform: bool) -> None:
    """Each run gets its own output, none hangs, and no descriptor or thread is left."""
    each = 25 if is_first_platform else 5
    gvisor.run(["true"])
    before = len(os.listdir("/proc/self/fd"))

    def runs(thread: int) -> list[str]:
        done = [gvisor.run(["echo", f"{thread}.{number}"]) for number in range(each)]
        return [one.stdout for one in done]

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(runs, range(THREADS)))
    assert found == [[f"{t}.{n}\n" for n in range(each)] for t in range(THREADS)]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.fault("D3")
def test_a_sandbox_outlives_the_thread_that_launched_it(gvisor: Gvisor, short_folder: str) -> None:
    """A parent-death signal is sent when the launching *thread* ends: that is the keeper's.

    The keeper itself is started by a thread that ends at once, while the sandbox of another runs.
    """
    launcher = Launcher(short_folder)
    first = threading.Thread(target=launcher.keeper)
    first.start()
    first.join()
    other = Gvisor(runsc=gvisor.runsc, platform=gvisor.platform, launcher=launcher)
    found: list[str] = []
    second = threading.Thread(
        target=lambda: found.append(other.run(["sh", "-c", "sleep 1; echo well"]).stdout)
    )
    second.start()
    for _ in range(20):
        short_lived = threading.Thread(target=launcher.session)
        short_lived.start()
        short_lived.join()
    second.join()
    launcher.close()
    assert found == ["well\n"]
