"""A workload that takes what the host has: its memory and its processes."""

import glob
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, WorkloadTimeout
from pytest_gvisor.programs import leftovers, proc

FORKS = """
import os, time
for _ in range(250):
    if os.fork() == 0:
        time.sleep(1000)
print("up", flush=True)
time.sleep(1000)
"""


def test_the_hosts_oom_killer_ends_a_sandbox_first(gvisor: Gvisor) -> None:
    """Each process of a sandbox has the highest score there is, and no other process gets it."""
    mine = Path("/proc/self/oom_score_adj").read_text()
    with gvisor.sandbox():
        pids = leftovers.processes(gvisor._launcher.session().path, everywhere=True)
        scores = [proc.text_in(f"/proc/{pid}/oom_score_adj") for pid in pids]
    scores = [score for score in scores if score]  # not of a process that has ended
    assert (len(scores) >= 3, set(scores)) == (True, {"1000\n"})
    assert Path("/proc/self/oom_score_adj").read_text() == mine


def test_a_time_out_is_raised_when_the_last_thread_has_ended(gvisor: Gvisor) -> None:
    """Hundreds of processes inside are threads of the host: none of them is there any more."""
    for timeout in (4, 40):  # a busy machine may take longer to start them
        with pytest.raises(WorkloadTimeout) as caught:
            gvisor.run(["python3", "-I", "-S", "-c", FORKS], timeout=timeout)
        keepers = [pid for pid in proc.children_of_self() if "keeper.py" in str(proc.words_of(pid))]
        threads = [
            glob.glob(f"/proc/{pid}/task/*")  # none if the keeper reaps it now
            for keeper in keepers
            for pid in proc.children_of(keeper)
            if not proc.words_of(pid)
        ]
        if caught.value.stdout:
            break
    assert keepers
    assert [len(of_one) for of_one in threads if len(of_one) > 1] == []
