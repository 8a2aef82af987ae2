"""The verdict from the evidence, and its form for users."""

import dataclasses
import os
import signal
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_gvisor.base.completed import (
    Completed,
    Outcome,
    SandboxCrashed,
    Usage,
    WorkloadFailed,
    WorkloadTimeout,
    signal_name,
    text_view,
)
from pytest_gvisor.base.errors import GvisorError, MixedReleases, RunscFailed, UsageError
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.oci.spec import Linux, Pids, Process, Resources, Root, Spec, User
from pytest_gvisor.run.request import Record, Request
from pytest_gvisor.run.verdict import Evidence, Verdict, error_of, judge
from pytest_gvisor.runsc.binary import Runsc

EXIT_STATUSES = [status << 8 for status in range(256)]
SIGNAL_STATUSES = [number | core for number in range(1, 65) for core in (0, 0x80)]
raw_statuses = st.sampled_from([*EXIT_STATUSES, *SIGNAL_STATUSES])

# Few of all evidences are of a workload that has ended, so there are more of these among them.
ends = st.builds(
    Evidence,
    runsc_status=st.sampled_from(EXIT_STATUSES),
    workload_statuses=st.lists(raw_statuses, max_size=2).map(tuple),
    sentry_reports=st.booleans(),
    started=st.booleans(),
)
evidences = ends | st.builds(
    Evidence,
    runsc_status=raw_statuses,
    records=st.lists(st.text(max_size=5), max_size=2).map(tuple),
    panic=st.sampled_from(["", "fatal error"]),
    timed_out=st.booleans(),
    oom_kills=st.integers(0, 2),
    refused_tasks=st.integers(0, 2),
    sentry_reports=st.booleans(),
    started=st.booleans(),
    workload_statuses=st.lists(st.integers(0, 0xFFFF), max_size=3).map(tuple),
    gofer_died=st.booleans(),
)
WORKLOADS = {Outcome.EXITED, Outcome.SIGNALLED}


def says(status: int) -> int:
    """The exit code with which runsc passes a workload's wait status on."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


@example(evidence=Evidence(runsc_status=210 << 8, sentry_reports=True, workload_statuses=(82,)))
@given(evidence=evidences)
def test_any_evidence_has_exactly_one_verdict(evidence: Evidence) -> None:
    """The judgement is total, and the same again; a launch that failed is not its concern."""
    verdict = judge(evidence)
    assert verdict.outcome in set(Outcome) - {Outcome.LAUNCH_FAILED}
    assert judge(evidence) == verdict
    assert -64 <= verdict.returncode <= 255
    if verdict.outcome in {Outcome.RUNSC_FAILED, Outcome.SANDBOX_CRASHED}:
        assert verdict.reason or "" in evidence.records


@given(evidence=evidences)
def test_a_passed_deadline_is_a_time_out_whatever_else(evidence: Evidence) -> None:
    """A passed deadline is always a time-out, and nothing else is."""
    assert (judge(evidence).outcome is Outcome.TIMED_OUT) == evidence.timed_out


@given(evidence=evidences)
def test_an_exact_end_of_the_workload_was_reported_and_confirmed(evidence: Evidence) -> None:
    """The exact end needs the sentry's report, the same exit code of runsc, and no error of it.

    A killed runsc is never the workload's end, and neither is one that complains with status 128.
    After the gofer's end the sentry kills the workload.
    """
    verdict = judge(evidence)
    if verdict.outcome not in WORKLOADS:
        return
    assert not evidence.records
    assert not evidence.gofer_died
    assert not os.WIFSIGNALED(evidence.runsc_status)
    if verdict.exact:
        assert os.WEXITSTATUS(evidence.runsc_status) in map(says, evidence.workload_statuses)
    else:
        assert not evidence.sentry_reports
        assert not evidence.panic
        assert not evidence.oom_kills


@given(evidence=evidences)
def test_out_of_memory_needs_a_kill_by_the_kernel(evidence: Evidence) -> None:
    """SIGKILL alone is no proof."""
    if judge(evidence).outcome is Outcome.OUT_OF_MEMORY:
        assert evidence.oom_kills


@given(evidence=evidences)
def test_out_of_tasks_needs_a_refused_task_and_a_failure(evidence: Evidence) -> None:
    """An end of the workload's own stays one: runsc tries again when a thread is refused."""
    if judge(evidence).outcome is Outcome.OUT_OF_TASKS:
        assert evidence.refused_tasks
        without = judge(dataclasses.replace(evidence, refused_tasks=0))
        assert without.outcome in {Outcome.RUNSC_FAILED, Outcome.SANDBOX_CRASHED}


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"gofer_died": True, "panic": "panic: newosproc"}, Outcome.OUT_OF_TASKS),
        ({"started": False, "records": ("EOF",)}, Outcome.OUT_OF_TASKS),
        ({}, Outcome.OUT_OF_TASKS),
        ({"oom_kills": 1}, Outcome.OUT_OF_MEMORY),
        ({"workload_statuses": (2 << 8,)}, Outcome.EXITED),
        ({"runsc_status": 9}, Outcome.RUNSC_FAILED),
        ({"timed_out": True}, Outcome.TIMED_OUT),
        ({"cancelled": True}, Outcome.CANCELLED),
    ],
)
def test_a_sandbox_that_is_refused_tasks_and_dies_is_out_of_them(
    changes: dict[str, Any], outcome: Outcome
) -> None:
    """Not where its end is explained without: by the memory limit, a signal, the deadline."""
    evidence = Evidence(runsc_status=2 << 8, sentry_reports=True, started=True, refused_tasks=3)
    verdict = judge(dataclasses.replace(evidence, **changes))
    assert verdict.outcome is outcome
    if outcome in {Outcome.OUT_OF_TASKS, Outcome.CANCELLED}:
        assert (verdict.returncode, verdict.reason, verdict.exact) == (-9, "", True)


