"""Whole runs of a scripted fake runsc: each has one verdict, and leaves nothing."""

import errno
import itertools
import signal
import time
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_gvisor.base.completed import Completed, Outcome, SandboxCrashed, WorkloadTimeout
from pytest_gvisor.base.errors import (
    GvisorError,
    InsecureRunsc,
    InvalidBundle,
    LaunchError,
    RunscFailed,
    TraceError,
)
from pytest_gvisor.run.request import Hooks
from pytest_gvisor.run.supervisor import LINGER, TERM_GRACE
from tests.fakes.fake import FINE, FakeRunsc, Step
from tests.fakes.runs import Ended, Runs
from tests.faults.little import STRICT

TIMEOUT = 0.4
LONGEST = TIMEOUT + TERM_GRACE + LINGER + (1.0 if STRICT else 40.0)
"""The deadline, the grace, the wait for output that someone holds, and the machine's own time."""

ERRORS: dict[Outcome, type[GvisorError]] = {
    Outcome.TIMED_OUT: WorkloadTimeout,
    Outcome.RUNSC_FAILED: RunscFailed,
    Outcome.SANDBOX_CRASHED: SandboxCrashed,
}
WORKLOADS = frozenset({Outcome.EXITED, Outcome.SIGNALLED})


@dataclass(frozen=True, kw_only=True)
class End:
    """The end of a script, and its meaning."""

    steps: list[Step]
    agreed: bool = False
    """Whether the sentry reports an end of the workload that runsc's exit status confirms."""


def exited(status: int) -> End:
    """The workload exits with this status."""
    return End(steps=[["task_exit", status << 8], ["exit", status]], agreed=True)


def signalled(number: int) -> End:
    """The workload is ended by this signal."""
    return End(steps=[["task_exit", int(number)], ["exit", 128 + number]], agreed=True)


def contradicted(statuses: tuple[int, int]) -> End:
    """The sentry reports one exit status, and runsc ends with another."""
    told, ended = statuses
    steps: list[Step] = [["task_exit", told << 8], ["exit", ended]]
    return End(steps=steps, agreed=told == ended)


