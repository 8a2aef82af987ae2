"""Fixtures of the tests with the real runsc: a workload that runs while the test looks at it."""

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from fixtures.dockerd import own_daemon
from pytest_gvisor import Completed, Gvisor, GvisorError, WorkloadTimeout, bind
from pytest_gvisor.images import docker
from pytest_gvisor.programs import leftovers
from pytest_gvisor.programs.proc import children_of, children_of_self, words_of
from pytest_gvisor.run import supervisor
from pytest_gvisor.runsc.binary import Runsc
from tests import waiting

PATIENCE, wait_for = waiting.PATIENCE, waiting.wait_for


def status_of(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as lines:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@dataclass(kw_only=True)
class Running:
    """A workload that runs until `end`, and the host's view of it."""

    gvisor: Gvisor
    folder: Path
    """Bound writable at /shared in the sandbox."""

    _end: threading.Event = field(default_factory=threading.Event)
    _result: list[Completed | GvisorError] = field(default_factory=list)

    @property
    def root(self) -> str:
        """runsc's state folder of this run, which its processes' command lines name."""
        argv = self.gvisor.records[-1].argv
        return argv[argv.index("--root") + 1]

    @property
    def keeper(self) -> int:
        """The keeper's process id."""
        keeper = self.gvisor._launcher.keeper()
        return keeper.pid

    @property
    def runsc(self) -> int:
        """The process id of ``runsc run``, the keeper's child."""
        found = [pid for pid in children_of(self.keeper) if self.root in words_of(pid)]
        assert len(found) == 1, found
        return found[0]

    def child(self, subcommand: str) -> int:
        """The process that runs this subcommand: ``boot`` is the sentry, ``gofer`` the gofer.

        Under ``--rootless`` they are grandchildren of the keeper's child. What the sentry forks
        has its command line, so the one nearest to runsc is taken.
        """
        level = [self.runsc]
        while level:
            level = [child for pid in level for child in children_of(pid)]
            found = [pid for pid in level if subcommand in words_of(pid)]
            if found:
                return found[0]
        pytest.fail(f"no {subcommand} process")

    def path(self, name: str) -> Path:
        """The host's path of a file that the workload has as /shared/NAME, once that is there."""
        path = self.folder / name
        wait_for(lambda: path.exists() or self._result, f"the workload to make {name}")
        assert path.exists(), self._result
        return path

    def text(self, name: str) -> str:
        """The only line of a file that the workload makes in /shared."""
        path = self.path(name)
        wait_for(lambda: path.read_text().endswith("\n") or self._result, f"a line in {name}")
        return path.read_text().rstrip("\n")

    def input(self) -> Iterator[bytes]:
        """The workload's input: newlines until `end`, then the end of file."""
        while not self._end.wait(0.02):
            yield b"\n"

    def end(self) -> Completed:
        """Let the workload end; returns its result."""
        self._end.set()
        return self.wait()

    def wait(self) -> Completed:
        """Wait for the workload's end, and return or raise its result."""
        wait_for(lambda: self._result, "the workload's end")
        if isinstance(self._result[0], GvisorError):
            raise self._result[0]
        return self._result[0]


class Start(Protocol):
    """The type of the fixture ``running``."""

    def __call__(self, script: str = "", **options: Any) -> Running:
        """Run a shell script, then wait inside until `Running.end`."""


@pytest.fixture
def running(gvisor: Gvisor, tmp_path: Path) -> Iterator[Start]:
    """Starts a workload in a thread; ``script`` has been run when this returns."""
    started: list[tuple[Running, threading.Thread]] = []

    def start(script: str = "", **options: Any) -> Running:
        folder = tmp_path / f"shared-{len(started)}"
        folder.mkdir()
        folder.chmod(0o777)
        run = Running(gvisor=gvisor, folder=folder)
        whole = f"{script}\n: > /shared/up; exec cat > /dev/null"
        options["mounts"] = [*options.get("mounts", ()), bind(folder, "/shared", readonly=False)]

        def work() -> None:
            try:
                run._result.append(gvisor.run(["sh", "-c", whole], input=run.input(), **options))
            except GvisorError as error:
                run._result.append(error)

        thread = threading.Thread(target=work)
        started.append((run, thread))
        thread.start()
        run.path("up")
        return run

    yield start
    for run, thread in started:
        run._end.set()
        thread.join()


class Expire(Protocol):
    """The type of the fixture ``patient_timeout``."""

    def __call__(self, gvisor: Gvisor, args: list[str], **options: Any) -> WorkloadTimeout:
        """Run a workload, which says something and then does not end, up to its deadline."""


@pytest.fixture
def patient_timeout(monkeypatch: pytest.MonkeyPatch) -> Expire:
    """Runs a workload that ends by the signal that the deadline sends.

    On a busy machine a sandbox may take seconds to start. So may the command of runsc by which the
    signal comes.
    """
    monkeypatch.setattr(supervisor, "TERM_GRACE", PATIENCE)

    def expire(gvisor: Gvisor, args: list[str], **options: Any) -> WorkloadTimeout:
        for timeout in (5, 50):
            with pytest.raises(WorkloadTimeout) as caught:
                gvisor.run(args, timeout=timeout, **options)
            if caught.value.stdout:
                break
        return caught.value

    return expire


@pytest.fixture
def no_process_left(gvisor: Gvisor) -> Callable[[], None]:
    """Checks that no process of any sandbox of this session is left, at this moment."""

    def check() -> None:
        # Not even one that the keeper has not adopted: all processes of the host are looked at.
        session = gvisor._launcher.session().path
        own = {os.getpid(), *children_of_self()}  # the keeper's command line names it too
        left = [pid for pid in leftovers.processes(session, everywhere=True) if pid not in own]
        assert [words_of(pid) for pid in left] == []

    return check


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a statically linked program of C source; it needs nothing of a root file system."""
    import subprocess

    folder = tmp_path_factory.mktemp("programs")
    made: dict[str, Path] = {}

    def build(source: str) -> Path:
        if source not in made:
            path = folder / f"program-{len(made)}"
            argv = ["gcc", "-static", "-pthread", "-O1", "-x", "c", "-o", str(path), "-"]
            subprocess.run(argv, input=source, text=True, check=True)
            made[source] = path
        return made[source]

    return build


@pytest.fixture
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A copy of the ``BUILT`` of the test's module, which the user of the tests owns."""
    copy = tmp_path / "runsc"
    shutil.copyfile(request.module.BUILT, copy)
    copy.chmod(0o755)
    return str(copy)


@pytest.fixture
def busybox_root(tmp_path: Path) -> Path:
    """A small root file system of the host's static busybox, with every mount point."""
    root = tmp_path / "busybox-root"
    for name in ("bin", "dev", "proc", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in ("sh", "cat", "echo", "ls", "id", "touch", "true"):
        (root / "bin" / name).symlink_to("busybox")
    return root


@pytest.fixture(scope="session")
def dockerd(runsc: Runsc) -> Iterator[str]:
    """The address of a docker daemon of this process's own, with runsc as a runtime."""
    with own_daemon(str(runsc.path), "systrap") as address, pytest.MonkeyPatch.context() as patch:
        # Its answers take longer on a busy machine.
        patch.setattr(docker, "DEADLINE", PATIENCE)
        yield address


PYTHON = sys.executable