def test_a_reported_exit_status_is_exact() -> None:
    """All of them, 128 and 137 included."""
    for status in range(256):
        ended = status << 8
        verdict = judge(
            Evidence(
                runsc_status=ended, sentry_reports=True, started=True, workload_statuses=(ended,)
            )
        )
        assert verdict.returncode == status
        assert (verdict.outcome, verdict.exact) == (Outcome.EXITED, True)


@pytest.mark.parametrize("core", [0, 0x80])
@pytest.mark.parametrize("number", [1, 9, 11, 15, 34, 64])
def test_a_reported_signal_is_exact(number: int, core: int) -> None:
    """Real-time signals and core dumps included."""
    evidence = Evidence(
        runsc_status=(128 + number) << 8, sentry_reports=True, workload_statuses=(number | core,)
    )
    verdict = judge(evidence)
    assert (verdict.outcome, verdict.returncode) == (Outcome.SIGNALLED, -number)
    assert verdict.exact


@pytest.mark.parametrize("timed_out", [False, True])
@pytest.mark.parametrize(
    ("statuses", "returncode"), [((9,), -9), ((9, 137 << 8), 137), ((137 << 8, 9), -9)]
)
def test_the_last_status_that_agrees_is_the_first_process_s(
    statuses: tuple[int, ...], returncode: int, *, timed_out: bool
) -> None:
    """Threads report their statuses before, and signal 9 is exit 137 to runsc."""
    evidence = Evidence(
        runsc_status=137 << 8, started=True, workload_statuses=statuses, timed_out=timed_out
    )
    verdict = judge(evidence)
    assert (verdict.returncode, verdict.exact) == (returncode, True)


