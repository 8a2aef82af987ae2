"""The object of the ``gvisor`` fixture, which turns settings and a call into a run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack

from pytest_gvisor.base import removed
from pytest_gvisor.base.completed import Completed
from pytest_gvisor.base.errors import UsageError, on_exception
from pytest_gvisor.base.settings import CallSettings, Platform, Settings
from pytest_gvisor.harness import call
from pytest_gvisor.oci.bundle import Bundle
from pytest_gvisor.oci.defaults import HOSTNAME
from pytest_gvisor.oci.mounts import Mounts
from pytest_gvisor.oci.project import Project
from pytest_gvisor.oci.rootfs import ProgramDefaults, Rootfs, python
from pytest_gvisor.oci.spec import UserSpec
from pytest_gvisor.programs.linux import closing
from pytest_gvisor.run import runner, threads
from pytest_gvisor.run.not_started import Asker
from pytest_gvisor.run.pipes import Streams
from pytest_gvisor.run.request import Hooks, Record, Request, check_forbidden, forget
from pytest_gvisor.run.specification import input_of, way_of
from pytest_gvisor.run.workload import Args, Workload
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.runsc.command import check_extra
from pytest_gvisor.runsc.rootless import Way
from pytest_gvisor.sandbox import interpreter
from pytest_gvisor.sessions.launcher import Launcher

if TYPE_CHECKING:
    from pytest_gvisor.harness.asandbox import AsyncSandbox
    from pytest_gvisor.images.store import Images
    from pytest_gvisor.sandbox.sandbox import Sandbox
    from pytest_gvisor.sandbox.snapshot import Snapshot


_P = ParamSpec("_P")
_Result = TypeVar("_Result")


def _takes_as(
    known: Callable[_P, object],
) -> Callable[[Callable[..., _Result]], Callable[_P, _Result]]:
    """Give a function the parameters of another one, for type checkers and for `inspect`."""

    def give(function: Callable[..., _Result]) -> Callable[_P, _Result]:
        vars(function)["__wrapped__"] = known
        return function

    return give


class Gvisor:
    """Runs workloads under gVisor, in the manner of `subprocess.run`."""

    def __init__(
        self, *, runsc: Runsc, platform: Platform, launcher: Launcher,
        settings: Settings | None = None, hooks: Hooks | None = None,
        images: Callable[[], Images] | None = None, project: Project | None = None,
        asker: Asker | None = None,
    ) -> None:  # fmt: skip
        """``asker`` is where a remedy is pasted, if not into a call."""
        self.runsc = runsc
        self.platform = platform
        self.settings = settings or Settings()
        self.records: list[Record] = []
        self.sandboxes: list[Sandbox] = []  # those that are open
        self._running = threads.Running()
        self._launcher = launcher
        self._hooks = hooks or Hooks()
        self._images = images
        self._project = project or Project(root=_here())
        self._asker = asker or Asker(project=self._project)

    if not TYPE_CHECKING:  # to type checkers it would have any attribute

        def __getattr__(self, name: str) -> None:
            """Raise `AttributeError` that says what to write."""
            known = name.lower() in removed.OF_SANDBOXES
            step = f": write gvisor_sandbox.{name.lower()}([…])" if known else ""
            raise AttributeError(f"'Gvisor' object has no attribute {name!r}{step}")

    @property
    def python(self) -> str:
        """The path of the running Python in `host()`, with the packages of its environments.

        Raises `UsageError` where an image is the root, which has its own.
        """
        if self.settings.image is not None:
            raise UsageError(
                f"gvisor.python is a path in host(), and image={self.settings.image!r}",
                next_step="Name the image's own program, such as python3.",
            )
        return python()

    def run(
        self,
        args: Args = (),
        *,
        input: str | bytes | Iterable[bytes] | None = None,  # noqa: A002 -- subprocess.run's name
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        check: bool = False,
        user: UserSpec | None = None,
        rootfs: Rootfs | None = None,
        entrypoint: str | Sequence[str] | None = None,
        mounts: Mounts = (),
        hostname: str = HOSTNAME,
        readonly: bool = False,
        **settings: Unpack[CallSettings],
    ) -> Completed:
        """Run ``args`` in a fresh sandbox and wait for its end.

        ``input`` is fed to standard input; an iterable of bytes is taken piece by piece. Without
        it, standard input is at its end at once. ``env`` comes on top of a fixed environment.
        ``timeout`` is in seconds. At the deadline the workload gets SIGTERM, a second's grace, and
        SIGKILL.
        ``user`` is a uid, ``(uid, gid)`` or ``"uid:gid"`` inside. ``rootfs`` is `host()` unless
        given; writes to it stay in the sandbox's memory, and ``readonly`` forbids them.
        ``settings`` are those of the ``gvisor`` marker (network, image, memory, pids, cpus, …),
        for this run alone.

        In an image, ``args`` follow its entrypoint and take the place of its command.
        ``entrypoint`` takes the place of both. ``user`` may be a name or ``"name:group"``. The
        image has the defaults of all of them.

        Raises `InvalidBundle`, `UsageError`, `ImageError`, `InsecureRunsc` or `LaunchError` before
        anything is started. Raises `WorkloadTimeout`, `RunscFailed`, `SandboxCrashed` or
        `ProtocolError` afterwards. With ``check``, a status other than 0 raises `WorkloadFailed`.
        With ``forbid``, an act of it raises `AssertionError`, and a trace with a gap `TraceError`.
        """
        request = self.request(
            args, input=input, env=env, cwd=cwd, timeout=timeout, user=user, rootfs=rootfs,
            entrypoint=entrypoint, mounts=mounts, hostname=hostname, readonly=readonly, **settings,
        )  # fmt: skip
        return self._finish(request, check=check)

    @_takes_as(run)
    async def arun(self, args: Args = (), *, check: bool = False, **options: Any) -> Completed:
        """Do as `run` does, for asyncio: other tasks run meanwhile.

        If the task is cancelled, the workload is killed at once. `asyncio.CancelledError` is raised
        when the sandbox is removed.
        """
        request = self.request(args, **options)
        with closing(os.eventfd(0, os.EFD_CLOEXEC)) as stop:
            asked = dataclasses.replace(request, stop=stop)
            run = functools.partial(self._finish, asked, check=check)
            return await threads.in_thread(run, lambda: os.eventfd_write(stop, 1))

    def request(
        self, args: Args, *,
        input: str | bytes | Iterable[bytes] | None = None,  # noqa: A002 -- subprocess.run's name
        timeout: float | None = None, **options: Any,
    ) -> Request:  # fmt: skip
        """Return the request that `run` would make of these arguments, without a start."""
        given, settings = call.split(options)
        chosen = self._chosen(timeout, settings)
        asked = call.workload_of(args, chosen, self._project, self._images, given)
        repeat = {"input": input if isinstance(input, str | bytes) else None, "timeout": timeout}
        return self._request(
            chosen,
            asked,
            input=input_of(input),
            asker=self._asker._replace(project=None) if chosen.project else self._asker,
            stop_signal=(asked.rootfs.defaults or ProgramDefaults()).stop_signal,
            repeat={**{k: v for k, v in repeat.items() if v is not None}, **call.unusual(options)},
        )

    def run_bundle(
        self, bundle: Bundle, *,
        input: str | bytes | Iterable[bytes] | None = None,  # noqa: A002 -- subprocess.run's name
        timeout: float | None = None, check: bool = False, **settings: Unpack[CallSettings],
    ) -> Completed:  # fmt: skip
        """Run a validated bundle, from ``oci_bundle`` or `Bundle.open`.

        The specification in ``bundle`` runs, even if config.json has changed since. Arguments,
        settings and errors as for `run`. Of two limits, the lower one holds. A bundle has its own
        image, project and shm: they are a `UsageError` here.
        """
        if unfit := [name for name in ("image", "project", "shm") if settings.get(name)]:
            raise UsageError(f"{unfit[0]} is not for a bundle, which has its own")
        chosen = self._chosen(timeout, settings)
        settled = dataclasses.replace(chosen, netns=call.netns_of(bundle.spec, chosen))
        request = self._request(settled, bundle, input=input_of(input))
        return self._finish(request, check=check, notes=bundle.notes)

    def sandbox(
        self,
        *,
        snapshot: Snapshot | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        user: UserSpec | None = None,
        rootfs: Rootfs | None = None,
        mounts: Mounts = (),
        hostname: str = HOSTNAME,
        readonly: bool = False,
        **settings: Unpack[CallSettings],
    ) -> Sandbox:
        """Start a warm sandbox: ``with gvisor.sandbox() as box: box.exec(["true"])``.

        Arguments are those of `run`, apart from ``args``, ``input``, ``check`` and ``entrypoint``.
        ``env``, ``cwd``, ``user`` and ``timeout`` are the defaults of its programs.

        With ``snapshot`` it is a copy of a saved sandbox, and has that one's root file system,
        mounts and settings. Raises `UsageError` for others, and `SnapshotError`.
        """
        # Its modules take some 50 ms, and a run in a fresh sandbox would wait for them.
        from pytest_gvisor.sandbox.sandbox import Sandbox  # noqa: PLC0415

        chosen = self._chosen(timeout, settings)
        if chosen.traces("paths"):
            step = "Write trace=True: Trace.changes has the calls without their paths."
            raise UsageError(f"trace={chosen.trace}: a warm sandbox has no paths", next_step=step)
        if snapshot is None:
            given = {
                "env": env, "cwd": cwd, "user": user, "rootfs": rootfs, "mounts": mounts,
                "hostname": hostname, "readonly": readonly,
            }  # fmt: skip
            workload = call.workload_of(["guest"], chosen, self._project, self._images, given)
        else:
            if chosen.allow:
                raise UsageError(f"allow={chosen.allow!r}: runsc restores no sandbox with a relay")
            if rootfs is not None or mounts or hostname != HOSTNAME or readonly:
                raise UsageError("a snapshot has its own rootfs, mounts, hostname and readonly")
            workload = snapshot.workload_with(env=env, cwd=cwd, user=user)
        restores = snapshot.folder if snapshot else ""
        request = self._request(
            chosen, workload, restores=restores, streams=Streams, programs=True,
            asker=Asker("gvisor.sandbox(…)"),
        )  # fmt: skip
        if request.way is Way.FLAG:  # no sandbox is restored with --rootless
            request = dataclasses.replace(request, way=Way.OWN)
        if snapshot is not None:
            snapshot.check(request)
        return Sandbox(
            request, workload, launcher=self._launcher, hooks=self._hooks, records=self.records,
            running=self._running, opened=self.sandboxes, snapshot=snapshot,
        )  # fmt: skip

    @_takes_as(sandbox)
    def asandbox(self, **options: Any) -> AsyncSandbox:
        """Do as `sandbox` does, for asyncio: ``async with gvisor.asandbox() as box:``."""
        from pytest_gvisor.harness.asandbox import AsyncSandbox  # noqa: PLC0415 -- as sandbox()

        return AsyncSandbox(functools.partial(self.sandbox, **options))

    def close(self) -> None:
        """Close the warm sandboxes that are still open, all before a hook's error is raised.

        Wait 5 seconds at most for other threads' runs with ``forbid``. No more of these begin.
        """
        self._running.over = True
        with contextlib.ExitStack() as undo:
            for sandbox in [*self.sandboxes]:
                undo.callback(sandbox.close)
        self._running.wait()

    def _chosen(self, timeout: float | None, settings: Mapping[str, object]) -> Settings:
        changes = dict(settings) if timeout is None else {**settings, "timeout": timeout}
        return call.chosen_settings(self.settings, changes)

    def _request(self, chosen: Settings, workload: Workload | Bundle, **more: Any) -> Request:
        if chosen.allow and more.get("streams") is not Streams:
            more["relay"] = interpreter.relay(chosen.allow)
        flags = check_extra(self._hooks.runsc_args(), self.runsc.flags)
        return Request(
            runsc=self.runsc, platform=self.platform, settings=chosen, workload=workload,
            way=way_of(chosen), extra_flags=flags, **more,
        )  # fmt: skip

    def _finish(self, request: Request, *, check: bool, notes: tuple[str, ...] = ()) -> Completed:
        record = Record(notes=notes)
        self.records.append(record)

        def judge(_error: BaseException) -> None:
            if record.start is not None:  # else nothing of the workload has run
                check_forbidden(request, record.completed)

        with self._running.here(request.settings.forbid), on_exception(judge):
            try:
                completed = runner.run(request, self._launcher, record, self._hooks)
            finally:
                self._hooks.run_finished(record)
                forget(self.records)
            check_forbidden(request, completed)
        if check:
            completed.check_returncode()
        return completed


def _here() -> str:
    """Return the current folder; the root folder, which cannot be shown, where it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return "/"
