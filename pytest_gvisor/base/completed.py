"""A workload that has ended, and the errors that carry one."""

from __future__ import annotations

import dataclasses
import enum
import functools
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_gvisor.base.egress import Egress
from pytest_gvisor.base.errors import GvisorError
from pytest_gvisor.base.escape import escape, quoted
from pytest_gvisor.base.settings import Platform

if TYPE_CHECKING:
    from pytest_gvisor.base.traced import Trace

_TAIL, _LINES = 2000, 10
"""Of standard error in a message: characters, and lines."""

_SHOWN, _LONGEST = 60, 200
"""Characters of a stream, and of another fact, in a repr."""


class _RunError(GvisorError):
    """Base of the errors that carry the output of a run."""

    def __init__(self, message: str, *, completed: Completed, next_step: str = "") -> None:
        self.completed = completed
        """The run, with all that is known of it."""

        super().__init__(message, next_step=next_step)

    @property
    def stdout(self) -> str:
        """The workload's standard output so far, undecodable bytes escaped."""
        return self.completed.stdout

    @property
    def stderr(self) -> str:
        """The workload's standard error so far, undecodable bytes escaped."""
        return self.completed.stderr


class WorkloadFailed(_RunError):
    """The workload ended with another status than 0, and the caller required 0."""


class WorkloadTimeout(_RunError):
    """The deadline passed; the workload is dead, its output so far is attached."""


class SandboxCrashed(_RunError):
    """The sentry or the gofer died under the workload."""

    def __init__(
        self, message: str, *, completed: Completed, panic: str = "", next_step: str = ""
    ) -> None:
        self.panic = panic
        """The beginning of the panic log, escaped."""

        shown = f"{message}\n  panic log:\n{panic}" if panic else message
        super().__init__(shown, completed=completed, next_step=next_step)


class NoAnswer(BaseException):
    """A call into a loaded module has no answer: a crash, a deadline, or a reply that is no reply.

    Not an `Exception`, as pytest's own ``Failed``: a test that expects an exception of the module,
    by ``pytest.raises(Exception)`` for instance, does not take this for one.
    """

    __module__ = "pytest_gvisor"

    def __init__(self, message: str, *, completed: Completed | None = None) -> None:
        super().__init__(message)
        self.completed = completed
        """The module's process, with all that is known of it; None if it never ran.

        Its ``stderr`` has what the module has printed. Its ``outcome`` is `Outcome.TIMED_OUT` for a
        deadline. A process is killed because of a malformed reply, by signal 9.
        """


