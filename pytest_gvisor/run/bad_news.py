"""The error that the verdict on a run calls for."""

from __future__ import annotations

from pytest_gvisor.completed import Completed, Outcome, SandboxCrashed, WorkloadTimeout
from pytest_gvisor.errors import GvisorError, MixedReleases, RunscFailed
from pytest_gvisor.run import limits, logs, not_started
from pytest_gvisor.run.cgroup import limits_of
from pytest_gvisor.run.request import Record, Request
from pytest_gvisor.run.verdict import Verdict
from pytest_gvisor.setting_table import spellings

_ONE_RELEASE = (
    "Install runsc and gvisor-bin anew, from one release, over both: `pytest-gvisor install`."
)


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
                next_step=f"Repeat it with {spellings('debug')} to see the sentry's own log.",
            )
        case Outcome.RUNSC_FAILED:
            records, command = record.runsc_records, record.command
            if error := not_started.error_of(records, record.spec, command, request.project):
                return error
            mixed = verdict.reason == logs.other_release(record.panic)
            debugged = f"Repeat it with {spellings('debug')} to see runsc's own log."
            return (MixedReleases if mixed else RunscFailed)(
                f"runsc failed: {verdict.reason}",
                records=records,
                command=command,
                stderr=completed.stderr[-4000:],
                next_step=_ONE_RELEASE if mixed else debugged,
            )
        case _:
            return None


def most_tasks(record: Record) -> float | None:
    """Return the limit on a run's tasks; None is none."""
    return None if record.spec is None else limits_of(record.spec).get("pids")
