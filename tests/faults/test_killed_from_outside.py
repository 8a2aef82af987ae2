"""runsc, the gofer or the sandbox is killed from outside: never a workload's verdict."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, GvisorError, SandboxCrashed, bind
from pytest_gvisor.programs import leftovers, proc
from pytest_gvisor.programs.proc import children_of, words_of
from tests.faults.little import LONGER, PATIENCE, Little, eventually
from tests.waiting import wait_for

PARTS = ("runsc", "gofer", "boot")
"""``runsc run`` itself, and the subcommands of its two helpers."""


def part_of(keeper: int, part: str) -> int:
    """The part's process of the keeper's one sandbox, or 0 while it is not there.

    Under ``--rootless`` the helpers are grandchildren. What the sentry forks has its command line:
    the one nearest to the keeper is the sentry.
    """
    level = [pid for pid in children_of(keeper) if "run" in words_of(pid)]
    if part == "runsc":
        return next(iter(level), 0)
    while level:
        level = [child for pid in level for child in children_of(pid)]
        for pid in level:
            if part in words_of(pid):
                return pid
    return 0


class Killer(threading.Thread):
    """Kills one part of the next sandbox as soon as it is there, or a while later."""

    def __init__(self, gvisor: Gvisor, part: str, delay: float) -> None:
        super().__init__()
        self.keeper = gvisor._launcher.keeper().pid
        self.part = part
        self.delay = delay
        self.killed = False

    def run(self) -> None:
        """Look, wait, kill."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = self.find()
            if found:
                time.sleep(self.delay)
                os.kill(found, signal.SIGKILL)
                self.killed = True
                return
            time.sleep(0.001)

    def find(self) -> int:
        """The process, or 0 while it is not there."""
        return part_of(self.keeper, self.part)


class AtTheEnd(Killer):
    """Kills a part when the workload has made this file, which waits for another one before."""

    def __init__(self, gvisor: Gvisor, part: str, delay: float, last: Path, go: Path) -> None:
        super().__init__(gvisor, part, delay)
        self.last, self.go = last, go
        self.saw = False

    def run(self) -> None:
        """Find the part while it lives, wait for the file, then kill the part if it is there."""
        deadline = time.monotonic() + PATIENCE
        while not (found := self.find()) and time.monotonic() < deadline:
            time.sleep(0.001)
        pidfd = os.pidfd_open(found)
        self.go.touch()
        while not self.last.exists() and time.monotonic() < deadline:
            time.sleep(0.0005)
        self.saw = self.last.exists()
        time.sleep(self.delay)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            self.killed = True
        os.close(pidfd)


def killed(gvisor: Gvisor, part: str, delay: float) -> str | int:
    """How a run ends of which this part is killed: the error's name, or else the return code."""
    killer = Killer(gvisor, part, delay)
    killer.start()
    # No process of it ends meanwhile, not even for an open that fails (as the special `:` would):
    # such a report may hide which came first, the gofer's end or the workload's.
    script = "while :; do true < /etc/passwd; done"
    try:
        return gvisor.run(["sh", "-c", script], timeout=40).returncode
    except GvisorError as error:
        return type(error).__name__
    finally:
        killer.join()
        assert killer.killed


@pytest.mark.fault("E4", "F9")
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.6], ids=["at the start", "early", "in the middle"])
@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_is_a_failure_of_the_infrastructure(
    gvisor: Gvisor, part: str, delay: float
) -> None:
    """A typed error, nothing left, and the next run works. For the gofer, SIGKILL may be all."""
    allowed: set[str | int] = {"RunscFailed", "SandboxCrashed"}
    if part == "gofer":
        # The sentry may hear of the gofer's end, kill the workload and report that before this
        # process has a turn: the next test has an order of its own.
        allowed.add(-signal.SIGKILL)
    assert killed(gvisor, part, delay) in allowed
    session = gvisor._launcher.session().path
    assert leftovers.processes(session, everywhere=True) == []
    assert [name for name in os.listdir(session) if name.startswith("g")] == []
    assert gvisor.run(["echo", "again"]).stdout == "again\n"


class BeforeTheReport(Killer):
    """Stops the sentry of a workload that has made this file, and then kills the gofer."""

    def __init__(self, gvisor: Gvisor, up: Path) -> None:
        super().__init__(gvisor, "gofer", 0)
        self.up = up

    def find(self) -> int:
        """The gofer, once the run watches it and the sentry can report nothing any more."""
        found, sentry = part_of(self.keeper, "gofer"), part_of(self.keeper, "boot")
        if not (self.up.exists() and found in watched() and sentry):
            return 0
        os.kill(sentry, signal.SIGSTOP)
        # A group's threads stop one by one.
        threads = [int(name) for name in os.listdir(f"/proc/{sentry}/task")]
        stats = [proc.stat_of(thread) for thread in threads]
        return found if all(stat is None or stat.state == "T" for stat in stats) else 0


