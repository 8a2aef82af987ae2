"""Runs a little project twice, inside gVisor and on the host, for comparison."""

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bundlecheck import ENVIRONMENT

Lines = list[str]
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
    """Run the project's tests inside, with more arguments if there are any."""
    return project.runpytest_subprocess(
        "--in-gvisor", "--gvisor-strict", "-p", "no:cacheprovider", *arguments
    )


def run_both(project: pytest.Pytester, *arguments: str) -> Both:
    """Run the project's tests inside and on the host."""
    found = inside(project, *arguments)
    return Both(inside=found, host=inside(project, "--no-gvisor", *arguments))


@pytest.fixture
def run_inside(project: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Run the tests of a project that the test does not name."""
    return functools.partial(inside, project)