codes = st.sampled_from([0, 1, 2, 42, 126, 127, 128, 129, 137, 143, 255])
numbers = st.sampled_from([signal.SIGHUP, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
silent: list[list[Step]] = [
    [["hang"]],
    [["stop"]],
    [["spin"]],
    [["on_term", []], ["hang"]],
    [["on_term", [["exit", 0]]], ["hang"]],
    [["on_term", [["task_exit", 0], ["exit", 0]]], ["hang"]],
]
ends = st.one_of(
    codes.map(exited),
    numbers.map(signalled),
    st.tuples(codes, codes).map(contradicted),
    codes.map(lambda status: End(steps=[["exit", status]])),
    numbers.map(lambda number: End(steps=[["signal", int(number)]])),
    st.sampled_from(silent).map(lambda steps: End(steps=steps)),
)
noises: st.SearchStrategy[list[Step]] = st.lists(
    st.sampled_from([
        ["write", 1, "out\n"], ["write", 2, "\xff\x00\x1b[2J"], ["write", 1, "x" * 100, 1000],
        ["close", 0], ["close", 1], ["gofer"], ["orphan", True], ["orphan", False], ["state"],
        ["flood", 300], ["task_exit", 0, 2, 7], ["raw_event", "ff"], ["raw_event", ""],
        ["event", 5, "ffff"], ["event", 77, "0a00"], ["log", "cannot"],
        ["panic", "fatal error: fault"], ["append", "log", "{not json"],
    ]),
    max_size=4,
    unique_by=lambda step: str(step[0]),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Play:
    """One script of the fake, and the facts about it."""

    connects: bool
    before: list[Step]
    end: End

    @property
    def steps(self) -> list[Step]:
        """The whole script."""
        return [*(FINE if self.connects else ()), *self.before, *self.end.steps]

    def allows(self, completed: Completed) -> bool:
        """Whether this may be the workload's own end.

        The sentry has reported one that runsc's exit status agrees with, and runsc did not
        complain. Otherwise the sentry's report makes no sense, and the result says that it is not
        exact.
        """
        noise = {str(step[0]) for step in self.before}
        garbled = "raw_event" in noise or "event" in noise
        fine = self.connects and not noise & {"log", "append"}
        return fine and (self.end.agreed if completed.exact else garbled)


plays = st.builds(Play, connects=st.booleans(), before=noises, end=ends)


def check_machine(ended: Ended) -> Outcome:
    """Check that a run has a verdict, and the error that belongs to it."""
    assert ended.outcome is not None
    expected = ERRORS.get(ended.outcome)
    assert (type(ended.error) if ended.error else None) is expected
    assert (ended.completed is None) is (ended.error is not None)
    return ended.outcome


@pytest.mark.fault("F10")
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(play=plays)
def test_whatever_runsc_does_there_is_one_verdict_and_nothing_left(
    runs: Runs, fake: FakeRunsc, play: Play
) -> None:
    """One verdict, in time; the workload's only if it was really reported; nothing is left."""
    fake.script(*play.steps)
    started = time.monotonic()
    ended = runs(timeout=TIMEOUT, max_output=4096)
    duration = time.monotonic() - started

    verdict = check_machine(ended)
    assert duration < LONGEST
    assert runs.left() == []
    completed = ended.record.completed
    assert completed is not None
    assert completed.leaks == ()
    if verdict in WORKLOADS:
        assert play.allows(completed), play


LEADER_LEFT: list[Step] = [["task_exit", 0], ["task_exit", 7 << 8, 1, 2], ["exit", 7]]


@pytest.mark.fault("E2", "E3", "E4")
@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([*FINE, *exited(128).steps], (Outcome.EXITED, 128, True), id="exit 128"),
        pytest.param([["log", "no"], ["exit", 128]], (Outcome.RUNSC_FAILED, 128, True),
                     id="runsc's own 128"),
        pytest.param([*FINE, *exited(137).steps], (Outcome.EXITED, 137, True), id="exit 137"),
        pytest.param([*FINE, *signalled(9).steps], (Outcome.SIGNALLED, -9, True), id="SIGKILL"),
        pytest.param([*FINE, *LEADER_LEFT], (Outcome.EXITED, 7, True), id="the leader left first"),
        pytest.param([["gofer"], *FINE, *signalled(9).steps], (Outcome.SIGNALLED, -9, True),
                     id="SIGKILL, with a gofer"),
        pytest.param([["gofer"], ["connect"], ["kill_gofer"], ["hang"]],
                     (Outcome.SANDBOX_CRASHED, -9, True), id="gofer killed at the start"),
        pytest.param([["signal", 9]], (Outcome.RUNSC_FAILED, -9, True), id="runsc killed at start"),
        pytest.param([*FINE, ["signal", 9]], (Outcome.RUNSC_FAILED, -9, True), id="runsc killed"),
        pytest.param([*FINE, ["task_exit", 0], ["signal", 9]], (Outcome.RUNSC_FAILED, -9, True),
                     id="runsc killed at the end"),
        pytest.param([["exit", 0]], (Outcome.RUNSC_FAILED, 0, True), id="nothing was started"),
        pytest.param([*FINE, ["exit", 137]], (Outcome.SANDBOX_CRASHED, 137, True),
                     id="sandbox killed"),
        pytest.param([*FINE, ["task_exit", 0], ["exit", 137]], (Outcome.SANDBOX_CRASHED, 137, True),
                     id="sandbox killed at the end"),
        pytest.param([*FINE, ["panic", "fatal error"], ["exit", 2]],
                     (Outcome.SANDBOX_CRASHED, 2, True), id="panic"),
        pytest.param([*FINE, ["log", "EOF"], ["exit", 128]], (Outcome.SANDBOX_CRASHED, 128, True),
                     id="runsc lost its sandbox"),
        pytest.param([*FINE, ["raw_event", "00"], *exited(3).steps], (Outcome.EXITED, 3, False),
                     id="garbled report"),
        pytest.param([*FINE, ["event", 77, "", 5], ["exit", 3]], (Outcome.EXITED, 3, False),
                     id="reports were dropped"),
    ],
)  # fmt: skip
def test_each_end_has_its_verdict(
    runs: Runs, fake: FakeRunsc, steps: list[Step], expected: tuple[Outcome, int, bool]
) -> None:
    """Each end has a verdict of its own, and never looks like the workload's."""
    fake.script(*steps)
    ended = runs()
    verdict = check_machine(ended)
    completed = ended.record.completed
    assert completed is not None
    assert (verdict, completed.returncode, completed.exact) == expected
    assert runs.left() == []


@pytest.mark.fault("E4")
def test_a_sentry_that_ends_after_its_gofer_has_crashed(
    runs: Runs, fake: FakeRunsc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workload's SIGKILL, which the sentry reports then, is the sentry's own."""
    monkeypatch.setattr("pytest_gvisor.run.supervisor.TERM_GRACE", 60.0)
    fake.script(["gofer"], *FINE, ["kill_gofer"], ["sleep", 2.0], *signalled(9).steps)
    ended = runs()
    verdict = check_machine(ended)
    completed = ended.record.completed
    assert completed is not None
    assert (verdict, completed.returncode, completed.exact) == (Outcome.SANDBOX_CRASHED, 137, True)
    assert runs.left() == []


def test_an_endless_input_of_nothing_does_not_hold_up_the_deadline(
    runs: Runs, fake: FakeRunsc
) -> None:
    """An iterator of empty pieces is asked again and again, and the deadline holds."""
    fake.script(*FINE, ["hang"])
    started = time.monotonic()
    ended = runs(input=itertools.repeat(b""), timeout=TIMEOUT)
    assert isinstance(ended.error, WorkloadTimeout)
    assert time.monotonic() - started < LONGEST


def test_a_runsc_that_cannot_trace_is_a_typed_error(runs: Runs) -> None:
    """The error names the points that are missing, before anything has started."""
    ended = runs(trace=True)
    assert isinstance(ended.error, TraceError)
    assert "does not have sentry/task_exit, sentry/clone, sentry/execve, " in str(ended.error)
    assert not ended.was_prepared
    assert runs.left() == []


def test_an_error_before_the_start_leaves_nothing(runs: Runs) -> None:
    """A specification that cannot be made ends the run before anything has started."""

    def refuse(_config: dict[str, Any]) -> None:
        raise InvalidBundle(["no"])

    ended = runs(hooks=Hooks(modify_spec=refuse))
    assert isinstance(ended.error, InvalidBundle)
    assert ended.record.error is ended.error
    assert not ended.was_prepared
    assert runs.left() == []


@pytest.mark.fault("F10")
@pytest.mark.parametrize("kill", [[["hang"]], [["exit", 1]], [["stop"]]])
def test_a_sigterm_that_cannot_be_sent_does_not_save_the_workload(
    runs: Runs, fake: FakeRunsc, kill: list[Step]
) -> None:
    """A ``runsc kill`` that fails or hangs does not prevent the kill after the grace."""
    fake.script(*FINE, ["gofer"], ["hang"], kill=kill)
    started = time.monotonic()
    ended = runs(timeout=TIMEOUT)
    assert isinstance(ended.error, WorkloadTimeout)
    assert time.monotonic() - started < LONGEST
    assert runs.left() == []


@pytest.mark.fault("F10")
@pytest.mark.parametrize(
    ("steps", "error"), [(exited(0).steps, None), ([["hang"]], WorkloadTimeout)]
)
def test_the_state_that_a_runsc_leaves_is_removed_without_another_runsc(
    runs: Runs, fake: FakeRunsc, steps: list[Step], error: type[Exception] | None
) -> None:
    """A runsc that could not delete its own state is not asked to: its folder is the run's."""
    asked = fake.path.with_name("asked")
    fake.script(*FINE, ["state"], *steps, delete=[["note", str(asked)]])
    ended = runs(timeout=TIMEOUT if error else 60.0)
    assert isinstance(ended.error, error) if error else ended.error is None
    assert not asked.exists()
    assert runs.left() == []


@pytest.mark.fault("D8")
def test_a_binary_that_cannot_be_executed_is_a_typed_error(runs: Runs, fake: FakeRunsc) -> None:
    """The kernel's refusal of execve comes back with its stage and errno, not as exit 127."""
    with fake.path.open("r+b"):  # execve of a file that someone writes to is ETXTBSY
        ended = runs()
    assert isinstance(ended.error, LaunchError)
    assert (ended.error.stage, ended.error.errno) == ("execve", errno.ETXTBSY)
    assert ended.outcome is Outcome.LAUNCH_FAILED
    assert runs.left() == []
    fake.script(*FINE, *exited(0).steps)
    assert runs().completed is not None


@pytest.mark.fault("A7")
def test_a_binary_that_was_changed_is_not_executed(runs: Runs, fake: FakeRunsc) -> None:
    """The file is checked before each start, so the checked file runs."""
    fake.path.chmod(0o700)
    assert isinstance(runs().error, InsecureRunsc)


def test_the_start_is_measured_up_to_the_sentry_s_word(runs: Runs, fake: FakeRunsc) -> None:
    """The start time goes from the request to the sentry's report, not to the workload's end."""
    fake.script(["connect"], ["sleep", 0.3], ["started"], ["sleep", 1.5], *exited(0).steps)
    record = runs().record
    assert record.completed is not None
    assert record.start is not None
    assert 0.3 <= record.start <= record.completed.duration - 0.5


def test_a_start_that_nobody_reported_is_not_made_up(runs: Runs, fake: FakeRunsc) -> None:
    """A runsc that ends too early gives no start time."""
    fake.script(["connect"], ["exit", 0])
    assert runs().record.start is None


@pytest.mark.fault("A7")
def test_a_binary_that_changes_while_the_bundle_is_made_is_not_started(
    runs: Runs, fake: FakeRunsc
) -> None:
    """The content is checked last before the start, and nothing of the run stays."""

    def change(_config: dict[str, Any]) -> None:
        with fake.path.open("ab") as file:
            file.write(b"other")

    fake.script(["note", str(fake.path.with_name("started"))], *FINE)
    ended = runs(hooks=Hooks(modify_spec=change))
    assert isinstance(ended.error, InsecureRunsc)
    assert not fake.path.with_name("started").exists()
    assert runs.left() == []
