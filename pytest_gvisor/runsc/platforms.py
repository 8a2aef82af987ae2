"""The availability of a platform: files and features first, then a bounded real run.

Nothing short of a run tells. On some nested hosts /dev/kvm opens and answers KVM_CREATE_VM and
KVM_CREATE_VCPU. The sandbox then spins for ever. Whether systrap and ptrace work depends on the
yama scope and on the seccomp profile of the container around them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import grp
import os
import re
import stat
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass

from pytest_gvisor.base import errors
from pytest_gvisor.base.completed import Completed, SandboxCrashed, WorkloadFailed, WorkloadTimeout
from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.kernel import is_gvisor_kernel
from pytest_gvisor.base.settings import Platform
from pytest_gvisor.base.trust import SHORTAGES
from pytest_gvisor.programs.proc import text_in
from pytest_gvisor.runsc.causes import BROKEN, Cause, explain, limit_of

PROBE_DEADLINE = 10.0
LONGEST_DEADLINE = 60.0
KVM_DEVICE = "/dev/kvm"

_SHOWN = 500

# The program's own executable is the one file that is in every root, and the gofer has it. A thread
# that fails must end the wait for it. Forking comes first: Python warns of it where threads are.
_PROGRAM = """
import _thread, os, time
child = os.fork()
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
done, sizes = _thread.allocate_lock(), []
done.acquire()
def work():
    try:
        with open("/proc/self/exe", "rb", 0) as file:
            for _ in range(4):
                sizes.append(len(file.read(65536)))
    finally:
        done.release()
