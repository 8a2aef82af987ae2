"""A pytest plugin: writes how each phase of each test ended to the file in OUTCOMES_FILE."""

import json
import os
from collections import defaultdict

import pytest

_FILE = os.environ.get("OUTCOMES_FILE", "")  # not set inside: there nothing is written
_seen: dict[str, dict[str, str]] = defaultdict(dict)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note one phase."""
    expected = " as expected" if hasattr(report, "wasxfail") else ""
    _seen[report.nodeid][report.when] = report.outcome + expected


def pytest_sessionfinish() -> None:
    """Write them all."""
    if _FILE:
        with open(_FILE, "w", encoding="utf-8") as file:
            json.dump(_seen, file)