@pytest.mark.parametrize(
    ("code", "changes", "outcome", "returncode"),
    [
        (137, {"workload_statuses": (9,)}, Outcome.OUT_OF_MEMORY, -9),
        (137, {"records": ("x",)}, Outcome.OUT_OF_MEMORY, -9),
        (1, {"workload_statuses": (1 << 8,)}, Outcome.OUT_OF_MEMORY, -9),
        (129, {"workload_statuses": (1,)}, Outcome.OUT_OF_MEMORY, -9),
        (0, {"workload_statuses": (0,)}, Outcome.EXITED, 0),
    ],
)
def test_out_of_memory_is_a_kill(
    code: int, changes: dict[str, Any], outcome: Outcome, returncode: int
) -> None:
    """Any status of runsc can mean it; a workload that ends well has lost another process."""
    verdict = judge(Evidence(runsc_status=code << 8, oom_kills=1, **changes))
    assert (verdict.outcome, verdict.returncode) == (outcome, returncode)


@pytest.mark.parametrize(
    ("changes", "outcome", "reason"),
    [
        ({}, Outcome.RUNSC_FAILED, "runsc ended before the workload was started"),
        ({"started": True}, Outcome.SANDBOX_CRASHED, "it ended without a word on its process"),
        (
            {"started": True, "workload_statuses": (9,)},
            Outcome.SANDBOX_CRASHED,
            "it did not end as its first process did",
        ),
        ({"records": ("first", "last")}, Outcome.RUNSC_FAILED, "last"),
        ({"panic": "fatal error"}, Outcome.SANDBOX_CRASHED, "the sentry panicked"),
        ({"runsc_status": 9}, Outcome.RUNSC_FAILED, "runsc was killed by signal 9"),
    ],
)
def test_an_end_that_is_not_the_workload_s_has_its_reason(
    changes: dict[str, Any], outcome: Outcome, reason: str
) -> None:
    """A missing report counts if the sentry can report the workload's end."""
    verdict = judge(Evidence(**{"runsc_status": 0, "sentry_reports": True, **changes}))
    assert (verdict.outcome, verdict.reason, verdict.exact) == (outcome, reason, True)


@pytest.mark.parametrize("started", [False, True])
def test_a_sentry_of_another_release_is_runsc_s_failure(*, started: bool) -> None:
    """The panic before a boot is runsc's failure; after a start the sandbox has crashed."""
    panic = (
        'panic: this binary\'s build label "1" does not match the expected release "2"; all\n'
        "goroutine 1 [running]:\n"
    )
    verdict = judge(Evidence(runsc_status=128 << 8, started=started, panic=panic, records=("EOF",)))
    if started:
        assert verdict.outcome is Outcome.SANDBOX_CRASHED
    else:
        assert verdict.outcome is Outcome.RUNSC_FAILED
        assert verdict.reason == "the sentry beside it is 1, and runsc is 2"


@pytest.mark.parametrize(
    ("panic", "reason"), [("", "its gofer died"), ("fatal error: fault", "the sentry panicked")]
)
def test_a_gofer_that_ends_with_a_panicking_sentry_is_not_the_cause(
    panic: str, reason: str
) -> None:
    """The gofer ends with its sentry, and is often seen first."""
    evidence = Evidence(runsc_status=2 << 8, started=True, gofer_died=True, panic=panic)
    verdict = judge(evidence)
    assert (verdict.outcome, verdict.reason) == (Outcome.SANDBOX_CRASHED, reason)


@pytest.mark.fault("E3")
@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, Outcome.SIGNALLED),
        ({"oom_kills": 1}, Outcome.OUT_OF_MEMORY),
        ({"gofer_died": True}, Outcome.SANDBOX_CRASHED),
        ({"gofer_died": True, "oom_kills": 1}, Outcome.OUT_OF_MEMORY),
        ({"workload_statuses": ()}, Outcome.SANDBOX_CRASHED),
        ({"workload_statuses": (), "oom_kills": 1}, Outcome.OUT_OF_MEMORY),
        ({"workload_statuses": (), "started": False}, Outcome.RUNSC_FAILED),
        ({"workload_statuses": (0,)}, Outcome.SANDBOX_CRASHED),
        ({"workload_statuses": (137 << 8,)}, Outcome.EXITED),
        ({"records": ("x",)}, Outcome.SANDBOX_CRASHED),
        ({"records": ("x",), "started": False}, Outcome.RUNSC_FAILED),
        ({"workload_statuses": (), "panic": "x"}, Outcome.SANDBOX_CRASHED),
    ],
)
def test_the_ways_to_137_are_told_apart(change: dict[str, object], outcome: Outcome) -> None:
    """SIGKILL, exit 137, the memory controller, a dead sandbox, a failed runsc."""
    killed = Evidence(
        runsc_status=137 << 8, sentry_reports=True, started=True, workload_statuses=(9,)
    )
    assert judge(dataclasses.replace(killed, **change)).outcome is outcome  # type: ignore[arg-type]


