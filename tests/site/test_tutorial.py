"""The tutorial: each file and each command of it, with the output that it prints."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs/tutorial.md"


class Step(NamedTuple):
    """A block of the page: a file, or a command with its output."""

    name: str
    text: str

    @property
    def is_command(self) -> bool:
        """Whether it is a command."""
        return self.name.startswith("$ ")


def steps() -> list[Step]:
    """The blocks of the page in their order."""
    found = re.findall(
        r"^```(?:python|console)\n(.*?)^```$", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL
    )
    made = [Step(*block.split("\n", 1)) for block in found]
    assert all(re.match(r"# \w+\.py$|\$ pytest ", step.name) for step in made)
    return made


def test_the_tutorial_is_what_a_reader_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command prints what the page shows; ``...`` there stands for anything."""
    monkeypatch.delenv("COLUMNS", raising=False)
    wrong = []
    commands = 0
    for step in steps():
        if not step.is_command:
            # The first line is a part of the file too: line numbers count it.
            (tmp_path / step.name.removeprefix("# ")).write_text(f"{step.name}\n{step.text}")
            continue
        commands += 1
        argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:cov"]
        done = subprocess.run(
            [*argv, *shlex.split(step.name)[2:]],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if not doctest.OutputChecker().check_output(step.text, done.stdout, doctest.ELLIPSIS):
            wrong.append(f"{step.name}\n{done.stdout}{done.stderr}")
    assert wrong == []
    assert commands == 6
