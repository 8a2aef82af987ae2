"""A little project with tests of its own, run by a pytest of its own that may be killed.

Its sessions are in a base folder of the project's own, and its cgroups have a tag of its own. So
its remains differ from those of other sessions on this machine.
"""

import contextlib
import dataclasses
import glob
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from pytest_gvisor.programs import proc
from tests.bundlecheck import ENVIRONMENT

STRICT = os.environ.get("TESTS_STRICT_TIMES") == "1"
"""Whether the promised times are checked exactly, as in `make faults`, alone on the machine."""
PROCESSES_AFTER = 1.0
FILES_AFTER = 2.0
"""Seconds after an end in which processes, and all else, are promised to be gone."""
LONGER = 1.0 if STRICT else 20.0
"""How many times as long as promised something may take: other tests keep all processors busy.

A workload that hangs for 50 s is still seen to be ended, and not to end by itself."""
PATIENCE = 60.0
"""Seconds after which something that has to happen is taken not to happen."""

CONFTEST = """\
import os

from pytest_gvisor.inside.view import writable
from pytest_gvisor.run import cgroup
from pytest_gvisor.sessions import session_folder

writable.harmful = lambda folder: ""
if "LITTLE_BASE" in os.environ:  # and not inside
    session_folder.base_folder = lambda: os.environ["LITTLE_BASE"]
    session_folder.session_bases = lambda: iter(())
    cgroup.PREFIX = f"pytest-gvisor-{os.environ['LITTLE_TAG']}-"
"""


# An ignored signal stays ignored in a child, and a suite may run under nohup. SIGQUIT writes a core
# file otherwise.
TERMINAL = ("env", "--default-signal", "sh", "-c", 'ulimit -c 0; exec "$@"', "sh")


