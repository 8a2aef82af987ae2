"""The verdict of a run, from its evidence, and the error that it calls for."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pytest_gvisor.base.completed import Completed, Outcome, SandboxCrashed, WorkloadTimeout
from pytest_gvisor.base.errors import GvisorError, MixedReleases, RunscFailed, limit_reached
from pytest_gvisor.base.setting_table import spellings
from pytest_gvisor.run import limits, not_started
from pytest_gvisor.run.cgroup import limits_of
from pytest_gvisor.run.logs import other_release
from pytest_gvisor.run.request import Record, Request

_ONE_RELEASE = (
    "Install runsc and gvisor-bin anew, from one release, over both: `pytest-gvisor install`."
)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The facts that are known when runsc has ended."""

    runsc_status: int
    """The raw wait status of runsc itself (wait(2))."""

    records: tuple[str, ...] = ()
    """The messages of runsc's fresh ``--log``: there is one exactly when runsc failed."""

    panic: str = ""
    """The panic log: not empty when the sentry panicked."""

    timed_out: bool = False
    cancelled: bool = False
    oom_kills: int = 0
    """How many processes of the sandbox the kernel's memory controller killed."""

    refused_tasks: int = 0
    """How many tasks the kernel refused the sandbox because of its limit on them."""

    sentry_reports: bool = False
    """Whether none of the sentry's own events is known to be lost."""

    started: bool = False
    """Whether the sentry reported that the container's first process was started."""

    workload_statuses: tuple[int, ...] = ()
    """The raw wait statuses of the first process's threads, as the sentry reported them. If the
    process has ended, the last one is its own."""

    gofer_died: bool = False
    """Whether the gofer is known to have died before the workload did."""


class Verdict(NamedTuple):
    """The outcome, and the return code in the sense of `subprocess`."""

    outcome: Outcome
    returncode: int
    reason: str = ""
    exact: bool = True


def _end(code: int, told: Sequence[int]) -> Verdict:
    """Return the verdict on an end: exact by the last status that the sentry has ``told``.

    Without one it is by runsc's exit code, which is N for exit N and 128 + S for signal S.
    """
    if told:
        code = os.waitstatus_to_exitcode(told[-1])
    elif code - 128 in signal.valid_signals():
        code = 128 - code
    outcome = Outcome.SIGNALLED if code < 0 else Outcome.EXITED
    return Verdict(outcome=outcome, returncode=code, exact=bool(told))


def _agrees(status: int, code: int) -> bool:
    """Whether the sentry's report and runsc's exit code agree."""
    if os.WIFSIGNALED(status):
        # Seven bits can name signals that Linux does not have: such a report is not believed.
        number = os.WTERMSIG(status)
        return number <= signal.SIGRTMAX and code == 128 + number
    return os.WIFEXITED(status) and code == os.WEXITSTATUS(status)


def judge(evidence: Evidence) -> Verdict:
    """Return the verdict that the evidence allows.

    The order matters. A deadline that has passed stays a time-out, even if the workload then exits
    with 0. A record of runsc's own failure comes before any status, because the exit code is 128
    then, which a workload may have too. A status counts as the workload's only if no evidence says
    that the sandbox died.
    """
    code = os.waitstatus_to_exitcode(evidence.runsc_status)
    told = [status for status in evidence.workload_statuses if _agrees(status, code)]
    if evidence.cancelled:
        return Verdict(outcome=Outcome.CANCELLED, returncode=-signal.SIGKILL)
    if evidence.timed_out:
        return _end(code, told)._replace(outcome=Outcome.TIMED_OUT)
    if not evidence.started and (mixed := other_release(evidence.panic)):
        return Verdict(outcome=Outcome.RUNSC_FAILED, returncode=code, reason=mixed)
    verdict = _judge_end(evidence, code, told)
    # If the kernel refuses a thread or a stub process to runsc, the sentry panics or runsc fails.
    failed = verdict.outcome in (Outcome.RUNSC_FAILED, Outcome.SANDBOX_CRASHED)
    if failed and evidence.refused_tasks and not os.WIFSIGNALED(evidence.runsc_status):
        return Verdict(outcome=Outcome.OUT_OF_TASKS, returncode=-signal.SIGKILL)
    return verdict


