"""A workload that takes what the host has: its memory and its processes."""

import errno
import glob
import os
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, LaunchError, WorkloadTimeout
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


def test_no_workload_takes_a_part_of_its_input_for_all_of_it(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the kernel has no memory for the next bytes, the run fails: a count would be wrong."""
    write = os.write

    def refused(fd: int, data: bytes) -> int:
        if len(data) == 100_000 - 65_536:  # a pipe of the usual size has taken the rest
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return write(fd, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", refused)
        with pytest.raises(
            LaunchError, match=r"input cannot be written [^.]*\nThere is no memory"
        ) as caught:
            gvisor.run(["wc", "-c"], input=bytes(100_000))
    assert caught.value.errno == errno.ENOMEM
    assert gvisor.run(["wc", "-c"], input=bytes(100_000)).stdout == "100000\n"
