"""Small projects with tests of their own, each run by a pytest of its own.

    project.write({"test_x.py": "…"}).run("--gvisor-strict").ends(passed=1).shows("[kvm]")

The fixture `project` runs its test twice: the inner pytest without xdist, and with ``-n2``. That is
for anything that crosses from a worker to its controller: reports, sections, warnings, counts, the
header. It is also for anything that each process does anew: collection, probes, folders.

`alone` is for anything that the process of a test decides by itself. It runs once, with ``-n0``: a
run with workers takes twice the processor time.

`here` is the same without the start of an interpreter, half a second of a processor. A project with
a conftest.py, and one that is run with variables, has a process of its own all the same: both may
change the process. A project whose tests change it, or that has other warnings, needs `alone`.
"""

import dataclasses
import itertools
import os
import re
import shutil
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest

from tests.bundlecheck import ENVIRONMENT
from tests.fakes.fixtures import fake  # noqa: F401 -- a fixture

CHECKOUT = Path(__file__).parents[2]
DEADLINE = 600.0

INI = """\
[pytest]
addopts = --strict-markers --strict-config -ra
filterwarnings = error
"""
# Slow to import, and of no interest to the inner projects.
QUIET = ("-p", "no:hypothesispytest")
# Settings of the pytest that runs this test.
_FOREIGN = ("PYTEST_GVISOR", "PYTEST_XDIST", "PYTEST_CURRENT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ran:
    """One finished pytest. Each method checks something and returns the same object."""

    status: int
    output: str
    """Standard output and standard error; a byte that is not UTF-8 is a lone surrogate."""

    folder: Path
    basetemp: Path

    def ends(self, **outcomes: int) -> Self:
        """Check that the summary has these outcomes alone, and the exit status that follows."""
        assert self.outcomes() == outcomes, self.output
        bad = {"failed", "errors"} & outcomes.keys()
        assert self.status == (1 if bad else 0), self.output
        return self

    def exits(self, status: pytest.ExitCode | int) -> Self:
        """Check the exit status."""
        assert self.status == status, self.output
        return self

    def shows(self, *texts: str) -> Self:
        """Each of these is somewhere in the output."""
        for text in texts:
            assert text in self.output, f"{text!r} is not in\n{self.output}"
        return self

    def hides(self, *texts: str) -> Self:
        """Check that none of these texts is in the output."""
        for text in texts:
            assert text not in self.output, f"{text!r} is in\n{self.output}"
        return self

    def outcomes(self) -> dict[str, int]:
        """The outcomes of the last line with their numbers, as in ``passed=2``."""
        summaries = re.findall(r"^=* ?(.* in \d[\d.:]*s.*?) ?=*$", self.output, re.MULTILINE)
        assert summaries, self.output
        found = re.findall(r"(\d+) (\w+)", summaries[-1].split(" in ")[0])
        plural = {"error": "errors", "warning": "warnings"}
        return {plural.get(word, word): int(number) for number, word in found}

    def line(self, start: str) -> str:
        """The only line that starts with this text."""
        found = [line for line in self.output.splitlines() if line.startswith(start)]
        assert len(found) == 1, f"{len(found)} lines start with {start!r} in\n{self.output}"
        return found[0]

    def junit(self) -> ET.Element:
        """The root of ``report.xml``, which has to be well-formed."""
        return ET.fromstring((self.folder / "report.xml").read_bytes())

    def kept(self) -> list[Path]:
        """The kept runs, by path."""
        return sorted(self.basetemp.glob("**/gvisor[0-9]*/run-*"))

    def lines(self, name: str) -> list[str]:
        """The lines of a file that the project wrote."""
        return (self.folder / name).read_text().splitlines()


class Project:
    """A folder with files, and the way in which pytest is run there."""

    def __init__(
        self, pytester: pytest.Pytester, workers: int | None, *, here: bool = False
    ) -> None:
        self.here = here
        self.pytester = pytester
        self.folder = pytester.path
        self.workers = workers
        self._numbers = itertools.count()

    @property
    def distributed(self) -> bool:
        """Whether the tests run in xdist's workers."""
        return bool(self.workers)

    def write(self, files: Mapping[str, str]) -> Self:
        """Write files, their common indentation taken off."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return self

    def test(self, text: str, **files: str) -> Self:
        """Write ``test_it.py``, and more files by their names without ``.py``."""
        return self.write({"test_it.py": text, **{f"{n}.py": t for n, t in files.items()}})

    def run(self, *args: str | Path, **environ: str) -> Ran:
        """Run pytest here; ``environ`` comes on top of the environment."""
        if not any((self.folder / name).exists() for name in ("pytest.ini", "pyproject.toml")):
            self.write({"pytest.ini": INI})
        basetemp = self.folder / f"basetemp{next(self._numbers)}"
        workers = ["-p", "no:xdist"] if self.workers is None else ["-n", str(self.workers)]
        if "--tx" in args:  # which says itself how many there are
            workers = []
        words = [*QUIET, *workers, "--basetemp", basetemp, *args]
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
                patch.delenv(name)
            patch.setenv("COLUMNS", "200")
            if self.here and not environ and not (self.folder / "conftest.py").exists():
                done = self.pytester.runpytest_inprocess(*words)
                status, lines = int(done.ret), [*done.outlines, *done.errlines]
                output = "".join(f"{line}\n" for line in lines)
            else:
                for name, value in {**ENVIRONMENT, **environ}.items():
                    patch.setenv(name, value)
                status, output = self._started([sys.executable, "-m", "pytest", *words])
        print(output.encode("ascii", "backslashreplace").decode())
        return Ran(status=status, output=output, folder=self.folder, basetemp=basetemp)

    def _started(self, argv: list[str | Path]) -> tuple[int, str]:
        process = self.pytester.popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            output, _ = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
            process.wait()
        return process.returncode, output.decode("utf-8", "surrogateescape")


# A conftest.py's text: kvm has no device, whatever this machine has, and is not waited for.
NO_KVM = """\
import functools
from pytest_gvisor.runsc import platforms

platforms.probe = functools.partial(platforms.probe, kvm_device="/nonexistent/kvm")
"""


# `doctor`, which tries no kvm: where it hangs, a try takes nine seconds of a processor.
DOCTOR = f"""{NO_KVM}
import sys
from pytest_gvisor.cli.main import main

sys.exit(main(["doctor", *sys.argv[1:]]))
"""


@pytest.fixture
def no_kvm() -> str:
    """The text of a conftest.py with which the kvm platform has no device."""
    return NO_KVM


# A conftest.py's text: the search for runsc meets nothing, whatever this machine has.
NO_RUNSC = """\
from pytest_gvisor.runsc import locate

locate.find.__kwdefaults__.update(trusted=(), search_path="", package="/nowhere/pytest_gvisor")
"""


@pytest.fixture
def no_runsc() -> str:
    """The text of a conftest.py with which there is no runsc on this machine."""
    return NO_RUNSC


@pytest.fixture
def missing(tmp_path: Path) -> Path:
    """A path for runsc where nothing is."""
    return tmp_path / "no-runsc"


@pytest.fixture
def insecure(tmp_path: Path) -> Path:
    """A program that everyone may write, and that must not be run."""
    path = tmp_path / "insecure-runsc"
    shutil.copyfile("/bin/true", path)
    path.chmod(0o777)
    return path


@pytest.fixture
def older() -> Path:
    """Debian 13's runsc of 2024."""
    path = CHECKOUT / ".build/runsc-2024/usr/bin/runsc"
    if not path.exists():
        pytest.skip("no Debian archive: scripts/older-runsc could not fetch the runsc of 2024")
    return path


@pytest.fixture
def alone(pytester: pytest.Pytester) -> Project:
    """A project whose pytest runs once, with xdist and without its workers."""
    return Project(pytester, workers=0)


@pytest.fixture
def here(pytester: pytest.Pytester) -> Project:
    """A project whose pytest runs once, in this process unless something may change it."""
    return Project(pytester, workers=0, here=True)


@pytest.fixture(params=[None, 2], ids=["bare", "n2"])
def project(request: pytest.FixtureRequest, pytester: pytest.Pytester) -> Project:
    """A project; its pytest runs without xdist, and with ``-n2``."""
    return Project(pytester, workers=request.param)
