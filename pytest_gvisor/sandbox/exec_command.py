"""The command to start one program in a warm sandbox."""

from __future__ import annotations

import dataclasses
import errno as errno_names
import os
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_gvisor.base.errors import InsideError, UsageError
from pytest_gvisor.base.settings import Network, Platform, Settings
from pytest_gvisor.oci import defaults
from pytest_gvisor.oci.rootfs import HostRootfs, host_system
from pytest_gvisor.oci.spec import Spec, UserSpec
from pytest_gvisor.run.capture import Capture
from pytest_gvisor.run.connected import Driven
from pytest_gvisor.run.not_started import TAIL, Asker, hint, not_found, not_loaded
from pytest_gvisor.run.request import Request
from pytest_gvisor.run.workload import Workload
from pytest_gvisor.runsc.command import check_strings

_MAX_PATH = 4096
_ASKER = Asker("gvisor.sandbox(…)")
_EXPLAINED = {
    number: os.strerror(number).lower()
    for number in (errno_names.ENOENT, errno_names.ENOTDIR, errno_names.EACCES, errno_names.ENOEXEC)
}


@dataclass(frozen=True, kw_only=True)
class Command:
    """The program to start, with the facts for its error or result."""

    args: tuple[str, ...]
    strings: tuple[bytes, ...]
    """The arguments and then the environment, ``NAME=value``."""

    cwd: str
    user: tuple[int, int, tuple[int, ...]]
    reads: bool
    """Whether it gets an open standard input; if not, the input is at its end at once."""

    settings: Settings
    """The sandbox's own, as is its platform."""

    platform: Platform
    runsc: str
    """The sandbox's own command line."""

    trace: bool = False
    """Whether its result has a trace."""

    allow: tuple[str, ...] = ()
    """The entries that the sandbox reaches when it starts."""

    spec: Spec | None = None
    """The sandbox's own specification."""

    repeat: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def refusal(self, errno: int) -> InsideError:
        """Return the error for the program if the guest could not start it for this reason."""
        program, spec = self.args[0], self.spec
        if spec is None or errno not in _EXPLAINED:
            return InsideError(f"cannot start {list(self.args)!r} in the sandbox", errno=errno)
        if errno == errno_names.ENOENT and "/" not in program:
            message, step = not_found(program, self._path(), spec, _ASKER)
        else:
            message, step = not_loaded(program, _EXPLAINED[errno], spec, _ASKER)
        if errno == errno_names.ENOENT and self.cwd != "/":
            message += f", or the folder cwd={self.cwd!r} was not"
        return InsideError(message, errno=errno, next_step=step)

    def hint(self, output: Capture) -> str:
        """Return what the program may lack of the host, if it has failed with this output."""
        if (spec := self.spec) is not None:
            process = dataclasses.replace(spec.process, args=self.args, cwd=self.cwd)
            spec = dataclasses.replace(spec, process=process)
        stderr = output.last(TAIL).decode("utf-8", "replace")
        networked = self.settings.network is not Network.NONE
        return hint(spec, _ASKER, stderr=stderr, networked=networked, allow=self.allow)

    def _path(self) -> list[str]:
        """Return the folders of its PATH."""
        variables = self.strings[len(self.args) :]
        path = next((one[5:] for one in variables if one.startswith(b"PATH=")), b"")
        return os.fsdecode(path).split(":")


def command(
    args: tuple[str, ...],
    workload: Workload,
    request: Request,
    driven: Driven,
    *,
    runsc: str,
    spec: Spec | None,
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | None,
    user: UserSpec | None,
    reads: bool,
    trace: bool | None,
    repeat: Mapping[str, object],
) -> Command:
    """Return the command for ``args``, with the defaults of a sandbox's workload.

    ``request`` is the sandbox's own, ``driven`` the sandbox, ``runsc`` its command line, and
    ``spec`` its specification. ``trace`` is None for a trace if the sandbox has been started with
    one. Raises `UsageError`.
    """
    if trace and not request.settings.traced:
        step = "Start it by gvisor.sandbox(trace=True), or @pytest.mark.gvisor(trace=True)."
        raise UsageError("this sandbox was started without trace=True", next_step=step)
    asked, home = workload.user, workload.home
    if user is not None:
        asked, home = workload.rootfs.find_user(user)
    who = defaults.parse_user(asked)
    path = host_system(whole=False).path if isinstance(workload.rootfs, HostRootfs) else ()
    given = driven.proxied({**workload.env, **(env or {})})
    folder = workload.cwd if cwd is None else os.fspath(cwd)
    strings = (*args, *defaults.environment(given, uid=who.uid, path=path, home=home))
    if not args or not args[0]:
        raise UsageError("args name no program")
    check_path(folder, "cwd")
    return Command(
        args=args,
        strings=tuple(encoded(string) for string in strings),
        cwd=folder,
        user=(who.uid, who.gid, who.additional_gids),
        reads=reads,
        settings=request.settings,
        platform=request.platform,
        runsc=runsc,
        trace=request.settings.traced if trace is None or request.settings.forbid else trace,
        allow=driven.open,
        spec=spec,
        repeat={k: v for k, v in repeat.items() if v is not None},
    )


def check_path(path: object, name: str) -> None:
    """Raise `UsageError` for what is no absolute path in the sandbox."""
    if not isinstance(path, str) or not path.startswith("/") or len(path) > _MAX_PATH:
        raise UsageError(f"{name}={path!r} is not an absolute path in the sandbox")
    encoded(path)


def encoded(string: str) -> bytes:
    """Encode an argument or a path for the kernel. Raises `UsageError`."""
    check_strings([string])
    try:
        return string.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise UsageError(f"{string!r} cannot be given to the sandbox: {error.reason}") from error
