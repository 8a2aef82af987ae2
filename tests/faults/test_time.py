"""A runsc that hangs wherever it can, and a clock that jumps."""

import itertools
import os
import time
from pathlib import Path

import pytest

from pytest_gvisor import RunscFailed, WorkloadTimeout
from pytest_gvisor.run.supervisor import LINGER, TERM_GRACE
from pytest_gvisor.sessions import launcher
from tests.fakes.fake import FINE, FakeRunsc, Step
from tests.fakes.runs import Runs
from tests.faults.little import LONGER, Little

TIMEOUT = 0.4
LONGEST = TIMEOUT + TERM_GRACE + LINGER + LONGER
"""The deadline, the grace, the wait for output that somebody holds, and the machine's own time."""
HOUR = 3600.0


@pytest.mark.fault("F10")
@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([["hang"]], id="before it has connected"),
        pytest.param([["stop"]], id="stopped before it has connected"),
        pytest.param([["gofer"], ["state"], ["hang"]], id="with a gofer"),
        pytest.param([["connect"], ["hang"]], id="before the workload"),
        pytest.param([["gofer"], *FINE, ["task_exit", 0], ["hang"]], id="after the workload"),
        pytest.param([*FINE, ["close", 1], ["close", 2], ["orphan", True], ["hang"]], id="silent"),
    ],
)
def test_a_runsc_that_hangs_is_dead_soon_after_the_deadline(
    runs: Runs, fake: FakeRunsc, canary: Path, steps: list[Step]
) -> None:
    """A runsc that hangs before, in or after the workload is a time-out, and the next run works."""
    fake.script(*steps)
    started = time.monotonic()
    ended = runs(timeout=TIMEOUT)
    assert isinstance(ended.error, WorkloadTimeout)
    assert time.monotonic() - started < LONGEST
    assert runs.left() == []
    fake.script(*FINE, ["task_exit", 0], ["exit", 0])
    assert runs().completed is not None


@pytest.mark.fault("E11")
def test_who_holds_the_streams_after_runsc_s_end_is_not_waited_for(
    runs: Runs, fake: FakeRunsc
) -> None:
    """A process that outlives runsc, as none of a sandbox does, is not waited for."""
    fake.script(*FINE, ["write", 1, "x"], ["orphan", True], ["task_exit", 0], ["exit", 0])
    started = time.monotonic()
    completed = runs().completed
    assert time.monotonic() - started < LINGER + LONGER
    assert completed is not None
    assert (completed.returncode, completed.stdout) == (0, "x")
    assert runs.left() == []


KEEPER = """
import itertools, sys, time

jumps = itertools.cycle([0.0, 3600.0, -3600.0])
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + next(jumps)
time.time_ns = lambda: real_ns() + int(next(jumps) * 1e9)
del sys.modules[__name__]
sys.modules["pytest_gvisor.programs"].__path__ = [{folder!r}]
import pytest_gvisor.programs.keeper
"""


