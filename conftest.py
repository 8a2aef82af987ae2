"""The plugins and fixtures of all tests: pytester, the rule for skips, leaks and faults."""

from __future__ import annotations

import pytest

from pytest_gvisor.base.settings import Platform
from pytest_gvisor.plugin.precedence import run_settings

pytest_plugins = (
    "pytester",
    "tests.skipcheck",
    "tests.leakcheck",
    "tests.faultcheck",
    "tests.parts",
)


@pytest.fixture(autouse=True)
def no_step_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide a CI job's summary from the pytests that tests start."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture
def is_first_platform(request: pytest.FixtureRequest, gvisor_platform: Platform) -> bool:
    """Whether this is the first of the platforms on the command line.

    What does not depend on the platform is tried in full there, and as a sample on the others.
    """
    asked = run_settings(request.config).platforms
    return not asked or gvisor_platform is asked[0]
