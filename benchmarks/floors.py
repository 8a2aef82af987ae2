"""Floors: the same work by bare runsc, with nothing of ours, beside the rows that have a goal.

A floor is a contender in the rounds of its row. Nobody can be faster who does the work in that way,
and a goal below its floor is out of reach. One that is not available leaves its row as it is.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

from benchmarks.bare import BareRunsc, Executable
from benchmarks.results import Missing, Unavailable
from pytest_gvisor import GvisorError, SnapshotError, bind
from pytest_gvisor.programs import child, linux, membarrier, own_copy
from pytest_gvisor.programs.order import Order
from pytest_gvisor.programs.paths import SIDECARS_VARIABLE
from pytest_gvisor.runsc import features, saving

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.sessions import Project

Peer = Callable[[], object]
NAME = "floor"
"""The name of the contender, and the field of a `Result`."""

FAILURES = (GvisorError, OSError, RuntimeError, subprocess.SubprocessError)
"""The errors of a row that could not be measured."""

_SPAWN = """\
import os

while os.read(0, 1):
    pid = os.posix_spawn("/usr/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    os.write(1, b".")
"""

# pytest's capture takes the places of the standard streams meanwhile.
_COLLECTED = """\
import os, sys
import pytest

streams = os.dup(0), os.dup(1)


class Gate:
    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        os.write(streams[1], b".")
        os.read(streams[0], 1)


sys.exit(pytest.main(sys.argv[1:], plugins=[Gate()]))
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Floors:
    """Whether floors are measured, and those that could not be."""

    wanted: bool = False
    missing: list[Missing] = dataclasses.field(default_factory=list)

    def join(
        self,
        stack: ExitStack,
        row: str,
        contenders: dict[str, Peer],
        made: Callable[[], AbstractContextManager[Peer]],
    ) -> None:
        """Add the floor of a row to its contenders, if floors are wanted and this one is there.

        It lasts until ``stack`` is closed.
        """
        if not self.wanted:
            return
        try:
            contenders[NAME] = stack.enter_context(made())
        except Unavailable as error:
            self.missing.append(Missing(row=f"floor of {row}", why=str(error), failed=False))
        except FAILURES as error:
            self.missing.append(Missing(row=f"floor of {row}", why=str(error), failed=True))


def together(*peers: Peer) -> Peer:
    """All of them, started at the same moment, until the last one has ended."""

    def run() -> None:
        with concurrent.futures.ThreadPoolExecutor(len(peers)) as pool:
            for future in [pool.submit(peer) for peer in peers]:
                future.result()

    return run


@contextlib.contextmanager
def after(first: Peer, then: AbstractContextManager[Peer]) -> Iterator[Peer]:
    """``then``, each time when ``first`` has ended."""
    with then as peer:

        def run() -> None:
            first()
            peer()

        yield run


@contextlib.contextmanager
def bare_run(bench: Bench, args: list[str]) -> Iterator[Peer]:
    """``runsc run`` with all that our starts spare it: see `_filtered` and `_copied`."""
    with ExitStack() as stack:
        found = Executable(path=bench.runsc.path)
        with contextlib.suppress(OSError):  # the kernel has no huge pages, or forbids it
            found = stack.enter_context(_copied(bench))
        bare, config = bench.bare("floor-run", args, executable=found)
        run = functools.partial(bare.run, bare.bundle("bundle", config))
        if features.registers_in_vain(bench.runsc.date, bench.platform):
            filtered = stack.enter_context(_filtered())
            yield lambda: filtered(run)
        else:
            yield run


@contextlib.contextmanager
def _filtered() -> Iterator[Callable[[Peer], object]]:
    """A thread whose children have the filter: it belongs to a thread, and so does no-new-privs."""

    def prepare() -> None:
        linux.set_no_new_privs()
        membarrier.skip_registration()

    with concurrent.futures.ThreadPoolExecutor(1, initializer=prepare) as pool:
        yield lambda peer: pool.submit(peer).result()


@contextlib.contextmanager
def _copied(bench: Bench) -> Iterator[Executable]:
    """A copy of runsc in memory, on huge pages, as the keeper makes one. Raises `OSError`."""
    env = {SIDECARS_VARIABLE: bench.runsc.sidecars.folder} if bench.runsc.uses_sidecars else {}
    copy = own_copy.Copy(
        bench.runsc.fd, Order(id="", argv=(), term=(), env=env, folder="", root="")
    )
    copy.ended(os.waitpid(copy.pid, 0)[1])
    if not copy.ready:
        raise OSError(0, "the copy cannot be executed")
    with ExitStack() as stack:
        stack.callback(os.close, copy.fd)
        stack.callback(os.close, os.dup2(copy.fd, child.HIGH_FD, inheritable=False))
        yield Executable(path=f"/proc/self/fd/{child.HIGH_FD}", fds=(child.HIGH_FD,), env=env)


@contextlib.contextmanager
def spawner(bench: Bench) -> Iterator[Peer]:
    """A Python inside that runs ``true`` by posix_spawn(3), asked and answered by a byte."""
    bare, config = bench.bare("floor-exec", ["python3", "-I", "-S", "-c", _SPAWN])
    with bare.running(bare.bundle("bundle", config)) as (workload, _name):
        workload.ask()
        yield workload.ask


@contextlib.contextmanager
def plain(bench: Bench, project: Project) -> Iterator[Peer]:
    """A plain pytest as the workload of bare runsc, from runsc's start to its end."""
    bare, config = _python(bench, project)
    config["process"]["args"] = project.plain
    bundle = bare.bundle("bundle", config)
    bare.run(bundle)
    yield lambda: bare.run(bundle)


@contextlib.contextmanager
def collected(bench: Bench, project: Project) -> Iterator[Peer]:
    """A saved pytest that has collected the tests, and runs them from there on."""
    bare, config = _python(bench, project)
    try:
        saving.check(bench.runsc, bench.platform, bench.way)
        flags = saving.save_flags(bench.runsc)
        (answer,) = features.ask(bench.runsc, questions=[("help", "restore")])
    except SnapshotError as error:
        raise Unavailable(str(error)) from error
    background = ["--background"] if "background" in features.flag_names(answer) else []
    options = project.plain[project.plain.index("pytest") + 1 :]
    config["process"]["args"] = [sys.executable, "-c", _COLLECTED, *options]
    bundle = bare.bundle("bundle", config)
    image = bare.save(bundle, flags)
    bare.restore(bundle, image, background)
    yield lambda: bare.restore(bundle, image, background)


def _python(bench: Bench, project: Project) -> tuple[BareRunsc, dict[str, Any]]:
    """Bare runsc, and the configuration of a Python that sees the project and its own folders.

    Tests inside have their folders below the root, which runsc caches.
    """
    project.run("-p", "no:gvisor")  # compiles what the sandbox cannot write
    flags = ["file-access-mounts"] if bench.runsc.has_flag("file-access-mounts") else []
    return bench.bare(
        "floor-python",
        [sys.executable, "-c", ""],
        flags=[f"--{flag}=exclusive" for flag in flags],
        mounts=[bind(project.folder, project.folder)],
        cwd=project.folder,
        env=project.variables,
    )