@pytest.fixture
def jumping_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by an hour at each look, here and in the keeper."""
    program = tmp_path / "keeper.py"
    program.write_text(KEEPER.format(folder=str(Path(launcher._PROGRAM).parent)))
    jumps = itertools.cycle([0.0, HOUR, -HOUR])
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(launcher, "_PROGRAM", str(program))
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(next(jumps) * 1e9))


@pytest.mark.fault("F11")
@pytest.mark.usefixtures("jumping_clock")
def test_deadlines_and_durations_do_not_follow_the_clock(runs: Runs, fake: FakeRunsc) -> None:
    """A jumping clock neither ends a slow run early nor a hanging run late."""
    fake.script(*FINE, ["sleep", 0.5], ["task_exit", 0], ["exit", 0])
    completed = runs(timeout=20.0).completed
    assert completed is not None
    assert 0.5 <= completed.duration < 20
    fake.script(*FINE, ["hang"], kill=[["hang"]])
    started = time.monotonic()
    error = runs(timeout=TIMEOUT).error
    assert isinstance(error, WorkloadTimeout)
    assert TIMEOUT <= time.monotonic() - started < LONGEST
    assert runs.left() == []
    fake.script(["exit", 1])
    assert isinstance(runs().error, RunscFailed)


@pytest.mark.fault("F11")
def test_a_clock_that_has_just_begun_is_a_clock(any_little: Little) -> None:
    """A monotonic clock near zero, as after a boot, works, with the boot time an hour ahead.

    Nobody may step the clocks of a time namespace once a process is in it, and CLOCK_REALTIME is
    the machine's. So a jump in a test has to be pretended, as above.
    """
    back = int(time.monotonic()) - 2
    any_little.before = ("unshare", "--map-root-user", "--time", "--fork", "--kill-child",
                         f"--monotonic=-{back}", "--boottime=3600")  # fmt: skip
    if os.geteuid() == 0:
        any_little.before = ("unshare", *any_little.before[2:])
    any_little.write(
        test_it="""
        import time
        import pytest
        import pytest_gvisor

        def test_it(gvisor):
            assert time.monotonic() < 60
            assert gvisor.run(["echo", "x"]).stdout == "x\\n"
            started = time.monotonic()
            with pytest.raises(pytest_gvisor.WorkloadTimeout):
                gvisor.run(["sleep", "100"], timeout=0.5)
            assert 0.5 <= time.monotonic() - started < 40
        """
    )
    any_little.run()
    assert any_little.left() == []


@pytest.mark.fault("F11")
def test_no_clock_that_a_test_has_replaced_counts(any_little: Little) -> None:
    """A deadline passes while the time stands still, and no later one has passed when it leaps."""
    any_little.write(
        test_it="""
        import threading, time
        import pytest
        import pytest_gvisor

        def test_it(gvisor, gvisor_sandbox, monkeypatch):
            ended = []
            run = lambda: ended.append(gvisor.run(["sh", "-c", "sleep 3; exit 5"], timeout=60))
            other = threading.Thread(target=run)
            started = time.perf_counter()
            other.start()
            for now in (time.monotonic(), 2e9):
                monkeypatch.setattr(time, "monotonic", lambda: now)
                for workloads in (gvisor.run, gvisor_sandbox.exec):
                    with pytest.raises(pytest_gvisor.WorkloadTimeout):
                        workloads(["sleep", "100"], timeout=0.5)
            other.join()
            assert ended[0].returncode == 5
            assert 0 < ended[0].duration < time.perf_counter() - started < 80
        """
    )
    assert "1 passed" in any_little.run()


STOPS = """
import os
import subprocess

HALF = SECONDS / 2

def stop_this_process():
    script = "sleep {1}; kill -STOP {0}; sleep {2}; kill -CONT {0}"
    script = script.format(os.getpid(), SECONDS / 4, SECONDS + 1)
    return subprocess.Popen(["sh", "-c", script], start_new_session=True)

def test_run(gvisor):
    with stop_this_process():
        done = gvisor.run(["sh", "-c", f"sleep {HALF}; echo x"], timeout=SECONDS)
    assert done.stdout == "x\\n"

def test_exec(gvisor_sandbox):
    with stop_this_process():
        done = gvisor_sandbox.exec(["sh", "-c", f"sleep {HALF}; echo x"], timeout=SECONDS)
    assert done.stdout == "x\\n"

def test_load(gvisor_sandbox, tmp_path):
    source = f"import time\\ndef f(): return time.sleep({HALF}) or 5"
    (tmp_path / "answers.py").write_text(source)
    module = gvisor_sandbox.load(tmp_path / "answers.py", timeout=SECONDS)
    with stop_this_process():
        assert module.f() == 5
"""


@pytest.mark.fault("F8")
def test_what_ends_in_time_is_no_time_out_if_this_process_was_stopped(any_little: Little) -> None:
    """A run, a command and a call that have ended by then keep their results after SIGCONT."""
    for seconds in (4, 40):  # a busy machine may take longer to start them
        any_little.write(test_it=STOPS.replace("SECONDS", str(seconds)))
        status = any_little.start().wait(300)
        if status == 0:
            break
    assert status == 0, any_little.output()