# --- the error that a verdict calls for

OTHER_SENTRY = 'panic: this binary\'s build label "1" does not match the expected release "2"; all'
MIXED = "the sentry beside it is 1, and runsc is 2"


def error(
    outcome: Outcome, reason: str = "", *, panic: str = "", pids: int | None = None, **more: Any
) -> GvisorError | None:
    """The error of a run on systrap with this outcome, reason, panic and limit on tasks."""
    resources = Resources(pids=Pids(limit=pids))
    process = Process(args=(), cwd="/", user=User(uid=0, gid=0))
    spec = Spec(
        oci_version="1.0.0",
        process=process,
        root=Root(path="/"),
        linux=Linux(resources=resources),
    )
    record = Record(panic=panic, command="runsc run", runsc_records=("EOF",), spec=spec)
    settings = Settings(timeout=2.5)
    request = Request(runsc=cast("Runsc", None), platform=Platform.SYSTRAP, settings=settings)
    verdict = Verdict(outcome=outcome, returncode=1, reason=reason)
    done = completed(stderr_bytes=b"x" + b"y" * 4000, stderr_total=4001)
    return error_of(verdict, request, record, done, **{"had_started": False, **more})


@pytest.mark.parametrize("outcome", [Outcome.EXITED, Outcome.OUT_OF_MEMORY, Outcome.CANCELLED])
def test_an_end_of_the_workload_s_own_is_no_error(outcome: Outcome) -> None:
    """The caller has its outcome."""
    assert error(outcome) is None


def test_a_limit_on_tasks_is_a_usage_error_before_the_start_alone() -> None:
    """After it, the limit is the workload's end. The error has the limit, where there is one."""
    found = error(Outcome.OUT_OF_TASKS, pids=7)
    assert isinstance(found, UsageError)
    assert found.message.startswith("pids=7 is too few to start a sandbox on systrap")
    assert "pids=None" in str(error(Outcome.OUT_OF_TASKS))
    assert error(Outcome.OUT_OF_TASKS, pids=7, had_started=True) is None


def test_a_time_out_names_its_seconds_and_the_setting() -> None:
    """The seconds are those that were asked for."""
    found = error(Outcome.TIMED_OUT)
    assert isinstance(found, WorkloadTimeout)
    assert found.message.startswith(
        """['sh', '-c', "it's"] was still running after 2.5 s on systrap"""
    )
    assert "--gvisor-timeout" in found.next_step


@pytest.mark.parametrize(
    ("reason", "panic", "step"),
    [
        ("its gofer died", "", "--gvisor-debug"),
        ("its gofer died", "too many open files", "ulimit -n"),
        ("open: too many open files", "", "ulimit -n"),
    ],
)
def test_a_crash_has_its_reason_panic_and_next_step(reason: str, panic: str, step: str) -> None:
    """A limit of the host that reason or panic names is the next step."""
    found = error(Outcome.SANDBOX_CRASHED, reason, panic=panic)
    assert isinstance(found, SandboxCrashed)
    assert found.message.startswith(
        f"""the sandbox of ['sh', '-c', "it's"] died on systrap: {reason}"""
    )
    assert (found.panic, step in found.next_step) == (panic, True)


