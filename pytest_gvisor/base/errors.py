"""The tree of this package's errors. Errors that carry a run are in `completed`.

    GvisorError
      RunscError
        RunscNotFound          nothing to run: where it was searched for, it may become a skip
        InsecureRunsc          found, and refused: never a skip, never "not installed"
        UnwantedRelease        found, and of another release than is asked for: never a skip
        RunscFailed            runsc itself failed (its own exit 128, its own message, its logs)
          MixedReleases        runsc and the sentry beside it are of two releases
          ProgramNotStarted    the workload's program is not in the sandbox, or is no program
      PlatformUnavailable      no device, no permission, a probe that failed: it may become a skip
      InvalidBundle            every problem found, not the first
      ImageError               an image cannot be had, read, trusted or unpacked
        DaemonUnavailable      no docker daemon to ask: it may become a skip
      WorkloadFailed           only from check=True / check_returncode()
      WorkloadTimeout          the workload is dead when this is raised; its output is attached
      SandboxCrashed           the sentry or gofer died; panic log attached
      LaunchError              the way from here to runsc failed; the stage and errno are attached
      InstallFailed            a release of runsc cannot be had, or is not what it should be
        InstallTimeout         it did not come by the deadline
      MachineFailed            a throw-away VM that cannot be made, or ended before its command did
        MachineTimeout         the command in it did not end by the deadline
      ReportError              a file is no report of ours, or none can be written there
      ProtocolError            a message that breaks the protocol, or a keeper that is gone
      UsageError               a setting or an argument that cannot be meant; nothing was started
      SnapshotError            a sandbox cannot be saved, or not started from what was saved
      TraceError               a trace cannot be had, or cannot be checked because it has gaps
      InsideError              a warm sandbox's kernel refused a file, a program or a connection
      NotReady                 what was waited for in a warm sandbox did not come by its deadline
      RemoteError              a loaded module has raised an exception, in its sandbox
        RemoteAttributeError   that was an AttributeError

`NoAnswer` is not in this tree, and no `Exception`: a loaded module has not answered.

A workload's own exit status is never an exception unless asked for. A failure of the infrastructure
is never reported as a workload's verdict.
"""

from __future__ import annotations

import contextlib
import copyreg
import errno as errno_names
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from pytest_gvisor.base.escape import escape, quoted

FORBIDDEN = "pytest_gvisor_forbidden"
"""An attribute of the errors for a forbidden act."""

forbidden: list[tuple[str, Sequence[str]]] = []
"""The forbidden acts since the last report, each with the ``forbid`` of its program."""

_LIMITS = {
    # Its text begins with that of the next.
    errno_names.ENFILE: "The machine's limit on open files is reached: see `sysctl fs.file-max`.",
    errno_names.EMFILE: "A process's limit on open files is reached: see `ulimit -n`.",
    errno_names.EFBIG: "A process's limit on the size of files is reached: see `ulimit -f`.",
    errno_names.EAGAIN: "A limit on processes and threads is reached: see `ulimit -u`, "
    "`sysctl kernel.threads-max kernel.pid_max`, and `pids.max` of the cgroups.",
    errno_names.ENOMEM: "There is no memory left, on the machine or in a cgroup (`memory.max`).",
    errno_names.EDQUOT: "A disk quota is used up: see `quota`, or `btrfs qgroup show`.",
    errno_names.ENOSPC: "A disk is full (see `df` and `df -i`), or a limit on namespaces is "
    "reached: see `sysctl user`.",
}
"""By errno, the limits that it stands for."""


def note_forbidden(text: str, forbid: Sequence[str]) -> None:
    """Note an act for the next report, eight at most with the same ``forbid``.

    A session that no test has may go on for ever, and nothing there reports them.
    """
    if [noted for _, noted in forbidden].count(forbid) < 8:
        forbidden.append((text, forbid))


