"""The command to start one program in a warm sandbox."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.settings import Platform
from pytest_gvisor.oci import defaults
from pytest_gvisor.oci.rootfs import HostRootfs, host_system
from pytest_gvisor.oci.spec import Who
from pytest_gvisor.run.request import Request
from pytest_gvisor.run.workload import Workload

_MAX_PATH = 4096


@dataclass(frozen=True, kw_only=True)
class Command:
    """The program to start, with the facts for its error or result."""

    args: tuple[str, ...]
    strings: tuple[bytes, ...]
    """The arguments and then the environment, ``NAME=value``."""

    cwd: str
    user: tuple[int, int, tuple[int, ...]]
    reads: bool
    """Whether it has a standard input to read from; else that is at its end at once."""

    timeout: float
    max_output: int
    platform: Platform
    runsc: str
    """The sandbox's own command line."""

    repeat: Mapping[str, object] = dataclasses.field(default_factory=dict)


def command(
    args: tuple[str, ...],
    workload: Workload,
    request: Request,
    *,
    runsc: str,
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | None,
    user: Who | None,
    reads: bool,
    repeat: Mapping[str, object],
) -> Command:
    """Return the command for ``args``, with the defaults of a sandbox's workload.

    ``request`` is the sandbox's own, and ``runsc`` its command line. Raises `UsageError`.
    """
    asked, home = workload.user, workload.home
    if user is not None:
        asked, home = workload.rootfs.find_user(user)
    who = defaults.parse_user(asked)
    path = host_system(whole=False).path if isinstance(workload.rootfs, HostRootfs) else ()
    given = {**workload.env, **(env or {})}
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
        timeout=request.settings.timeout,
        max_output=request.settings.max_output,
        platform=request.platform,
        runsc=runsc,
        repeat={k: v for k, v in repeat.items() if v is not None},
    )


def check_path(path: object, name: str) -> None:
    """Raise `UsageError` for what is no absolute path in the sandbox."""
    if not isinstance(path, str) or not path.startswith("/") or len(path) > _MAX_PATH:
        raise UsageError(f"{name}={path!r} is not an absolute path in the sandbox")
    encoded(path)


def encoded(string: str) -> bytes:
    """Encode an argument or a path for the kernel. Raises `UsageError`."""
    try:
        data = string.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise UsageError(f"{string!r} cannot be given to the sandbox: {error.reason}") from error
    if b"\0" in data:
        raise UsageError(f"a NUL byte in {string!r}: the kernel would cut the string there")
    return data
