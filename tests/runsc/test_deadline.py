"""The end of a call at its deadline, with the output so far and no process of the sandbox left."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from pytest_gvisor import Gvisor, Outcome, WorkloadTimeout
from pytest_gvisor.run import supervisor
from pytest_gvisor.run.supervisor import TERM_GRACE
from tests.faults.little import STRICT
from tests.runsc.conftest import Running, Start, status_of, wait_for

SLACK = 1.0 if STRICT else 40.0
"""Seconds for the kill and the removal, or what a busy machine makes of one."""


@pytest.fixture(autouse=True)
def ends_in_time_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, no_process_left: Callable[[], None]
) -> Iterator[None]:
    """After each test of this file, no process of its sandboxes runs."""
    # A SIGKILL without effect costs more than the slack.
    monkeypatch.setattr(supervisor, "KILL_DEADLINE", 10 * SLACK)
    yield
    no_process_left()


def timed_out(gvisor: Gvisor, script: str, timeout: float) -> WorkloadTimeout:
    """The error that this script, which writes something at once, ends in; it comes in time.

    On a busy machine a sandbox may take the whole time to start: it has a second, longer try.
    """
    for longer in (timeout, 10 * timeout):
        started = time.monotonic()
        with pytest.raises(WorkloadTimeout) as caught:
            gvisor.run(["sh", "-c", script], timeout=longer)
        assert time.monotonic() - started < longer + TERM_GRACE + SLACK
        assert caught.value.completed.outcome is Outcome.TIMED_OUT
        if caught.value.stdout:
            break
    return caught.value


def test_a_hang_ends_at_the_deadline(gvisor: Gvisor) -> None:
    """A workload that sleeps is ended, and its output so far is in the error."""
    error = timed_out(gvisor, "echo out; echo err >&2; exec sleep 1000", 1)
    assert (error.stdout, error.stderr) == ("out\n", "err\n")
    assert error.completed.duration >= 1
    assert "still running after 1" in str(error)
    assert gvisor.records[-1].error is error


@pytest.mark.fault("G4")
def test_a_busy_workload_ends_at_the_deadline(gvisor: Gvisor) -> None:
    """A workload that only computes ends like one that sleeps."""
    timed_out(gvisor, "echo on; while :; do :; done", 1)


def test_a_flood_ends_at_the_deadline(gvisor: Gvisor) -> None:
    """A workload that writes for ever is ended, and its output is counted."""
    error = timed_out(gvisor, "exec yes", 1)
    assert error.completed.stdout_total > 0
    assert error.stdout.startswith("y\ny\n")


@pytest.mark.fault("F1")
def test_an_exit_in_the_grace_is_still_a_time_out(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workload that catches SIGTERM and ends with 0 is late; its last output is kept."""
    # SIGTERM comes by a command of runsc, which takes longer than a second on a busy machine.
    monkeypatch.setattr(supervisor, "TERM_GRACE", SLACK)
    script = "trap 'echo tidied; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    error = timed_out(gvisor, script, 1.5)
    assert error.stdout == "ready\ntidied\n"
    assert error.completed.outcome is Outcome.TIMED_OUT
    assert error.completed.returncode == 0


@pytest.mark.fault("F2")
def test_what_ignores_sigterm_and_forks_is_dead_soon(gvisor: Gvisor) -> None:
    """A workload that ignores SIGTERM and starts process after process is gone after the grace."""
    script = "trap '' TERM; echo ready; while :; do sleep 1000 & sleep 0.01; done"
    assert timed_out(gvisor, script, 1.5).stdout == "ready\n"


@pytest.mark.fault("E6")
def test_a_grandchild_with_the_pipe_does_not_hold_up_the_deadline(gvisor: Gvisor) -> None:
    """A process of its own session that keeps both streams open dies with the rest."""
    script = (
        "setsid sh -c \"trap '' TERM HUP; echo grandchild; while :; do sleep 0.1; done\" &"
        "trap '' TERM; wait; wait; sleep 1000"
    )
    assert timed_out(gvisor, script, 1.5).stdout == "grandchild\n"


@pytest.mark.fault("F8")
@pytest.mark.parametrize("which", ["runsc", "boot", "gofer"])
def test_a_stopped_process_does_not_hold_up_the_deadline(running: Start, which: str) -> None:
    """SIGSTOP to runsc or one of its children from outside: the deadline holds all the same."""

    def stopped(timeout: float) -> Running:
        run = running("echo before", timeout=timeout)
        pid = run.runsc if which == "runsc" else run.child(which)
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: status_of(pid)["State"].startswith(("T", "t")), "the process to stop")
        return run

    timeout = 5
    try:
        run = stopped(timeout)
    except (AssertionError, OSError, pytest.fail.Exception):  # it was over before it was stopped
        timeout = 50
        run = stopped(timeout)
    started = time.monotonic()
    with pytest.raises(WorkloadTimeout) as caught:
        run.wait()
    assert time.monotonic() - started < timeout + TERM_GRACE + SLACK
    assert caught.value.stdout == "before\n"