@pytest.mark.parametrize(
    ("reason", "panic", "kind", "step"),
    [
        ("EOF", "", RunscFailed, "--gvisor-debug"),
        ("EOF", OTHER_SENTRY, RunscFailed, "--gvisor-debug"),
        (MIXED, OTHER_SENTRY, MixedReleases, "pytest-gvisor install"),
        ("open: too many open files", "", RunscFailed, "ulimit -n"),
    ],
)
def test_a_failure_of_runsc_has_its_records_command_and_next_step(
    reason: str, panic: str, kind: type[RunscFailed], step: str
) -> None:
    """Mixed releases have a class of their own, and standard error is bounded."""
    found = error(Outcome.RUNSC_FAILED, reason, panic=panic)
    assert type(found) is kind
    assert isinstance(found, RunscFailed)
    assert found.message.startswith(f"runsc failed: {reason}")
    assert (found.records, found.command) == (("EOF",), "runsc run")
    assert (found.stderr, step in found.next_step) == ("y" * 4000, True)


# --- its form for users


def completed(**changes: object) -> Completed:
    """A workload that has ended well, apart from the changes."""
    usual: dict[str, object] = {
        "args": ("sh", "-c", "it's"),
        "returncode": 0,
        "stdout_bytes": b"out",
        "stderr_bytes": b"err",
        "stdout_total": 3,
        "stderr_total": 3,
        "duration": 0.5,
        "platform": Platform.SYSTRAP,
        "outcome": Outcome.EXITED,
    }
    return Completed(**{**usual, **changes})  # type: ignore[arg-type]


def test_status_0_passes_the_check() -> None:
    """A status of 0 raises nothing."""
    completed().check_returncode()


def test_the_output_is_text_and_decoded_once() -> None:
    """Each stream is decoded once, and a status is exact unless it is marked."""
    done = completed()
    assert (done.stdout, done.stderr, done.exact) == ("out", "err", True)
    assert done.stdout is done.stdout
    assert done.stderr is done.stderr


def test_a_failed_check_has_the_end_of_standard_error() -> None:
    """The message has the last ten lines, and of these two thousand characters."""
    done = completed(returncode=1, stderr_bytes=b"x" + b"y" * 2000, stderr_total=2001)
    with pytest.raises(WorkloadFailed) as caught:
        done.check_returncode()
    assert str(caught.value).endswith(f"\n| {'y' * 2000}")
    lines = [str(number) for number in range(12)]
    said = "\n".join(lines).encode()
    with pytest.raises(WorkloadFailed) as of_lines:
        completed(returncode=1, stderr_bytes=said, stderr_total=len(said)).check_returncode()
    assert str(of_lines.value).endswith("status 1\n| " + "\n| ".join(lines[-10:]))
    assert (caught.value.stdout, caught.value.stderr) == (done.stdout, done.stderr)


def test_a_crash_is_shown_with_its_panic_log() -> None:
    """Where there is none, nothing stands for it."""
    done = completed()
    assert SandboxCrashed("died", completed=done).message == "died"
    crash = SandboxCrashed("died", completed=done, panic="fatal error")
    assert (crash.message, crash.panic) == ("died\n  panic log:\nfatal error", "fatal error")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"returncode": 3}, "ended with exit status 3"),
        ({"returncode": -9, "outcome": Outcome.SIGNALLED}, "ended with signal 9 (SIGKILL)"),
        ({"returncode": -40, "outcome": Outcome.SIGNALLED}, "signal 40 (signal 40)"),
        ({"returncode": -9, "outcome": Outcome.OUT_OF_MEMORY}, "ended with out of memory"),
        ({"returncode": -9, "outcome": Outcome.OUT_OF_TASKS, "reason": "x"}, "out of tasks: x"),
        ({"returncode": 0, "outcome": Outcome.TIMED_OUT}, "ended with timed out"),
    ],
)
def test_any_other_end_fails_the_check(changes: dict[str, object], text: str) -> None:
    """The error has the kind of end, and the end of standard error."""
    done = completed(**changes)
    with pytest.raises(WorkloadFailed) as caught:
        done.check_returncode()
    assert text in str(caught.value)
    assert str(caught.value).endswith("\n| err")
    assert caught.value.completed is done


