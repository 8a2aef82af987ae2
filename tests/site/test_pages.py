"""The pages that show pytest's output: each file and each command of them, with what it prints."""

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
PROGRESS = re.compile(r"(?<![^ \n])[.FEsxX]{2,}(?= +\[ *\d+%\]$)", re.MULTILINE)
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

# The module of each program, and options without which output would differ between machines.
MODULES = {
    "pytest": ["pytest", "-p", "no:cacheprovider", "-p", "no:cov"],
    "pytest-gvisor": ["pytest_gvisor"],
}

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
    assert all(re.match(r"# \w+\.py$|\$ pytest(-gvisor)? ", step.name) for step in made)
    return made


def lines_of_report(output: str) -> int:
    """How many lines of a terminal the report of the one failed test takes."""
    report = re.search(r"^___.*?(?=^gVisor: |^=====)", output, re.MULTILINE | re.DOTALL)
    lines = report[0].splitlines() if report else []
    return sum(1 + max(len(line) - 1, 0) // WIDTH for line in lines)


def is_as_shown(shown: str, printed: str) -> bool:
    """Whether a command printed what a page shows, where ``...`` stands for anything.

    pytest fills a line up with ``=``: a duration of more digits has fewer of them around it. The
    dots of passed tests stand for themselves.
    """
    wanted, got = (
        PROGRESS.sub(lambda dots: dots[0].replace(".", "P"), re.sub("={3,}", "===", text))
        for text in (shown, printed)
    )
    return doctest.OutputChecker().check_output(wanted, got, doctest.ELLIPSIS)


def ran_as_shown(page: str, folder: Path) -> int:
    """Run the commands of a page, each of which prints what is shown; return their number."""
    (folder / "conftest.py").write_text(CONFTEST)
    wrong = []
    long = []
    ran = 0
    for step in steps(page):
        if not step.is_command:
            # The first line is a part of the file too: line numbers count it.
            (folder / step.name.removeprefix("# ")).write_text(f"{step.name}\n{step.text}")
            continue
        ran += 1
        without = NO_KVM if "kvm" in step.text and os.path.exists("/dev/kvm") else []
        _, program, *arguments = shlex.split(step.name)
        done = subprocess.run(
            [*without, sys.executable, "-m", *MODULES[program], *arguments],
            cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if not is_as_shown(step.text, done.stdout):
            wrong.append(f"{step.name}\n{done.stdout}{done.stderr}")
        if lines_of_report(done.stdout) > LONGEST:
            long.append(done.stdout)
    assert not wrong, "\n".join(wrong)
    assert not long, "\n".join(long)
    return ran


@pytest.mark.parametrize("seconds", ["0.12s", "19.99s", "61.02s (0:01:01)"])
def test_the_time_that_a_session_took_is_no_part_of_what_is_shown(seconds: str) -> None:
    """On a busy machine a page's command takes longer; all else on its line counts."""
    shown = f"{' 1 passed in ... ':=^80}\n"
    assert is_as_shown(shown, f"{f' 1 passed in {seconds} ':=^80}\n")
    assert not is_as_shown(shown, f"{f' 1 failed in {seconds} ':=^80}\n")


@pytest.mark.parametrize("others", ["....F", "FFFFF", "......"])
def test_dots_of_passed_tests_stand_for_no_other_letters(others: str) -> None:
    """Three of them are no ellipsis."""
    shown = "test_a.py {:<40}[100%]\n...\n"
    printed = "test_a.py {:<40}[100%]\n\ngVisor: systrap: 5 passed\n"
    assert is_as_shown(shown.format("....."), printed.format("....."))
    assert not is_as_shown(shown.format("....."), printed.format(others))


@pytest.mark.parametrize(
    ("page", "commands"),
    [
        ("tutorial.md", 6), ("failures.md", 6), ("code-runner.md", 1), ("existing-suite.md", 2),
        ("web-application.md", 1), ("service.md", 1), ("isolation.md", 2), ("parallel.md", 4),
    ],
)  # fmt: skip
def test_a_page_is_what_a_reader_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, commands: int
) -> None:
    """Each command prints what the page shows."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert ran_as_shown(page, tmp_path) == commands