def limit_reached(text: str) -> str:
    """Return a sentence on the limit that a message of runsc names; ``""`` if it names none."""
    if "dup3 of stdios failed" in text:  # EBADF: the new number would be above the limit
        return _LIMITS[errno_names.EMFILE]
    for number, told in _LIMITS.items():
        # The texts of Go are the C library's in lower case. Its runtime writes the number.
        if os.strerror(number).lower() in text or f"errno={number})" in text:
            return told
    return ""


def _named(errno: int) -> str:
    return f" [{errno_names.errorcode.get(errno, errno)}: {os.strerror(errno)}]"


def _with_records(message: str, records: Sequence[str]) -> str:
    more = (f"  runsc: {record}" for record in records if record not in message)
    return "\n".join([message, *more])


class GvisorError(Exception):
    """Base of every error that this package raises on purpose.

    ``next_step`` is one sentence for the reader: what to do now. It is part of the message.
    """

    def __init_subclass__(cls) -> None:
        """Name a public error by the package: that is what pytest prints, and what users import."""
        if cls.__module__.startswith("pytest_gvisor.") and not cls.__name__.startswith("_"):
            cls.__module__ = "pytest_gvisor"

    def __init__(self, message: str, *, next_step: str = "") -> None:
        self.message = message
        """The message without ``next_step``."""

        self.next_step = next_step
        # The text may have what a program has written, which is no command for a CI system.
        super().__init__(escape(f"{message}\n{next_step}" if next_step else message))

    def __reduce__(self) -> tuple[object, ...]:
        """Copy it, for a pool of processes too, without its ``__init__``.

        An exception's own way calls that with the message alone.
        """
        return copyreg.__newobj__, (type(self),), {**vars(self), "args": self.args}  # type: ignore[attr-defined]


class UsageError(GvisorError):
    """A setting, a marker argument or a call is invalid; nothing was started."""

    exit_status = 2


class RunscError(GvisorError):
    """The base of errors about runsc itself."""


class RunscNotFound(RunscError):
    """There is no runsc to run: a skip, unless ``--gvisor-strict`` or ``explicit``.

    ``searched`` holds the paths that were looked at, in order. ``explicit`` is True if an option or
    a marker named the path, and nothing was searched for.
    """

    def __init__(
        self,
        message: str,
        *,
        searched: Sequence[str] = (),
        explicit: bool = False,
        next_step: str = "",
    ) -> None:
        self.searched = tuple(searched)
        self.explicit = explicit
        super().__init__(message, next_step=next_step)


class InsecureRunsc(RunscError):
    """A runsc was found and refused; it was not executed.

    ``path`` is the refused file, ``owner`` its uid, ``reason`` the rule that it breaks. ``mode`` is
    its permission bits, or None if it could not be read.
    """

    def __init__(
        self,
        path: str,
        reason: str,
        *,
        mode: int | None = None,
        owner: int | None = None,
        next_step: str = "",
    ) -> None:
        self.path = path
        self.reason = reason
        self.mode = mode
        self.owner = owner
        facts = ["" if mode is None else f"mode {mode:04o}"]
        facts += ["" if owner is None else f"owner uid {owner}"]
        known = f" ({', '.join(filter(None, facts))})" if any(facts) else ""
        super().__init__(f"refusing to run {escape(path)}{known}: {reason}", next_step=next_step)


class UnwantedRelease(RunscError):
    """The runsc is of another release than a project, a test or this package requires.

    ``version`` is its own, ``wanted`` the comparisons that were asked for.
    """

    def __init__(self, message: str, *, version: str, wanted: str, next_step: str = "") -> None:
        self.version = version
        self.wanted = wanted
        super().__init__(message, next_step=next_step)


class RunscFailed(RunscError):
    """runsc itself failed: it could not start, or gave an unusable answer.

    ``records`` are the messages of runsc's own ``--log`` file. ``command`` is the command line in a
    form that can be pasted, ``stderr`` the end of standard error, escaped.
    """

    def __init__(
        self,
        message: str,
        *,
        records: Sequence[str] = (),
        command: str = "",
        stderr: str = "",
        next_step: str = "",
    ) -> None:
        self.records = tuple(records)
        self.command = command
        self.stderr = stderr
        super().__init__(_with_records(message, records), next_step=next_step)


