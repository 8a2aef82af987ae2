"""A warm sandbox and its programs for asyncio: each method is that of its class, in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from pytest_gvisor.base.egress import SandboxPort
from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.oci.spec import UserSpec
from pytest_gvisor.run.threads import in_thread
from pytest_gvisor.run.workload import Args
from pytest_gvisor.sandbox.output import Reader
from pytest_gvisor.sandbox.peers import CANCELLATION, Cancellation
from pytest_gvisor.sandbox.process import Process, Writer
from pytest_gvisor.sandbox.sandbox import Sandbox

_P = ParamSpec("_P")
_Of = TypeVar("_Of")
_Result = TypeVar("_Result")


class _Twin(Generic[_Of]):
    """An object whose methods are those of another one, as coroutines."""

    def __init__(self, of: _Of) -> None:
        self._of = of


def _twin(
    method: Callable[Concatenate[_Of, _P], _Result],
    take_back: Callable[[_Of, _Result], object] = lambda _of, _result: None,
) -> Callable[Concatenate[_Twin[_Of], _P], Coroutine[Any, Any, _Result]]:
    """Return a coroutine function that calls a method in a thread.

    A cancellation ends the method's wait by an exception, as a Ctrl-C does. If the method has
    returned by then, ``take_back`` gets the result that no caller has.
    """

    @functools.wraps(method)
    async def call(twin: _Twin[_Of], /, *args: _P.args, **options: _P.kwargs) -> _Result:
        of, cancellation = twin._of, Cancellation()

        def run() -> _Result:
            CANCELLATION.set(cancellation)
            return method(of, *args, **options)

        return await in_thread(run, cancellation.fire, functools.partial(take_back, of))

    return call


class AsyncReader(_Twin[Reader]):
    """An output stream of an `AsyncProcess`. A cancelled call takes no bytes."""

    read = _twin(Reader.read, Reader.unread)
    read1 = _twin(Reader.read1, Reader.unread)
    readline = _twin(Reader.readline, Reader.unread)


class AsyncWriter(_Twin[Writer]):
    """The standard input of an `AsyncProcess`."""

    write = _twin(Writer.write)
    close = _twin(Writer.close)


class AsyncProcess(_Twin[Process]):
    """A `Process` for asyncio, from `AsyncSandbox.popen`.

    The end of its ``async with`` kills the program. A cancelled ``wait`` leaves it running.
    """

    def __init__(self, of: Process) -> None:
        super().__init__(of)
        self.stdin = AsyncWriter(of.stdin)
        self.stdout, self.stderr = AsyncReader(of.stdout), AsyncReader(of.stderr)

    wait = _twin(Process.wait)
    wait_for_output = _twin(Process.wait_for_output)
    send_signal = _twin(Process.send_signal)
    terminate = _twin(Process.terminate)
    kill = _twin(Process.kill)

    @property
    def returncode(self) -> int | None:
        """The exit status, or ``-S`` for signal S; None while it runs."""
        return self._of.returncode

    async def __aenter__(self) -> Self:
        """Return it."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill the program and its descendants, unless it has ended."""
        if not self._of.channel.gone:
            await self.kill()


class AsyncSandbox(_Twin[Sandbox]):
    """A `Sandbox` for asyncio: ``async with gvisor.asandbox() as box: await box.exec(["true"])``.

    Its methods are those of `Sandbox`, each in a thread of the loop's executor. If a task is
    cancelled in `exec`, the program and all that it started are killed, and
    `asyncio.CancelledError` is raised afterwards. The sandbox stays usable.
    """

    def __init__(self, start: Callable[[], Sandbox]) -> None:
        """``start`` starts the sandbox; ``async with`` calls it in a thread."""
        self._start = start

    if not TYPE_CHECKING:  # to type checkers it would have any attribute

        def __getattr__(self, name: str) -> None:
            """Raise `UsageError` for the sandbox that ``async with`` has not started yet."""
            if name == "_of":
                step = "Write async with gvisor.asandbox() as box:"
                raise UsageError("this sandbox has not been started", next_step=step)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    exec = _twin(Sandbox.exec)
    put = _twin(Sandbox.put)
    get = _twin(Sandbox.get)
    ping = _twin(Sandbox.ping)
    wait_for_port = _twin(Sandbox.wait_for_port)
    wait_for_http = _twin(Sandbox.wait_for_http)

    @property
    def user(self) -> tuple[int, int]:
        """See `Sandbox.user`."""
        return self._of.user

    def port(self, port: int) -> SandboxPort:
        """See `Sandbox.port`."""
        return self._of.port(port)

    @contextlib.asynccontextmanager
    async def network(
        self, allow: Sequence[str] | Mapping[str, SandboxPort | None]
    ) -> AsyncIterator[None]:
        """Do as `Sandbox.network` does: ``async with box.network(allow=[…]):``."""
        with contextlib.ExitStack() as undo:
            opened = self._of.network(allow)
            await in_thread(lambda: undo.enter_context(opened), lambda: None)
            try:
                yield
            finally:
                await in_thread(undo.close, lambda: None)

    async def popen(
        self,
        args: Args,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: UserSpec | None = None,
    ) -> AsyncProcess:
        """Do as `Sandbox.popen` does, and return an `AsyncProcess` as soon as the program runs."""
        held: list[Process] = []
        start = _twin(Sandbox.popen, lambda _of, process: held.append(process))
        try:
            return AsyncProcess(await start(self, args, env=env, cwd=cwd, user=user))
        except asyncio.CancelledError:
            for process in held:  # it had started by then, and nobody else has it
                await AsyncProcess(process).kill()
            raise

    async def __aenter__(self) -> Self:
        """Start the sandbox. If the task is cancelled meanwhile, nothing of it is left."""

        def start() -> None:
            self._of = self._start()

        try:
            await in_thread(start, lambda: None)
        except asyncio.CancelledError:
            with contextlib.suppress(UsageError):  # it has not started
                await self.close()
            raise
        return self

    close = _twin(Sandbox.close)

    async def __aexit__(self, *_: object) -> None:
        """Close the sandbox and all that runs in it."""
        await self.close()