def eventually(condition: Callable[[], object], patience: float = PATIENCE) -> float | None:
    """The seconds until something came true; None if it did not."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > patience:
            return None
        time.sleep(0.01)
    return time.monotonic() - started


def saying(path: str) -> list[int]:
    """The processes with this path on their command line."""
    return [pid for pid in proc.pids() if any(path in word for word in proc.words_of(pid))]


@dataclasses.dataclass(kw_only=True)
class Little:
    """The folder of the project, and the folders in which its sessions live."""

    folder: Path
    base: str
    tag: str
    platform: str
    before: tuple[str, ...] = ()
    """The beginning of a command line that changes what pytest finds, and executes it."""
    started: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)

    @property
    def temporary(self) -> str:
        """The folder for temporary files; the project's own is writable for tests inside."""
        return f"{self.folder}-tmp"

    def write(self, **tests: str) -> None:
        """Write ``NAME.py`` for each, its indentation taken off."""
        (self.folder / "build/notes").mkdir(parents=True, exist_ok=True)
        (self.folder / "conftest.py").write_text(CONFTEST)
        (self.folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
        for name, text in tests.items():
            (self.folder / f"{name}.py").write_text(textwrap.dedent(text))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start pytest, in a process group of its own, as from a terminal."""
        kept = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
        os.makedirs(self.temporary, exist_ok=True)
        with open(self.folder / "output", "ab") as output:
            process = subprocess.Popen(
                [
                    *TERMINAL, *self.before, sys.executable, "-m", "pytest", "--gvisor-strict",
                    "-p", "no:hypothesispytest", "--gvisor-platform", self.platform,
                    "--basetemp", "basetemp", *arguments,
                ],
                cwd=self.folder,
                env={
                    **kept, "LITTLE_BASE": self.base, "LITTLE_TAG": self.tag,
                    "TMPDIR": self.temporary, "PYTHONDONTWRITEBYTECODE": "1", **ENVIRONMENT,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *arguments: str) -> str:
        """Run pytest to its end, which has to be successful; returns its output."""
        process = self.start(*arguments)
        status = process.wait(PATIENCE * 3)
        assert status == 0, self.output()
        return self.output()

    def output(self) -> str:
        """The output of all runs so far."""
        return (self.folder / "output").read_text(errors="replace")

    def note(self, name: str) -> bool:
        """Whether a test of the project has made this file, in its folder or that of notes."""
        return any((self.folder / place / name).exists() for place in ("", "build/notes"))

    def keepers(self) -> list[int]:
        """The keepers of the project's sessions, without their forks before an execve."""
        found = [
            pid for pid in self.processes() if any("keeper.py" in w for w in proc.words_of(pid))
        ]
        # By the parent, and not by the keeper's children: a fork may have ended since.
        stats = {pid: proc.stat_of(pid) for pid in found}
        return sorted(pid for pid, stat in stats.items() if stat and stat.parent not in found)

    def processes(self) -> list[int]:
        """The processes with the project's base folder on their command line."""
        return saying(self.base)

    def files(self) -> list[str]:
        """The remains of sessions: files, mounts, cgroups, temporary files of the package."""
        found: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(self.base)
            found = sorted(name for name in names if not name.startswith(".lock"))
        found += [str(mount) for mount in proc.mounts() if self.base in str(mount)]
        for depth in ("*", "*/*", "*/*/*", "*/*/*/*"):
            found += glob.glob(f"/sys/fs/cgroup/{depth}/pytest-gvisor-{self.tag}-*")
        found += glob.glob(f"{self.temporary}/*gvisor*")
        return found

    def left(self) -> list[str]:
        """All remains, as text."""
        return [f"{pid}: {' '.join(proc.words_of(pid))}" for pid in self.processes()] + self.files()

    def assert_gone(self) -> None:
        """A pytest has just ended: nothing of it is there any more as soon as is promised."""
        ended = time.monotonic()
        gone = eventually(lambda: not self.processes(), PROCESSES_AFTER * LONGER)
        assert gone is not None, self.left()
        rest = FILES_AFTER * LONGER - (time.monotonic() - ended)
        assert eventually(lambda: not self.left(), rest) is not None, self.left()

    def end(self) -> None:
        """Kill the processes that still run, and wait for the started ones."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        eventually(lambda: not self.processes(), PATIENCE)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


HANGING = """
    import pathlib, subprocess
    import pytest

    LIMITS = {"memory": "512M", "pids": 200} if ROOT else {}
    COMMAND = ["sh", "-c", "trap '' TERM; for n in 1 2 3; do sleep 100 & done; sleep 100"]

    def up(number):
        pathlib.Path(f"build/notes/up-{number}").touch()

    @pytest.mark.parametrize("number", range(2))
    def test_run(gvisor, number):
        def pieces():
            while not gvisor.records[-1].argv:
                yield b""
            up(number)

        gvisor.run(COMMAND, timeout=50, input=pieces(), **LIMITS)

    def test_sandbox(gvisor):
        def pieces():
            up(0)
            yield b""

        with gvisor.sandbox(**LIMITS) as sandbox:
            sandbox.exec(COMMAND, timeout=50, input=pieces())

    @pytest.mark.gvisor(timeout=50, **LIMITS)
    def test_inside():
        with subprocess.Popen(COMMAND):
            up(0)
"""
"""Tests that hang, with limits of their own if cgroups can be made."""

WAYS = {
    "run": ("test_it.py::test_run[0]",),
    "sandbox": ("test_it.py::test_sandbox",),
    "inside": ("test_it.py::test_inside", "--in-gvisor", "--gvisor-writable=build/notes"),
    "xdist": ("test_it.py::test_run", "-n2"),
}
"""The arguments that select the test of each kind of sandbox."""


def hang(little: Little, way: str = "run") -> subprocess.Popen[bytes]:
    """Start a pytest whose tests hang, each in a sandbox, and wait until they do."""
    little.write(test_it=HANGING.replace("ROOT", str(os.geteuid() == 0)))
    process = little.start(*WAYS[way])
    ups = ["up-0", "up-1"] if way == "xdist" else ["up-0"]
    assert eventually(lambda: all(map(little.note, ups)) or process.poll() is not None) is not None
    assert process.poll() is None, little.output()
    time.sleep(0.3)
    return process