def _judge_end(evidence: Evidence, code: int, told: Sequence[int]) -> Verdict:
    """Return the verdict on an end within the deadline, by what has ended."""
    if evidence.gofer_died and not (evidence.oom_kills or evidence.records):
        # The gofer also ends when its sentry does: after a panic, the gofer was not the first.
        reason = "the sentry panicked" if evidence.panic else "its gofer died"
        return Verdict(outcome=Outcome.SANDBOX_CRASHED, returncode=code, reason=reason)
    if told and not evidence.records:
        # On systrap the kernel kills the workload's stub, which the sentry reports as an exit.
        if evidence.oom_kills and code:
            return Verdict(outcome=Outcome.OUT_OF_MEMORY, returncode=-signal.SIGKILL)
        return _end(code, told)
    if evidence.oom_kills:
        return Verdict(outcome=Outcome.OUT_OF_MEMORY, returncode=-signal.SIGKILL)
    if evidence.panic:
        return Verdict(
            outcome=Outcome.SANDBOX_CRASHED, returncode=code, reason="the sentry panicked"
        )
    if evidence.records:
        outcome = Outcome.SANDBOX_CRASHED if evidence.started else Outcome.RUNSC_FAILED
        return Verdict(outcome=outcome, returncode=code, reason=evidence.records[-1])
    if os.WIFSIGNALED(evidence.runsc_status):
        reason = f"runsc was killed by signal {os.WTERMSIG(evidence.runsc_status)}"
        return Verdict(outcome=Outcome.RUNSC_FAILED, returncode=code, reason=reason)
    if evidence.sentry_reports:
        outcome, reason = Outcome.RUNSC_FAILED, "runsc ended before the workload was started"
        if evidence.workload_statuses:
            outcome, reason = Outcome.SANDBOX_CRASHED, "it did not end as its first process did"
        elif evidence.started:
            outcome, reason = Outcome.SANDBOX_CRASHED, "it ended without a word on its process"
        return Verdict(outcome=outcome, returncode=code, reason=reason)
    return _end(code, ())


def error_of(
    verdict: Verdict,
    request: Request,
    record: Record,
    completed: Completed,
    *,
    had_started: bool,
) -> GvisorError | None:
    """Return the error of a run that was launched; None for a workload's own end.

    ``had_started`` is whether the workload was started.
    """
    match verdict.outcome:
        case Outcome.OUT_OF_TASKS if not had_started:
            return limits.too_few_tasks(most_tasks(record), request.platform)
        case Outcome.TIMED_OUT:
            return WorkloadTimeout(
                f"{list(completed.args)!r} was still running after {request.settings.timeout:g} s "
                f"on {request.platform}; it has been killed",
                completed=completed,
                next_step=f"Give it longer with {spellings('timeout')}.",
            )
        case Outcome.SANDBOX_CRASHED:
            return SandboxCrashed(
                f"the sandbox of {list(completed.args)!r} died on {request.platform}: "
                f"{verdict.reason}",
                completed=completed,
                panic=record.panic,
                next_step=limit_reached(f"{verdict.reason}\n{record.panic}")
                or f"Repeat it with {spellings('debug')} to see the sentry's own log.",
            )
        case Outcome.RUNSC_FAILED:
            records, command = record.runsc_records, record.command
            if error := not_started.error_of(records, record.spec, command, request.asker):
                return error
            mixed = verdict.reason == other_release(record.panic)
            debugged = f"Repeat it with {spellings('debug')} to see runsc's own log."
            step = limit_reached(verdict.reason) or debugged
            return (MixedReleases if mixed else RunscFailed)(
                f"runsc failed: {verdict.reason}",
                records=records,
                command=command,
                stderr=completed.stderr[-4000:],
                next_step=_ONE_RELEASE if mixed else step,
            )
        case _:
            return None


def most_tasks(record: Record) -> float | None:
    """Return the limit on a run's tasks; None is none."""
    return None if record.spec is None else limits_of(record.spec.linux.resources).get("pids")
