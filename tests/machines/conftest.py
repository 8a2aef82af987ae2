"""Three machines, and a project whose tests xdist sends to them."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from pytest_gvisor.report import parse
from pytest_gvisor.report.model import Report, State
from pytest_gvisor.runsc import locate
from tests.machines.machines import ROOTS, USER, Machine, network

OLDER = ROOTS.parent / "runsc-2024/usr/bin/runsc"
PATIENCE = 60.0


@dataclasses.dataclass(kw_only=True)
class Session:
    """A pytest that is running, or has ended."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def output(self) -> str:
        """The text that pytest has printed so far."""
        return (self.folder / "output").read_text(errors="replace")

    def until(self, condition: Callable[[], object], *, runs: bool = True) -> float:
        """Wait until something is true, while pytest ``runs``; returns the seconds it took."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() < started + PATIENCE, self.output
            assert not runs or self.process.poll() is None or condition(), self.output
            time.sleep(0.02)
        return time.monotonic() - started

    def until_shown(self, text: str) -> None:
        """Wait until it has printed a text."""
        self.until(lambda: text in self.output or self.process.poll() is not None)
        assert text in self.output, self.output

    def end(self, status: int = 0) -> str:
        """Wait for its end, with this exit status; returns its output."""
        try:
            assert self.process.wait(2 * PATIENCE) == status, self.output
        finally:
            print(self.output)
        return self.output

    @property
    def report(self) -> Report:
        """The report that it has written."""
        return parse.parse((self.folder / "report.json").read_bytes())

    def states(self) -> dict[str, list[tuple[str, State]]]:
        """The machines and states of each test."""
        report, found = self.report, dict[str, list[tuple[str, State]]]()
        for row in report.rows:
            each = found[row.test.removeprefix("test_it.py::")] = []
            for cell in row.cells:
                each.append((report.legs[cell.leg].host, cell.state))
                each += [(report.legs[one.leg].host, one.state) for one in cell.others]
            each.sort()
        return found


@dataclasses.dataclass(kw_only=True)
class Fleet:
    """The machines, and the project on this one."""

    machines: tuple[Machine, ...]
    config: Path
    folder: Path
    sessions: list[Session] = dataclasses.field(default_factory=list)

    def __getitem__(self, name: str) -> Machine:
        return next(machine for machine in self.machines if machine.name == name)

    @property
    def project(self) -> Path:
        """The project's folder."""
        return self.folder / "project"

    def ssh(self, name: str) -> str:
        """xdist's specification of a worker on a machine."""
        return f"ssh={name}//ssh_config={self.config}//python=/usr/bin/python3"

    def start(
        self,
        tests: str,
        *arguments: str,
        tx: tuple[str, ...] = (),
        archive: Path | None = None,
        extra: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Session:
        """Start pytest for these tests, on each machine unless ``tx`` names others.

        The project has a copy of the archive, ``app.tar``, and ``extra`` files.
        """
        shutil.rmtree(self.project, ignore_errors=True)
        self.project.mkdir()
        (self.project / "pytest.ini").write_text("[pytest]\n")
        (self.project / "test_it.py").write_text(textwrap.dedent(tests))
        if archive is not None:
            shutil.copy(archive, self.project / "app.tar")
        for name, text in (extra or {}).items():
            (self.project / name).write_text(textwrap.dedent(text))
        return self.again(*arguments, tx=tx, cwd=cwd)

    def again(self, *arguments: str, tx: tuple[str, ...] = (), cwd: Path | None = None) -> Session:
        """Start pytest for the tests that are there, in the project's folder or another one."""
        folder = self.folder / f"session-{len(self.sessions)}"
        folder.mkdir()
        kept = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
        each = tx or tuple(self.ssh(machine.name) for machine in self.machines)
        with open(folder / "output", "wb") as output:
            process = subprocess.Popen(
                [
                    sys.executable, "-m", "pytest", "-p", "no:cacheprovider",
                    "-p", "no:hypothesispytest", "-W", "ignore::DeprecationWarning", "-v",
                    "--dist=load", f"--rsyncdir={self.project}", *(f"--tx={one}" for one in each),
                    f"--gvisor-report={folder}/report.json", *arguments, str(self.project),
                ],
                cwd=cwd or self.project, env=kept, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True,
            )  # fmt: skip
        self.sessions.append(Session(process=process, folder=folder))
        return self.sessions[-1]

    def stop(self) -> None:
        """Kill what a failed test has left."""
        for session in self.sessions:
            if session.process.poll() is None:
                os.killpg(session.process.pid, signal.SIGKILL)
                session.process.wait()


def fleet_of(folder: Path, *machines: Machine) -> Iterator[Fleet]:
    """Plug machines in, yield them with a project, and unplug them."""
    with network(folder / "machines", *machines) as config:
        fleet = Fleet(machines=machines, config=config, folder=folder)
        try:
            yield fleet
        finally:
            fleet.stop()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Debian 12 and 13 with the current runsc, and 13 with that of 2024; the third is a user's."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces")
    if not (ROOTS / "trixie").exists():
        pytest.skip("no Debian archive: scripts/machines has made no root filesystems")
    folder = tmp_path_factory.mktemp("fleet")
    current = Path(locate.find().path)
    yield from fleet_of(
        folder,
        Machine(name="alpha", number=11, suite="bookworm", above=folder, runsc=current),
        Machine(name="beta", number=12, suite="trixie", above=folder, runsc=OLDER),
        Machine(name="gamma", number=13, suite="trixie", above=folder, runsc=current, user=USER),
    )


@pytest.fixture(autouse=True)
def machines_are_on_and_clean(fleet: Fleet) -> Iterator[None]:
    """Each machine is on, and no process, session folder or mount of ours is left on one."""
    for machine in fleet.machines:
        machine.join()
        machine.run("rm", "-f", "/tmp/hangs")
    yield
    fleet.stop()
    for machine in fleet.machines:
        machine.join()
        deadline = time.monotonic() + 5
        while machine.left() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert machine.left() == []