_thread.start_new_thread(work, ())
done.acquire()
assert sum(sizes), sizes
time.sleep(0.001)
print(os.uname().release)
"""

PYTHON = (os.path.realpath(sys.executable), "-I", "-S", "-E", "-c", _PROGRAM)
"""For a root that has the running Python. Neither ``site`` nor another module is imported."""

WITHOUT = ("uname", "-r")
"""For a root without a Python: it tries less, so that a missing Python fails no platform."""

NOT_STARTED = 127
"""The exit status of a Python whose loader finds not all of its libraries."""

WHAT = "a program that forks, runs a thread and reads a file"

# Go 1.25 moved the fields of a goroutine. The releases of gVisor up to 2024 read the id of one at
# its old place: on ptrace they panic at once, on systrap when the scheduler happens to have queued
# the goroutine with others, which one short program does not make sure of.
_MOVED = (1, 25)
_KNOWS = dt.date(2025, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Availability:
    """The verdict on one platform."""

    platform: Platform
    cause: Cause
    detail: str = ""
    next_step: str = ""

    @property
    def available(self) -> bool:
        """Whether sandboxes run on it."""
        return self.cause is Cause.NONE

    @property
    def tried(self) -> bool:
        """Whether the verdict comes from a run and says nothing against the build itself."""
        return self.cause in {Cause.NONE, Cause.PROBE_FAILED, Cause.PROBE_HUNG}

    def check(self) -> None:
        """Raise `PlatformUnavailable` unless the platform is available."""
        if not self.available:
            cause = f"{self.cause}: {self.detail}" if self.detail else self.cause.value
            raise errors.PlatformUnavailable(self.platform.value, cause, next_step=self.next_step)


def deadline_for(timeout: float) -> float:
    """Return the deadline of a probe, given the ``timeout`` of a workload in seconds.

    10 seconds by default; who gives workloads longer than the default has a slow machine.
    """
    return min(max(PROBE_DEADLINE, timeout / 6), LONGEST_DEADLINE)


def probe(
    platform: Platform,
    compiled_in: Collection[Platform],
    run: Callable[[float], Completed],
    *,
    kvm_device: str = KVM_DEVICE,
    deadline: float = PROBE_DEADLINE,
    said: Callable[[], str] = str,
    go: Callable[[], str] = str,
) -> Availability:
    """Find out whether ``platform`` works.

    ``run`` runs `PYTHON` or `WITHOUT` on the platform under a deadline in seconds, and returns what
    came of it. Everything that it started is dead when it returns or raises.
    ``said`` gives the line of runsc's own logs that says why the last run failed, or ``""``. If a
    platform fails, runsc's message is not more than that the sandbox is gone. ``go`` gives the
    version of Go that the binary was built with, or ``""``. Raises `LaunchError` where nothing can
    be started, or a limit of the machine is reached, and `MixedReleases` where no sandbox boots:
    neither says anything of the platform.
    """
    if platform not in compiled_in:
        names = ", ".join(sorted(compiled_in)) or "none"
        return _unavailable(platform, Cause.NOT_COMPILED_IN, f"this runsc has {names}")
    if platform is Platform.KVM and (unopened := _unopened(kvm_device)):
        return unopened
    cause, panic, kills = Cause.PROBE_FAILED, "", _kills()
    try:
        completed = run(deadline)
    except WorkloadTimeout:
        cause = Cause.PROBE_HUNG
        detail = f"a sandbox that only runs {WHAT} did not end within {deadline:g} s"
    except errors.MixedReleases:
        raise
    except (errors.RunscFailed, SandboxCrashed) as error:
        panic = getattr(error, "panic", "").strip() or getattr(error, "stderr", "")
        last = _last_words(error, said())
        if BROKEN.search(last):
            return _broken(platform, last, go())
        detail = _first_lines(error, 1 if said() else 4)
    else:
        detail = _trial_problem(completed)
        if not detail:
            return Availability(platform=platform, cause=Cause.NONE)
        if text := completed.stderr.strip():
            detail += f" | stderr: {' | '.join(escape(text[-_SHOWN:]).splitlines())}"
    if log := said():
        detail += f" | runsc's log: {log}"
    if _kills() > kills:  # its own processes before any others: see `programs.child.settle`
        panic += f"\n{os.strerror(errno.ENOMEM).lower()}"
    # The kernel's KVM may have no memory for other reasons, as in a VM that is not enough for it.
    failed = cause is Cause.PROBE_FAILED and platform is not Platform.KVM
    if failed and (limit := limit_of(f"{detail}\n{panic}")):
        raise errors.LaunchError("probe", detail, next_step=limit)
    return _unavailable(platform, cause, detail)


def _kills() -> int:
    """Return how many processes the kernel has killed to get memory, on the whole machine."""
    found = re.search(r"^oom_kill (\d+)$", text_in("/proc/vmstat"), re.MULTILINE)
    return int(found[1]) if found else 0


def _last_words(error: errors.GvisorError, said: str) -> str:
    """Return the cause in a sentry's output: the panic's first line, else its logs."""
    panic = error.panic.strip() if isinstance(error, SandboxCrashed) else ""
    return (panic.splitlines() or [said])[0].removeprefix("panic: ")


def _broken(platform: Platform, last: str, go: str) -> Availability:
    built = f", and it was built with Go {escape(go)}" if go else ""
    # A panic of the ptrace platform has all registers of a processor in its text.
    brief = re.sub(r" \(\{.*\}\)", "", last)[:_SHOWN]
    detail = f"its sentry panics when a program runs ({escape(brief)}){built}"
    return _unavailable(platform, Cause.BROKEN_BUILD, detail)


def broken(found: Availability, platform: Platform) -> Availability:
    """Return the verdict on a broken build, found on one platform, for another platform."""
    return _unavailable(platform, Cause.BROKEN_BUILD, found.detail)


def _trial_problem(completed: Completed) -> str:
    """Return why a finished trial does not prove the platform; ``""`` if it does."""
    try:
        completed.check_returncode()
    except WorkloadFailed as error:
        how = error.message.splitlines()[0].rpartition("] ")[2]
        return f"{WHAT} {how} in the sandbox"
    release = completed.stdout.strip()
    if release == os.uname().release:
        return f"the kernel in the sandbox is the host's own {release}"
    if not is_gvisor_kernel(release):
        return f"the kernel in the sandbox calls itself {escape(repr(release[:_SHOWN]))}"
    return ""


def _unopened(device: str) -> Availability | None:
    """Return the verdict on a device of KVM that cannot be opened, or None."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        number, uid = error.errno or 0, os.geteuid()
        if number in SHORTAGES:
            raise errors.LaunchError("kvm", f"cannot open {device}", errno=number) from error
    else:
        return None
    said = f"{errno.errorcode.get(number, number)}: {os.strerror(number)}"
    cause, detail = Cause.NO_DEVICE, f"{device} cannot be opened ({said})"
    if number == errno.ENOENT:
        detail = f"there is no {device}"
    elif number == errno.EPERM:
        # A file's mode and a security module give EACCES. EPERM comes from the device controller
        # (admin-guide/cgroup-v1/devices), for root too.
        cause = Cause.NOT_GIVEN
        detail = f"{device} is there, and the device cgroup forbids uid {uid} to open it ({said})"
    elif number == errno.EACCES:
        cause = Cause.NO_PERMISSION
        detail = f"{device} may not be opened by uid {uid}{_owner(device)}"
        if os.access(device, os.R_OK | os.W_OK, effective_ids=True):
            detail += ", though its mode lets it: nodev, or a security module (AppArmor, SELinux)"
    return _unavailable(Platform.KVM, cause, detail)


def _owner(device: str) -> str:
    try:
        info = os.stat(device)
    except OSError:
        return ""
    group = str(info.st_gid)
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(info.st_gid).gr_name
    return f" (mode {stat.S_IMODE(info.st_mode):04o}, group {group})"


def _unavailable(platform: Platform, cause: Cause, detail: str) -> Availability:
    facts, step = explain(platform, cause, detail)
    return Availability(platform=platform, cause=cause, detail=detail + facts, next_step=step)


def _first_lines(error: errors.GvisorError, count: int) -> str:
    """Return the first informative lines: not the command, and no repetition."""
    text = error.message
    if isinstance(error, SandboxCrashed):
        text = text.replace(repr(list(error.completed.args)), WHAT)
    told: list[str] = []
    for line in map(str.strip, text.splitlines()):
        again = any(line.removeprefix("runsc: ") in before for before in told)
        if not again and not line.startswith("command: "):
            told.append(line)
    return " | ".join(told[:count])


def is_doubtful(date: dt.date | None, go: Callable[[], str]) -> bool:
    """Whether a build that works on systrap needs a trial on ptrace too: only a run shows it.

    ``go`` gives the version of Go that it was built with; it is not called for a young release.
    """
    if date is None or date >= _KNOWS:
        return False
    match = re.match(r"(\d+)\.(\d+)", go(), re.ASCII)
    return match is not None and (int(match[1]), int(match[2])) >= _MOVED
