"""The sandbox provider ``gvisor`` of inspect_ai, which imports this module by its entry point.

Each sample has a warm sandbox of its own. All tasks of a process share one session, which ends with
the last of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
from collections.abc import Iterator
from typing import Any, Literal, overload

from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentConfigType,
    SandboxEnvironmentLimits,
    sandboxenv,
)
from pydantic import BaseModel, ConfigDict

from pytest_gvisor.base.completed import Completed, WorkloadTimeout
from pytest_gvisor.base.errors import InsideError, NotReady
from pytest_gvisor.harness.asandbox import AsyncSandbox
from pytest_gvisor.harness.engine import session
from pytest_gvisor.harness.gvisor import Gvisor

_USER = "1000:1000"
_NO_DEADLINE = 7 * 24 * 3600.0
_NOT_FOUND = 127
_FOLDER = "/tmp/sample"
_MOST_USERS = 1024 * 1024  # bytes of /etc/passwd, which a sample may have written


class GvisorSandboxConfig(BaseModel):
    """The configuration of a task's or a sample's sandbox: settings of ``gvisor.sandbox(…)``.

    Without an image, the sandbox has the host's system folders, read-only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str | None = None
    """An archive or a layout, or a name that docker or podman has."""

    user: str | None = None
    """The user of commands and files. It is the image's own, and without an image uid 1000."""

    cwd: str | None = None
    """The folder of a sample, absolute. It is the image's own, and without an image a new one."""

    env: dict[str, str] = {}
    allow: tuple[str, ...] = ()
    """The hosts and ports that a sandbox reaches; it has no other network."""

    memory: str | None = None
    pids: int | None = None
    cpus: float | None = None
    platform: str = "systrap"


