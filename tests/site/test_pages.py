"""The pages that show pytest's output: each file and each command of them, with what it prints."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(?:python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LONGEST, WIDTH = 40, 80
"""Lines of the report of one failed test, on a terminal of this width."""

# A fixture that the pages name and do not show.
CONFTEST = """\
import os
import signal

import pytest

from pytest_gvisor.programs import leftovers, proc


@pytest.fixture
def kill_the_sentry(gvisor):
    def kill():
        session = gvisor._launcher.session().path
        for pid in leftovers.processes(session, everywhere=True):
            if "boot" in proc.words_of(pid):
                os.kill(pid, signal.SIGKILL)

    return kill
"""

# A machine without kvm, also where there is one.
NO_KVM = ["unshare", "-m", "sh", "-c", 'mount --bind /dev/null /dev/kvm; exec "$@"', "sh"]


class Step(NamedTuple):
    """A block of a page: a file, or a command with its output."""

    name: str
    text: str

    @property
    def is_command(self) -> bool:
        """Whether it is a command."""
        return self.name.startswith("$ ")


def steps(page: str) -> list[Step]:
    """The blocks of a page in their order."""
    found = BLOCK.findall((DOCS / page).read_text())
    made = [Step(*block.split("\n", 1)) for block in found]
    assert all(re.match(r"# \w+\.py$|\$ pytest ", step.name) for step in made)
    return made


def lines_of_report(output: str) -> int:
    """How many lines of a terminal the report of the one failed test takes."""
    report = re.search(r"^___.*?(?=^gVisor: |^=====)", output, re.MULTILINE | re.DOTALL)
    lines = report[0].splitlines() if report else []
    return sum(1 + max(len(line) - 1, 0) // WIDTH for line in lines)


@pytest.mark.parametrize(
    ("page", "commands"), [("tutorial.md", 6), ("failures.md", 6), ("code-runner.md", 1)]
)
def test_a_page_is_what_a_reader_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, commands: int
) -> None:
    """Each command prints what the page shows; ``...`` there stands for anything."""
    monkeypatch.delenv("COLUMNS", raising=False)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    wrong = []
    long = []
    ran = 0
    for step in steps(page):
        if not step.is_command:
            # The first line is a part of the file too: line numbers count it.
            (tmp_path / step.name.removeprefix("# ")).write_text(f"{step.name}\n{step.text}")
            continue
        ran += 1
        without = NO_KVM if "kvm" in step.text and os.path.exists("/dev/kvm") else []
        argv = [*without, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:cov"]
        done = subprocess.run(
            [*argv, *shlex.split(step.name)[2:]],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if not doctest.OutputChecker().check_output(step.text, done.stdout, doctest.ELLIPSIS):
            wrong.append(f"{step.name}\n{done.stdout}{done.stderr}")
        if lines_of_report(done.stdout) > LONGEST:
            long.append(done.stdout)
    assert not wrong, "\n".join(wrong)
    assert not long, "\n".join(long)
    assert ran == commands
