"""The test suites of real projects, unmodified: inside gVisor each test ends as on the host."""

from __future__ import annotations

import fnmatch
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Platform

HERE = Path(__file__).parent
FETCHED = HERE.parents[1] / ".build/suites"
SUITES: dict[str, Any] = tomllib.loads((HERE / "suites.toml").read_text())
DIFFERENCES = tomllib.loads((HERE / "differences.toml").read_text())["difference"]

Outcomes = dict[str, dict[str, str]]


def run(suite: str, *arguments: str) -> Outcomes:
    """How each phase of each test of a suite ends."""
    folder = FETCHED / suite
    assert folder.is_dir(), f"{folder} is not there: run scripts/suites"
    with tempfile.TemporaryDirectory() as temporary:
        # Away from this repository, whose configuration would be a suite's that has none.
        source = shutil.copytree(folder / "source", os.path.join(temporary, suite), symlinks=True)
        file = os.path.join(temporary, "outcomes.json")
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
            "PYTHONPATH": f"{folder / 'site'}:{HERE}",
            "OUTCOMES_FILE": file,
        }
        command = [
            sys.executable, "-m", "pytest", "-p", "outcomes", "-p", "no:cacheprovider",
            *SUITES[suite].get("arguments", []), *arguments,
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=source, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode in {0, 1}, done.stdout[-20000:] + done.stderr[-20000:]
        outcomes: Outcomes = json.loads(Path(file).read_text())
    return outcomes


@functools.cache
def on_the_host(suite: str) -> Outcomes:
    """The outcomes that are to be compared with."""
    return run(suite)


def worst(phases: dict[str, str]) -> str:
    """The worst outcome of a test's phases."""
    for outcome in ("failed", "skipped as expected", "skipped", "passed as expected"):
        if outcome in phases.values():
            return outcome
    return "passed"


def expected(suite: str, test: str, platform: Platform) -> tuple[str, str] | None:
    """The difference that is listed for a test, host and inside."""
    for entry in DIFFERENCES:
        if (
            entry["suite"] == suite
            and fnmatch.fnmatchcase(test, entry["tests"])
            and platform in entry.get("platforms", list(Platform))
        ):
            return entry["host"], entry["inside"]
    return None


@pytest.mark.parametrize("suite", [name for name in SUITES if not SUITES[name].get("long")])
def test_a_suite_of_others_ends_as_on_the_host(suite: str, gvisor_platform: Platform) -> None:
    """Each test and phase ends alike, apart from the listed ones with their causes."""
    compare(suite, gvisor_platform)


@pytest.mark.gvisor(platform=Platform.SYSTRAP)
@pytest.mark.parametrize("suite", [name for name in SUITES if SUITES[name].get("long")])
def test_a_long_suite_of_others_does_on_one_platform(suite: str, gvisor_platform: Platform) -> None:
    """A long suite gives the same results; one platform is enough, as each takes half a minute."""
    compare(suite, gvisor_platform)


def compare(suite: str, gvisor_platform: Platform) -> None:
    """Fail where a test ends differently inside, and is not listed, or is listed and does not."""
    host = on_the_host(suite)
    inside = run(suite, "--in-gvisor", "--gvisor-strict", "--gvisor-platform", gvisor_platform)
    assert list(inside) == list(host)
    assert len(host) > 50
    found, listed = {}, {}
    for test in host:
        if host[test] != inside[test]:
            found[test] = (worst(host[test]), worst(inside[test]))
        if difference := expected(suite, test, gvisor_platform):
            listed[test] = difference
    assert found == listed
