"""Compares the suites of real projects, inside gVisor and on the host, test by test."""

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

from pytest_gvisor import Platform

HERE = Path(__file__).parent
FETCHED = HERE.parents[1] / ".build/suites"
SUITES: dict[str, Any] = tomllib.loads((HERE / "suites.toml").read_text())
DIFFERENCES = tomllib.loads((HERE / "differences.toml").read_text())["difference"]

Outcomes = dict[str, dict[str, str]]


def run(suite: str, part: str, *arguments: str) -> Outcomes:
    """How each phase of each test ends in a part of a suite: ``arguments`` or ``whole``."""
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
            "PYTHONHASHSEED": "0",  # some parametrize over sets
        }
        command = [
            sys.executable, "-m", "pytest", "-p", "outcomes", "-p", "no:cacheprovider",
            *SUITES[suite].get(part, []), *arguments,
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=source, env=env, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode in {0, 1}, done.stdout[-20000:] + done.stderr[-20000:]
        outcomes: Outcomes = json.loads(Path(file).read_text())
    # Parameters that are paths of the suite's own are in the ids.
    return {test.replace(source, "SOURCE"): phases for test, phases in outcomes.items()}


@functools.cache
def on_the_host(suite: str, part: str) -> Outcomes:
    """The outcomes that are to be compared with."""
    return run(suite, part)


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


def compare(suite: str, platform: Platform, part: str = "arguments") -> None:
    """Fail where a test ends differently inside, and is not listed, or is listed and does not.

    A test of others may hang on how busy the machine is. What differs by itself does so twice.
    """
    options = ("--in-gvisor", "--gvisor-strict", "--gvisor-platform", platform)
    found, listed = differences(
        suite, platform, on_the_host(suite, part), run(suite, part, *options)
    )
    if found != listed:
        print(f"found {found} at first, and listed are {listed}")
        host, inside = run(suite, part), run(suite, part, *options)
        found, listed = differences(suite, platform, host, inside)
    assert found == listed, f"found {found}, and listed are {listed}"


Pairs = dict[str, tuple[str, str]]


def differences(
    suite: str, platform: Platform, host: Outcomes, inside: Outcomes
) -> tuple[Pairs, Pairs]:
    """The differences that were found, and those that are listed, of each test host and inside."""
    assert list(inside) == list(host), sorted(inside.keys() ^ host.keys())
    assert len(host) > 50
    found: Pairs = {}
    listed: Pairs = {}
    for test in host:
        if host[test] != inside[test]:
            found[test] = (worst(host[test]), worst(inside[test]))
        if difference := expected(suite, test, platform):
            listed[test] = difference
    return found, listed