class MixedReleases(RunscFailed):
    """The sentry in ``gvisor-bin`` is of another release than runsc, so no sandbox boots."""


class ProgramNotStarted(RunscFailed):
    """The workload's program is not in the sandbox, or cannot be executed.

    ``program`` is its name as it was given. ``exit_status`` is that of a shell: 127 if it was not
    found, 126 if it cannot be executed.
    """

    def __init__(
        self,
        message: str,
        *,
        program: str,
        status: int,
        records: Sequence[str] = (),
        command: str = "",
        next_step: str = "",
    ) -> None:
        super().__init__(message, command=command, next_step=next_step)
        self.records = tuple(records)
        """The messages of runsc's own ``--log`` file."""

        self.program = program
        self.exit_status = status


class PlatformUnavailable(GvisorError):
    """A platform cannot work on this host. ``platform`` is its name, ``cause`` the reason."""

    def __init__(self, platform: str, cause: str, *, next_step: str = "") -> None:
        self.platform = platform
        self.cause = cause
        super().__init__(f"platform {platform} is not available here: {cause}", next_step=next_step)


class InvalidBundle(GvisorError):
    """A bundle's configuration breaks rules. ``problems`` holds all of them."""

    def __init__(self, problems: Sequence[str], *, where: str = "config.json") -> None:
        self.problems = tuple(problems)
        self.where = where
        """The file or root file system that has the problems: ``config.json`` by default."""

        count = len(self.problems)
        title = f"{where}: {count} problem{'' if count == 1 else 's'}"
        super().__init__("\n".join([title, *(f"  - {problem}" for problem in self.problems)]))


class ImageError(GvisorError):
    """An image cannot be found, read, trusted or unpacked; no part of it is left.

    ``image`` is what was asked for.
    """

    def __init__(self, message: str, *, image: str = "", next_step: str = "") -> None:
        self.image = image
        about = f"image {image}: " if image else ""
        super().__init__(escape(f"{about}{message}"), next_step=next_step)


class DaemonUnavailable(ImageError):
    """No docker daemon answers: a skip, unless ``--gvisor-strict``."""


class LaunchError(GvisorError):
    """The way from this process to runsc failed before runsc could start.

    ``stage`` is the step that failed, for instance ``no_new_privs`` or ``execve``. ``errno`` is the
    kernel's error number, or 0 if the step failed by its own check. ``detail`` is the message
    without the stage.
    """

    def __init__(self, stage: str, detail: str, *, errno: int = 0, next_step: str = "") -> None:
        self.stage = stage
        self.errno = errno
        self.detail = f"{detail}{_named(errno)}" if errno else detail
        step = next_step or _LIMITS.get(errno, "")
        super().__init__(f"the launch failed at {stage}: {self.detail}", next_step=step)


class InstallFailed(GvisorError):
    """A release of runsc cannot be fetched, verified or put in place.

    Nothing of it is left.
    """

    exit_status = 1


class InstallTimeout(InstallFailed):
    """A release of runsc did not come by the deadline for everything."""

    exit_status = 124


class MachineFailed(GvisorError):
    """A throw-away VM cannot be made, or ended before its command did."""


class MachineTimeout(MachineFailed, TimeoutError):
    """The command in a throw-away VM did not end by its deadline; the VM is dead."""

    exit_status = 124


class SnapshotError(GvisorError):
    """A sandbox cannot be saved, or not started from what was saved.

    ``records`` are the messages of the ``runsc checkpoint`` or ``runsc restore`` that failed.
    """

    def __init__(self, message: str, *, records: Sequence[str] = (), next_step: str = "") -> None:
        self.records = tuple(records)
        super().__init__(_with_records(message, records), next_step=next_step)


