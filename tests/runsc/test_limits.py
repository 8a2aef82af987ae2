"""Memory, tasks and processors: limits that hold, verdicts that name them, nothing left."""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import (
    Gvisor,
    LaunchError,
    Outcome,
    SandboxCrashed,
    Usage,
    UsageError,
    WorkloadFailed,
    WorkloadTimeout,
    tmpfs,
)
from pytest_gvisor.programs import proc
from pytest_gvisor.programs.leftovers import CGROUP_PREFIX
from pytest_gvisor.run import cgroup, limits
from tests.runsc.conftest import Start


def may_make_cgroups() -> bool:
    """Whether this user is root, or owns the cgroup above: cgroups(7), Delegation."""
    own = Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("0::")[2].strip()
    delegated = Path(f"/sys/fs/cgroup{own}").parent / "cgroup.subtree_control"
    return os.geteuid() == 0 or os.access(delegated, os.W_OK)


needs_cgroups = pytest.mark.skipif(
    not may_make_cgroups(), reason="needs root: an unprivileged user may make no cgroups"
)

EAT = "blocks = []\nwhile True: blocks.append(bytearray(1 << 20))"
FORK = "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(1000)"


@pytest.fixture(autouse=True)
def cgroups(gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """The cgroups of the test's own sandboxes; after the test none is left."""
    # Other sessions run beside this one, and their cgroups come and go.
    prefix = f"{CGROUP_PREFIX}{secrets.token_hex(4)}-"
    monkeypatch.setattr(cgroup, "PREFIX", prefix)

    def found() -> list[str]:
        walked = os.walk("/sys/fs/cgroup")
        return [
            f"{at}/{name}" for at, names, _ in walked for name in names if name.startswith(prefix)
        ]

    yield found
    assert found() == []


@pytest.mark.fault("E3", "G2")
@needs_cgroups
def test_a_workload_that_takes_too_much_memory_is_told(gvisor: Gvisor) -> None:
    """A kill for the memory limit is out of memory, not a signal or a status."""
    done = gvisor.run(["python3", "-I", "-c", EAT], memory="128M", timeout=240)
    assert done.outcome is Outcome.OUT_OF_MEMORY
    assert done.returncode == -9
    with pytest.raises(WorkloadFailed, match="out of memory"):
        done.check_returncode()


@needs_cgroups
def test_a_limit_on_memory_is_the_total_that_a_workload_sees(gvisor: Gvisor) -> None:
    """Programs size themselves by it; a file system in memory may still hold all of it."""
    script = """if True:
        import os
        print(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        print(int(open("/proc/meminfo").readline().split()[1]) << 10)
        for path in ("/tmp", "/mnt"):
            found = os.statvfs(path)
            print(found.f_blocks * found.f_frsize)
    """
    words = ["python3", "-I", "-c", script]
    done = gvisor.run(words, memory="128M", mounts=[tmpfs("/mnt")], check=True)
    assert list(map(int, done.stdout.split())) == [128 << 20] * 4


def test_a_workload_sees_the_processors_that_pytest_may_use() -> None:
    """The processors of a sandbox are those of the affinity that it was started with."""
    one = str(min(os.sched_getaffinity(0)))
    words = ["taskset", "--cpu-list", one, sys.executable, "-m", "pytest_gvisor", "run", "nproc"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"1\n", b"")


@needs_cgroups
def test_a_run_with_a_limit_knows_what_it_has_used(gvisor: Gvisor) -> None:
    """Time and memory grow with the workload; a run without a limit has no figure."""
    idle = gvisor.run(["true"], pids=100).usage
    # Time, and no number of rounds: an emulated processor takes a minute for half a second of them.
    script = (
        "import time\nheld = bytearray(60 << 20)\n"
        "end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    )
    used = gvisor.run(["python3", "-I", "-c", script], memory="256M", pids=100).usage
    assert used.cpu_time is not None
    assert idle.cpu_time is not None
    assert 0 < idle.cpu_time + 0.1 < used.cpu_time
    # memory.peak is of Linux 5.19, pids.peak of 6.1.
    if used.peak_memory is not None:
        assert 60 << 20 <= used.peak_memory <= 256 << 20
    if used.peak_tasks is not None:
        assert 5 < used.peak_tasks <= 100
    assert gvisor.run(["true"]).usage == Usage()


@pytest.mark.fault("G1")
@needs_cgroups
def test_a_fork_bomb_is_stopped(gvisor: Gvisor, no_process_left: Callable[[], None]) -> None:
    """A workload that forks for ever is out of tasks, well before its deadline, not a crash.

    Its cgroup is gone when the run is over, and the kernel removes none that has a task in it.
    """
    done = gvisor.run(["python3", "-I", "-c", FORK], pids=80, timeout=240)
    assert (done.outcome, done.returncode) == (Outcome.OUT_OF_TASKS, -9)
    with pytest.raises(WorkloadFailed, match="out of tasks: pids=80 was reached"):
        done.check_returncode()
    no_process_left()
    assert gvisor.run(["echo", "alive"]).stdout == "alive\n"


@needs_cgroups
def test_a_limit_that_lets_no_sandbox_start_names_the_least(gvisor: Gvisor) -> None:
    """With fewer tasks than runsc has, a start is a usage error; twice the least are enough."""
    least = limits.LEAST_TASKS[gvisor.platform]
    with pytest.raises(UsageError, match=f"pids=15 is too few.* needs pids={least}"):
        gvisor.run(["true"], pids=15)
    assert gvisor.run(["true"], pids=2 * least).outcome is Outcome.EXITED


@needs_cgroups
def test_a_warm_sandbox_that_runs_out_of_tasks_says_so(gvisor: Gvisor) -> None:
    """The error of each program in it names the limit before the sentry's panic."""
    expected = pytest.raises(SandboxCrashed, match="has ended: out of tasks: pids=80 was")
    with gvisor.sandbox(pids=80) as sandbox, expected:
        sandbox.exec(["python3", "-I", "-c", FORK], timeout=240)


def cgroup_file(pid: int, controller: str, names: tuple[str, str]) -> str:
    """The content of a file of a process's cgroup, of version 1 or of version 2."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as lines:
        places = [line.rstrip("\n").split(":", 2) for line in lines]
    for _number, controllers, path in places:
        if controller in controllers.split(","):
            found = [
                mount.point
                for mount in proc.mounts()
                if mount.kind == "cgroup" and controller in mount.options.split(",")
            ]
            return Path(f"{found[0]}{path}/{names[0]}").read_text()
    (unified,) = [path for number, _controllers, path in places if number == "0"]
    return Path(f"/sys/fs/cgroup{unified}/{names[1]}").read_text()


@needs_cgroups
def test_the_limits_are_in_the_cgroup_of_the_running_sandbox(
    running: Start, cgroups: Callable[[], list[str]]
) -> None:
    """runsc, gofer and sentry are in one cgroup, which has the numbers that were asked for."""
    run = running(memory="300M", pids=222, cpus=0.5)
    for pid in (run.runsc, run.child("gofer"), run.child("boot")):
        memory = cgroup_file(pid, "memory", ("memory.limit_in_bytes", "memory.max"))
        assert int(memory) == 300 << 20
        assert int(cgroup_file(pid, "pids", ("pids.max", "pids.max"))) == 222
        quota = cgroup_file(pid, "cpu", ("cpu.cfs_quota_us", "cpu.max"))
        assert quota.split()[0] == "50000"
    assert cgroups()
    run.end()


@needs_cgroups
def test_limits_hold_at_the_deadline_too(
    gvisor: Gvisor, no_process_left: Callable[[], None]
) -> None:
    """A sandbox with limits that is killed at its deadline leaves no cgroup and no process."""
    with pytest.raises(WorkloadTimeout):
        gvisor.run(["sleep", "1000"], memory="256M", pids=200, cpus=1.0, timeout=1)
    no_process_left()


@pytest.mark.fault("G7")
@pytest.mark.skipif(
    may_make_cgroups(),
    reason="needs an unprivileged user: root, or who owns a cgroup, has its limits",
)
@pytest.mark.parametrize(
    "limit", [{"memory": "256M"}, {"pids": 100}, {"cpus": 0.5}], ids=["memory", "pids", "cpus"]
)
def test_a_limit_that_cannot_be_had_is_an_error(gvisor: Gvisor, limit: dict[str, Any]) -> None:
    """Without the right to make cgroups a limit fails the launch; it is never left out silently."""
    with pytest.raises(LaunchError, match="limit cannot be set") as caught:
        gvisor.run(["true"], **limit)
    assert caught.value.stage == "cgroup"
    assert gvisor.records[-1].completed is None
