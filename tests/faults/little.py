"""A little project with tests of its own, run by a pytest of its own that may be killed.

Its sessions are in a base folder of the project's own, and its cgroups have a tag of its own, so
that what it leaves can be told from what other sessions of this machine have.
"""

from __future__ import annotations

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

from tests.bundlecheck import ENVIRONMENT

STRICT = os.environ.get("PYTEST_GVISOR_STRICT_TIMES") == "1"
"""Whether times are held to as they are promised: `make faults` has the machine for itself."""
PATIENCE = 60.0
"""Seconds after which something that has to happen is taken not to happen."""

CONFTEST = """\
import os

from pytest_gvisor.launch import cgroup, session_dir

session_dir.base_folder = lambda: os.environ["LITTLE_BASE"]
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


def words_of(pid: int | str) -> list[str]:
    """A process's command line; an empty one if it is gone, or a zombie."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return [os.fsdecode(word) for word in file.read().split(b"\0")]
    return []


def children_of(pid: int) -> list[int]:
    """The direct children of all threads of a process."""
    found: list[int] = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in Path(path).read_text().split()]
    return found


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

    def write(self, **tests: str) -> None:
        """Write ``NAME.py`` for each, its indentation taken off."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "conftest.py").write_text(CONFTEST)
        (self.folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
        for name, text in tests.items():
            (self.folder / f"{name}.py").write_text(textwrap.dedent(text))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start pytest, in a process group of its own, as from a terminal."""
        kept = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
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
                    "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1", **ENVIRONMENT,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *arguments: str) -> str:
        """Run pytest to its end, which has to be a good one; what it printed."""
        process = self.start(*arguments)
        status = process.wait(PATIENCE * 3)
        assert status == 0, self.output()
        return self.output()

    def output(self) -> str:
        """What all runs have printed so far."""
        return (self.folder / "output").read_text(errors="replace")

    def note(self, name: str) -> bool:
        """Whether a test of the project has made this file in its folder."""
        return (self.folder / name).exists()

    def keepers(self) -> list[int]:
        """The keepers of the project's sessions."""
        return [pid for pid in self.processes() if any("keeper.py" in w for w in words_of(pid))]

    def processes(self) -> list[int]:
        """Whatever has the project's base folder on its command line."""
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [pid for pid in pids if any(self.base in word for word in words_of(pid))]

    def files(self) -> list[str]:
        """What there is of sessions: files, mounts, cgroups, temporary files of the package's."""
        found: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            found = sorted(set(os.listdir(self.base)) - {".lock"})
        with open("/proc/self/mountinfo") as mounts:
            found += [line for line in mounts if self.base in line]
        for depth in ("*", "*/*", "*/*/*", "*/*/*/*"):
            found += glob.glob(f"/sys/fs/cgroup/{depth}/pytest-gvisor-{self.tag}-*")
        found += glob.glob(f"{self.folder}/tmp/*gvisor*")
        return found

    def left(self) -> list[str]:
        """Everything that is left, in words."""
        return [f"{pid}: {' '.join(words_of(pid))}" for pid in self.processes()] + self.files()

    def end(self) -> None:
        """Kill whatever is still there, and wait for what was started."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        eventually(lambda: not self.processes(), 10)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


HANGING = """
    import pathlib, threading
    import pytest

    def test_it(gvisor):
        limits = {"memory": "512M", "pids": 200} if LIMITS else {}
        script = "trap '' TERM; for n in 1 2 3; do sleep 100 & done; echo up; sleep 100"

        def pieces():
            while not gvisor.records[-1].argv:
                yield b""
            pathlib.Path("up").touch()

        gvisor.run(["sh", "-c", script], timeout=50, input=pieces(), **limits)
"""
"""A project whose one test hangs, with limits of its own where these can be had."""
