"""Runs pytest, and once more the tests whose sentry has panicked; also the plugin that finds them.

    python -m tests.again [pytest's arguments]

An emulated processor is not perfect, and a panic there may be its fault. Nothing else is repeated:
where another test has failed, or the run itself was broken, its status is the answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

# pytest.ExitCode.TESTS_FAILED: the import of pytest takes seconds on an emulated processor.
_TESTS_FAILED = 1
_FILE = "TESTS_CRASHED"
_ONLY = "TESTS_ONLY"


class Crashes:
    """Writes down which tests have failed, and which of them by a panic of their sentry."""

    def __init__(self, path: str, only: Collection[str] = ()) -> None:
        self.path = path
        self.only = only
        self.passed: set[str] = set()
        self.failed: set[str] = set()
        self.crashed: set[str] = set()

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave the tests that are repeated.

        They are no arguments: a test inside on one of several platforms has no name before.
        """
        if self.only:
            config.hook.pytest_deselected(items=[x for x in items if x.nodeid not in self.only])
            items[:] = [item for item in items if item.nodeid in self.only]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Sort one report."""
        if report.passed and report.when == "call":
            self.passed.add(report.nodeid)
        if report.failed:
            text = report.longreprtext
            # The second is what a report of a test inside says of its sandbox's end.
            died = "SandboxCrashed" in text or "it ended with: sandbox crashed" in text
            found = died and "panic log:" in text
            # A test that fails by something else too is not of those.
            (self.crashed if found else self.failed).add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """The run has come to its end."""
        named = ("passed", "failed", "crashed")
        found = {name: sorted(getattr(self, name)) for name in named}
        Path(self.path).write_text(json.dumps(found), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Watch, where a file is named for it."""
    if path := os.environ.get(_FILE):
        only = json.loads(os.environ.get(_ONLY, "[]"))
        config.pluginmanager.register(Crashes(path, only), "crashes")


def main(arguments: list[str]) -> int:
    """The status of the run, or of the second one."""
    status, found = _run(arguments, [])
    crashed = sorted(set(found["crashed"]) - set(found["failed"]))
    if status != _TESTS_FAILED or found["failed"] or not crashed:
        return status
    print(f"again: {len(crashed)} of these tests, for their sentry panicked: {', '.join(crashed)}")
    sys.stdout.flush()
    status, found = _run(arguments, crashed)
    # A run that came to nothing is no second chance that was taken.
    return status or int(found["passed"] != crashed)


def _run(arguments: list[str], only: list[str]) -> tuple[int, dict[str, list[str]]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "crashed.json")
        argv = [sys.executable, "-m", "pytest", "-p", "tests.again", *arguments]
        env = {**os.environ, _FILE: str(path), _ONLY: json.dumps(only)}
        done = subprocess.run(argv, env=env, check=False)
        if not path.exists():  # it has died, or never begun
            return done.returncode or 1, {"passed": [], "failed": ["?"], "crashed": []}
        found: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
        return done.returncode, found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