def watched() -> set[int]:
    """The processes of which this one has a pidfd (proc_pid_fdinfo(5))."""
    found: set[int] = set()
    for name in os.listdir("/proc/self/fdinfo"):
        with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{name}") as lines:
            found |= {int(line.split()[1]) for line in lines if line.startswith("Pid:")}
    return found


@pytest.mark.fault("E4", "F9")
def test_a_gofer_that_dies_before_any_report_is_named(gvisor: Gvisor, tmp_path: Path) -> None:
    """The sentry cannot report first, so the error says that the gofer died."""
    tmp_path.chmod(0o777)
    killer = BeforeTheReport(gvisor, tmp_path / "up")
    killer.start()
    with pytest.raises(SandboxCrashed, match="its gofer died"):
        gvisor.run(
            ["sh", "-c", "true > /shared/up; sleep 50"],
            mounts=[bind(tmp_path, "/shared", readonly=False)],
            timeout=40,
        )
    killer.join()
    assert killer.killed
    assert leftovers.processes(gvisor._launcher.session().path, everywhere=True) == []


@pytest.mark.fault("E4")
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_killed_at_the_end_makes_no_wrong_verdict(
    gvisor: Gvisor, tmp_path: Path, part: str
) -> None:
    """A kill as the workload exits with 7 gives that whole result or an infrastructure failure.

    For the gofer there is a third: the sentry kills the workload itself as soon as it hears of it.
    """
    tmp_path.chmod(0o777)
    # Not the special `:`, which ends the shell with 2 if the open fails for want of a gofer.
    wait = 'until [ -e "/shared/go-$1" ]; do sleep 0.01; done'
    script = f'{wait}; echo all of it; true > "/shared/$1"; exit 7'
    allowed: set[str | int] = {7, "RunscFailed", "SandboxCrashed"}
    if part == "gofer":
        allowed.add(-signal.SIGKILL)
    for delay in (0.0, 0.001, 0.004, 0.015):
        killer = AtTheEnd(gvisor, part, delay, tmp_path / f"{delay}", tmp_path / f"go-{delay}")
        killer.start()
        mounts = [bind(tmp_path, "/shared", readonly=False)]
        ended: str | int
        try:
            argv = ["sh", "-c", script, "sh", str(delay)]
            done = gvisor.run(argv, mounts=mounts, timeout=40)
            ended = done.returncode
            assert ended != 7 or done.stdout == "all of it\n"
        except GvisorError as error:
            ended = type(error).__name__
        killer.join()
        assert killer.saw
        assert ended in allowed, (delay, ended)
    session = gvisor._launcher.session().path
    assert leftovers.processes(session, everywhere=True) == []
    assert gvisor.run(["echo", "again"]).stdout == "again\n"


INSIDE = """
    import pathlib, time
    import pytest

    @pytest.mark.parametrize("part", ["runsc", "gofer", "boot", "keeper"])
    def test_it(part):
        pathlib.Path("build/notes", part).touch()
        time.sleep(50)

    @pytest.mark.gvisor(timeout=8)
    def test_stopped():
        pathlib.Path("build/notes/stopped").touch()
        time.sleep(50)

    def test_after():
        pass
"""
IMPATIENT = "from pytest_gvisor.run import supervisor; supervisor.KILL_DEADLINE = 0.5"


@pytest.mark.fault("E4", "F5", "F8", "F9")
def test_a_part_that_is_killed_or_stopped_fails_the_test_inside_that_ran(
    any_little: Little,
) -> None:
    """A killed or stopped part fails its test, also the keeper; the next test has a new sandbox."""

    def up(name: str) -> int:
        assert eventually(lambda: any_little.note(name)) is not None, any_little.output()
        (keeper,) = any_little.keepers()
        return keeper

    any_little.write(test_it=INSIDE, impatient=IMPATIENT)
    process = any_little.start("-p", "impatient", "--in-gvisor", "--gvisor-writable=build/notes")
    for part in PARTS:
        keeper = up(part)
        os.kill(wait_for(lambda: part_of(keeper, part), part), signal.SIGKILL)  # noqa: B023
    os.kill(up("keeper"), signal.SIGKILL)
    keeper = up("stopped")
    for pid in (wait_for(lambda: part_of(keeper, "boot"), "the sentry"), keeper):
        os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    assert eventually(lambda: keeper not in any_little.keepers()) is not None
    # The deadline, the stacks, the last words, the kill.
    assert time.monotonic() - stopped < 8 + 1 + 2 + 0.5 + LONGER
    assert process.wait(60) == pytest.ExitCode.TESTS_FAILED
    any_little.assert_gone()
    output = any_little.output()
    # A machine that is slow may not have heard of the call yet when the deadline comes.
    assert "5 failed, 1 passed" in output or "4 failed, 1 passed, 1 error" in output
    assert output.count("the sandbox was lost in this test's call") >= 4
    assert "did not end within 8 s" in output
