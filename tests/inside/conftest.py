"""Runs a little project twice, inside gVisor and on the host, for comparison."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bundlecheck import ENVIRONMENT

Lines = list[str]
OPTIONS = ("--in-gvisor", "--gvisor-strict", "-p", "no:cacheprovider")
PYTHONPATH = os.environ.get("PYTHONPATH")
PLUGINS = Path(__file__).parents[2] / ".build/plugins"
"""Where scripts/setup has installed the plugins that this repository's own suite runs without."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Both:
    """Two runs of one project, inside and on the host."""

    inside: pytest.RunResult
    host: pytest.RunResult

    def outcomes(self) -> tuple[dict[str, int], dict[str, int]]:
        """The counts of either run."""
        return self.inside.parseoutcomes(), self.host.parseoutcomes()


OURS = re.compile(r"(?i)gvisor:|again: |-+ gvisor: ")
"""The beginning of a line that the host's run has not: the way to repeat a test among them."""


def plain(result: pytest.RunResult) -> Lines:
    """A run's output without its varying parts: times, progress, and gVisor's own lines."""
    kept = [line for line in result.outlines if not OURS.match(line)]
    varying = re.compile(r" in \d+\.\d+s( \([\d:]+\))?|\[ *\d+%\]|0x[0-9a-f]+")
    return [varying.sub("", line).rstrip(" =").lstrip("=") for line in kept]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty project with a configuration of its own."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    pytester.makeini("[pytest]\n")
    return pytester


def inside(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run the project's tests inside, with more arguments if there are any.

    The host's side runs in this process, which spares the start of an interpreter, unless it
    executes something of the project's: a conftest.py, a plugin, a module of another PYTHONPATH,
    or its tests.
    """
    plugins = [*project.path.glob("conftest.py"), *project.path.glob("*_plugin.py")]
    changed = os.environ.get("PYTHONPATH") != PYTHONPATH
    if plugins or changed or "--no-gvisor" in arguments:
        return apart(project, *arguments)
    with pytest.MonkeyPatch.context() as patch:
        for name in ENVIRONMENT:  # of a plugin that this process has
            patch.delenv(name)
        return project.runpytest_inprocess("-p", "no:hypothesispytest", *OPTIONS, *arguments)


def apart(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run the project's tests inside, and the host's side in a process of its own."""
    return project.runpytest_subprocess(*OPTIONS, *arguments)


def run_both(project: pytest.Pytester, *arguments: str) -> Both:
    """Run the project's tests inside and on the host."""
    found = apart(project, *arguments)
    return Both(inside=found, host=apart(project, "--no-gvisor", *arguments))


@pytest.fixture
def run_inside(project: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Run the tests of a project that the test does not name."""
    return functools.partial(inside, project)