class TraceError(GvisorError):
    """This runsc cannot trace, or a trace is not complete and so cannot be checked."""


class InsideError(GvisorError):
    """The kernel of a sandbox refused something; ``errno`` is its error number."""

    def __init__(self, message: str, *, errno: int, next_step: str = "") -> None:
        self.errno = errno
        super().__init__(f"{message}{_named(errno)}", next_step=next_step)


class NotReady(GvisorError, TimeoutError):
    """A wait in a warm sandbox has passed its deadline: for a port, for output, for an end.

    Nothing was killed.
    """


class RemoteError(GvisorError):
    """A module of `Sandbox.load` has raised an exception.

    Each attribute is what the module's process says, bounded, with hidden characters escaped.
    ``type_names`` are the name of the exception's type and those of its bases, in Python's order.
    ``type_name`` is the first of them, ``text`` the exception as a text, and ``traceback`` that in
    the sandbox.
    """

    def __init__(self, type_names: Sequence[str], text: str, traceback: str) -> None:
        self.type_names = tuple(escape(name[:200]) for name in type_names[:50])
        self.type_name = (*self.type_names, "")[0]
        self.text, self.traceback = escape(text[:20_000]), escape(traceback[-20_000:])
        message = f"the loaded module raised {self.type_name}: {self.text}"
        super().__init__(f"{message}\n{quoted(self.traceback.rstrip())}")


class RemoteAttributeError(RemoteError, AttributeError):
    """An AttributeError of a loaded module: `hasattr` returns False for it."""


class ReportError(GvisorError):
    """A file is no report of this package's, or a report cannot be written there."""


class ProtocolError(GvisorError):
    """A message between this process and its keeper broke the protocol."""


# pytest's own filters name its base class. The package works without pytest, and so does not import
# it: where the plugin is loaded, pytest was there before.
_Base: type[UserWarning] = getattr(sys.modules.get("pytest"), "PytestWarning", UserWarning)


class PytestGvisorWarning(_Base):  # type: ignore[valid-type, misc]  # a variable, as above
    """A fact for the reader that fails nothing; in pytest, a `pytest.PytestWarning`."""


def causes_of(error: BaseException) -> list[BaseException]:
    """Return an error and its causes, the first cause last: also those among its arguments."""
    found = [error]
    while len(found) < 20:
        last = found[-1]
        inner = [part for part in last.args if isinstance(part, BaseException)]
        before = last.__cause__ or last.__context__ or next(iter(inner), None)
        # urllib3 before 2 first tries a call that an older Python refuses.
        if before is None or isinstance(before, TypeError):
            break
        found.append(before)
    return found


@contextlib.contextmanager
def stage(name: str, doing: str) -> Iterator[None]:
    """Turn an OSError or a MemoryError into a `LaunchError` with this stage.

    ``doing`` names the failed action. Python raises MemoryError where the kernel has said ENOMEM.
    """
    try:
        yield
    except OSError as error:
        raise LaunchError(name, doing, errno=error.errno or 0) from error
    except MemoryError as error:
        raise LaunchError(name, doing, errno=errno_names.ENOMEM) from error


@contextlib.contextmanager
def on_error(act: Callable[..., object], *arguments: object, **more: object) -> Iterator[None]:
    """Call ``act`` with the arguments if an error leaves the block, Ctrl-C for example."""
    with contextlib.ExitStack() as undo:
        undo.callback(act, *arguments, **more)
        yield
        undo.pop_all()


@contextlib.contextmanager
def on_exception(act: Callable[[BaseException], object]) -> Iterator[None]:
    """Call ``act`` with an exception that leaves the block, unless it is that of Ctrl-C, or of a
    forbidden act.
    """

    def leave(_kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, KeyboardInterrupt | None) or FORBIDDEN in vars(error):
            return
        act(error)

    with contextlib.ExitStack() as undo:
        undo.push(leave)
        yield