@pytest.mark.parametrize(
    ("out", "err", "truncated"), [(3, 3, False), (4, 3, True), (3, 4, True), (9, 9, True)]
)
def test_more_bytes_than_are_kept_means_truncated(out: int, err: int, truncated: bool) -> None:
    """Each stream counts."""
    assert completed(stdout_total=out, stderr_total=err).truncated is truncated


def test_the_repr_has_the_call_and_its_end() -> None:
    """The repr has the end of each stream too, and all of it is bounded."""
    text = repr(completed(settings={"timeout": 3, "network": "none"}))
    call = """args=['sh', '-c', "it's"] timeout=3 network='none'"""
    assert text == f"<Completed returncode=0 stdout='out' stderr='err' {call}>"
    killed = completed(returncode=-9, outcome=Outcome.SIGNALLED)
    assert repr(killed).startswith("<Completed returncode=-9 outcome='signalled' ")
    long = completed(stdout_bytes=b"x" * 5000 + b"the end", args=("a" * 5000,))
    assert f"stdout='…{'x' * 53}the end'" in repr(long)
    assert len(repr(long)) < 500


@pytest.mark.parametrize(("characters", "cut"), [(60, False), (61, True), (300, True)])
def test_a_stream_of_the_repr_has_sixty_characters_whatever_their_bytes(
    characters: int, *, cut: bool
) -> None:
    """A longer one begins with a mark."""
    text = repr(completed(stdout_bytes=("😀" * characters).encode()))
    assert f"stdout='{'…' * cut}{'😀' * 60}'" in text


@pytest.mark.parametrize(("characters", "cut"), [(200, False), (201, True)])
def test_another_fact_of_the_repr_has_two_hundred_characters(characters: int, *, cut: bool) -> None:
    """A longer one ends with a mark."""
    fact = repr("a" * (characters - 2))
    text = repr(completed(settings={"cwd": "a" * (characters - 2)}))
    assert text.endswith(f" cwd={fact[:200]}{'…' * cut}>")


def test_what_a_sandbox_has_used_is_unknown_without_a_limit() -> None:
    """No time was waited either, unless the run says so."""
    assert (completed().waited, completed().usage) == (0.0, Usage())
    assert dataclasses.astuple(Usage()) == (None, None, None)


@given(data=st.binary(max_size=100))
def test_text_of_any_bytes_can_be_encoded(data: bytes) -> None:
    """Undecodable bytes are escaped, so that no lone surrogate kills an xdist worker."""
    assert text_view(data, len(data) + 1).encode().decode() == text_view(data, len(data) + 1)


def test_the_gap_in_a_text_is_marked() -> None:
    """The mark has the number of missing bytes."""
    assert text_view(b"a\xff\xfeb", 11) == "a\\xff\n[… 7 bytes left out …]\n\\xfeb"
    assert text_view(b"abcde", 6) == "abc\n[… 1 bytes left out …]\nde"
    assert text_view("é".encode(), 2) == "é"


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (15, "SIGTERM"), (99, "signal 99")])
def test_a_signal_has_a_name_or_its_number(number: int, name: str) -> None:
    """Real-time signals between the first and the last have none."""
    assert signal_name(number) == name


def test_every_signal_that_can_be_sent_is_read_from_runsc_s_code_where_no_one_reports() -> None:
    """A status 128 + S is signal S, marked as inexact; 128 alone is an exit status."""
    for number in signal.valid_signals():
        verdict = judge(Evidence(runsc_status=(128 + number) << 8))
        assert (verdict.outcome, verdict.returncode) == (Outcome.SIGNALLED, -number)
        assert not verdict.exact
    assert judge(Evidence(runsc_status=128 << 8)).returncode == 128