class _Sessions:
    """The session of each platform, with the number of tasks that use it."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Gvisor, contextlib.ExitStack]] = {}
        self._tasks: dict[str, int] = {}

    def enter(self, platform: str) -> None:
        """Note that a task begins; the first one starts the session."""
        if platform not in self._open:
            undo = contextlib.ExitStack()
            self._open[platform] = undo.enter_context(session(platform=[platform])), undo
        self._tasks[platform] = self._tasks.get(platform, 0) + 1

    def leave(self, platform: str) -> None:
        """Note that a task has ended; with the last one, the session ends."""
        self._tasks[platform] -= 1
        if not self._tasks[platform]:
            self._open.pop(platform)[1].close()

    def __getitem__(self, platform: str) -> Gvisor:
        """Return the session of a platform."""
        return self._open[platform][0]


_sessions = _Sessions()


def _config(config: SandboxEnvironmentConfigType | None) -> GvisorSandboxConfig:
    """Return the configuration; a text is the path of an image."""
    if isinstance(config, GvisorSandboxConfig):
        return config
    if config is None or isinstance(config, str):
        return GvisorSandboxConfig(image=config)
    raise TypeError(f"{type(config).__name__} is no GvisorSandboxConfig, nor the path of an image")


@sandboxenv(name="gvisor")
class GvisorSandboxEnvironment(SandboxEnvironment):
    """A warm sandbox under gVisor."""

    def __init__(self, box: AsyncSandbox, folder: str) -> None:
        """``box`` has started; relative paths begin at ``folder``."""
        super().__init__()
        self._box = box
        self._folder = folder
        self._user = box.user

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        """Return the configuration in a log."""
        return GvisorSandboxConfig(**config)

    @classmethod
    def default_concurrency(cls) -> int | None:
        """Return how many sandboxes are open at once: one for each processor."""
        return os.cpu_count()

    @classmethod
    async def task_init(cls, task_name: str, config: SandboxEnvironmentConfigType | None) -> None:
        """Start the session. Raises what `session` raises."""
        _sessions.enter(_config(config).platform)

    @classmethod
    async def task_cleanup(
        cls, task_name: str, config: SandboxEnvironmentConfigType | None, cleanup: bool
    ) -> None:
        """End the session. No sandbox outlives its process, so ``cleanup`` has no effect."""
        _sessions.leave(_config(config).platform)

    @classmethod
    async def sample_init(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        metadata: dict[str, str],
    ) -> dict[str, SandboxEnvironment]:
        """Start a sample's sandbox."""
        asked = _config(config)
        settings = asked.model_dump(exclude={"platform"}, exclude_none=True)
        if asked.image is None:
            settings = {"user": _USER, "cwd": _FOLDER, **settings}
        limit = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE
        box = _sessions[asked.platform].asandbox(max_output=limit, **settings)
        await box.__aenter__()
        async with contextlib.AsyncExitStack() as on_failure:
            on_failure.push_async_callback(box.close)
            folder = settings.get("cwd") or (await box.exec(["pwd"], check=True)).stdout[:-1]
            script = 'mkdir -p "$0" && chown "$1" "$0"' if asked.image is None else 'mkdir -p "$0"'
            owner = ":".join(map(str, box.user))
            await box.exec(["sh", "-c", script, folder, owner], cwd="/", user=0, check=True)
            on_failure.pop_all()
        return {"default": cls(box, folder)}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        """Close a sample's sandbox."""
        for environment in environments.values():
            await environment.as_type(cls)._box.close()

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,  # noqa: A002 -- inspect_ai's name
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """See `SandboxEnvironment.exec`. A command that has timed out is not tried again."""
        try:
            who, variables = self._user, dict(env or {})
            if user is not None:
                found = await _user_of(self._box, user)
                if found is None:
                    return ExecResult(False, 1, "", f"there is no user {user} in /etc/passwd")
                who = found[:2]
                variables.setdefault("HOME", found[2])
            done = await self._box.exec(
                cmd,
                input=input,
                cwd=self._path(cwd or "."),
                env=variables,
                user=None if user is None else who,
                timeout=timeout or _NO_DEADLINE,
            )
        except WorkloadTimeout as error:
            raise TimeoutError(str(error)) from error
        except InsideError as error:
            if isinstance(_os_error(error, cmd[0]), PermissionError):
                raise _os_error(error, cmd[0]) from error
            return ExecResult(False, _NOT_FOUND, "", f"{error}\n")
        return _result(done)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """See `SandboxEnvironment.write_file`: as the user of the sandbox."""
        with _translated(file):
            await self._box.put(self._path(file), contents, None, user=self._user)

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """See `SandboxEnvironment.read_file`: as the user of the sandbox."""
        with _translated(file):
            limit = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
            data = await self._box.get(self._path(file), limit=limit, user=self._user)
        return data.decode() if text else data

    def _path(self, path: str) -> str:
        return posixpath.join(self._folder, path)


async def _user_of(box: AsyncSandbox, user: str) -> tuple[int, int, str] | None:
    """Return uid, gid and home folder of a name or a uid, as the sandbox has it now."""
    try:
        text = await box.get("/etc/passwd", limit=_MOST_USERS)
        lines = text.decode("utf-8", "replace").splitlines()
    except InsideError:  # an image without one, or no such file
        lines = ["root:x:0:0::/root:"]
    for line in lines:
        fields = line.split(":")
        if len(fields) > 5 and user in fields[::2][:2] and f"{fields[2]}{fields[3]}".isdecimal():
            return int(fields[2]), int(fields[3] or 0), fields[5] or "/"
    return (int(user), 0, "/") if user.isdecimal() else None


def _os_error(error: InsideError, name: str) -> OSError:
    """Return the error of this number with Python's own class, such as FileNotFoundError."""
    return OSError(error.errno, os.strerror(error.errno or 0), name)


@contextlib.contextmanager
def _translated(file: str) -> Iterator[None]:
    """Raise the errors that inspect_ai expects of a file."""
    try:
        yield
    except NotReady as error:
        raise TimeoutError(str(error)) from error
    except InsideError as error:
        found = _os_error(error, file)
        if found.errno == errno.EFBIG:
            limit = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR
            raise OutputLimitExceededError(limit, None) from error
        raise found from error


def _result(done: Completed) -> ExecResult[str]:
    if done.truncated:
        limit = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR
        raise OutputLimitExceededError(limit, done.stdout)
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return ExecResult(code == 0, code, done.stdout, done.stderr)