class Outcome(enum.StrEnum):
    """The one verdict of a run."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    OUT_OF_MEMORY = "out of memory"
    OUT_OF_TASKS = "out of tasks"
    TIMED_OUT = "timed out"
    CANCELLED = "cancelled"
    RUNSC_FAILED = "runsc failed"
    SANDBOX_CRASHED = "sandbox crashed"
    LAUNCH_FAILED = "launch failed"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The resources that a sandbox has used, from its start to its end.

    Each figure is of the whole sandbox: the workload, the sentry, the gofer and runsc. The kernel
    counts them in the sandbox's cgroup, which only a run with a limit has (``memory``, ``pids`` or
    ``cpus``). Without a limit the figures are None, because the kernel's own sum for runsc misses
    some processes of the sandbox.
    """

    cpu_time: float | None = None
    """Seconds of processor time, user and system; None if unknown."""

    peak_memory: int | None = None
    """The most bytes of memory at once, with the page cache and the kernel's; None if unknown."""

    peak_tasks: int | None = None
    """The most processes and threads on the host, as ``pids`` counts them; None if unknown."""


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A workload that has ended, in the manner of `subprocess.CompletedProcess`."""

    args: tuple[str, ...]
    """The workload's argv."""

    returncode: int
    """The exit status, or ``-S`` for signal S.

    runsc itself ends with N for exit N and with 128 + S for signal S. So its status alone is the
    same for ``exit 137`` and SIGKILL. The raw wait status comes from the sentry's own report
    (``--pod-init-config``), and both are exact. If that report is lost, a status of 128 + S is read
    as signal S, and `exact` is False.
    """

    stdout_bytes: bytes
    """The bytes of standard output; if `truncated`, their head followed by their tail."""

    stderr_bytes: bytes
    """The same of standard error."""

    stdout_total: int
    """How many bytes the workload wrote to standard output, kept or not."""

    stderr_total: int
    """The same of standard error."""

    duration: float
    """Seconds from the request to the sandbox's end."""

    platform: Platform
    """The platform that the sandbox ran on."""

    outcome: Outcome
    """The verdict: how the run ended."""

    exact: bool = True
    """Whether `returncode` is beyond doubt: see there."""

    reason: str = ""
    """For `Outcome.OUT_OF_TASKS` the limit, and what counts against it; else ``""``."""

    waited: float = 0.0
    """Seconds of `duration` in which too many other sandboxes of this user started; the deadline
    began after them.
    """

    hint: str = ""
    """If a workload failed: a file among its arguments that only the host has; else ``""``."""

    command: str = ""
    """runsc's own command line and environment, for a shell. Its bundle is gone with the run:
    ``--gvisor-keep`` keeps one with a script that runs it.
    """

    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """The keyword arguments of the call, apart from those that are at their defaults."""

    usage: Usage = Usage()
    """The processor time, memory and tasks of its sandbox. A program of a warm sandbox has none of
    its own: see `Usage`.
    """

    trace: Trace | None = None
    """The workload's files, commands and connections, with ``trace=True``; else None."""

    egress: Egress | None = None
    """The connections to hosts of ``allow=[…]``, and refusals; None without such a list."""

    leaks: tuple[str, ...] = ()
    """Files and processes of this sandbox that could not be removed, as texts; normally empty."""

    @functools.cached_property
    def stdout(self) -> str:
        """`stdout_bytes` as UTF-8, undecodable bytes in hexadecimal; the gap, if any, is marked."""
        return text_view(self.stdout_bytes, self.stdout_total)

    @functools.cached_property
    def stderr(self) -> str:
        """`stderr_bytes` in the same form."""
        return text_view(self.stderr_bytes, self.stderr_total)

    @property
    def truncated(self) -> bool:
        """Whether bytes of either stream were left out."""
        return self.stdout_total > len(self.stdout_bytes) or self.stderr_total > len(
            self.stderr_bytes
        )

    def check_returncode(self) -> None:
        """Raise `WorkloadFailed` if the workload ended with another status than 0."""
        if self.returncode == 0 and self.outcome is Outcome.EXITED:
            return
        message = f"{list(self.args)!r} ended with {self.end}"
        if tail := self.stderr.rstrip("\n")[-_TAIL:]:
            message += "\n" + quoted("\n".join(tail.split("\n")[-_LINES:]))
        raise WorkloadFailed(message, completed=self, next_step=self.hint)

    @property
    def end(self) -> str:
        """The exit status, the signal, or the name of another outcome."""
        match self.outcome:
            case Outcome.EXITED:
                return f"exit status {self.returncode}"
            case Outcome.SIGNALLED:
                return f"signal {-self.returncode} ({signal_name(-self.returncode)})"
        return f"{self.outcome.value}: {self.reason}" if self.reason else self.outcome.value

    def __repr__(self) -> str:
        """Return the end, the end of the output, and the arguments of the call: all bounded."""
        facts: dict[str, object] = {"returncode": self.returncode}
        if self.outcome is not Outcome.EXITED:
            facts["outcome"] = self.outcome.value
        facts |= {"stdout": _last(self.stdout_bytes), "stderr": _last(self.stderr_bytes)}
        facts |= {"args": list(self.args), **self.settings}
        words = (f"{name}={_cut(escape(repr(value)))}" for name, value in facts.items())
        return f"<Completed {' '.join(words)}>"


def _last(stream: bytes) -> str:
    """Return the end of a stream, where a program says why it fails."""
    text = stream[-4 * (_SHOWN + 1) :].decode("utf-8", "backslashreplace")
    return text if len(text) <= _SHOWN else f"…{text[-_SHOWN:]}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def signal_name(number: int) -> str:
    """Return ``SIGKILL`` for 9; the number if it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def text_view(kept: bytes, total: int) -> str:
    """Return kept bytes of a stream as text: UTF-8, undecodable bytes escaped, the gap marked."""
    if total == len(kept):
        return kept.decode("utf-8", "backslashreplace")
    head = len(kept) - len(kept) // 2  # as `Capture` keeps it
    parts = [part.decode("utf-8", "backslashreplace") for part in (kept[:head], kept[head:])]
    return f"\n[… {total - len(kept)} bytes left out …]\n".join(parts)
