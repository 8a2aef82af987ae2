"""Debian forky's 20240729, built with Go 1.26: `uname -r` runs, and next to nothing else does."""

from pathlib import Path

import pytest

from pytest_gvisor import Platform, Settings
from pytest_gvisor.harness.engine import Engine
from pytest_gvisor.runsc.causes import Cause
from tests.fakes.engines import engine

__all__ = ["engine"]

BUILT = Path(__file__).parents[2] / ".build/runsc-forky/usr/bin/runsc"
TRIES = 3

pytestmark = pytest.mark.skipif(
    not BUILT.exists(), reason="no Debian archive with forky's runsc: scripts/older-runsc"
)


@pytest.mark.parametrize("platform", [Platform.SYSTRAP, Platform.PTRACE])
def test_each_try_finds_the_build_broken(engine: Engine, path: str, platform: Platform) -> None:
    """Every time, though systrap alone panics now and then; another build is named."""
    for _ in range(TRIES):
        engine._probe._verdicts.clear()
        found = engine.availability(platform, Settings(runsc=path))
        assert found.cause is Cause.BROKEN_BUILD, found
        assert "its sentry panics when a program runs (" in found.detail, found
        assert ", and it was built with Go 1.26" in found.detail, found
        assert "`pytest-gvisor install`" in found.next_step


def test_a_session_says_so(pytester: pytest.Pytester, path: str) -> None:
    """The error is one sentence without a panic's stack."""
    pytester.makepyfile("def test_it(gvisor): pass")
    options = ["--gvisor-runsc", path, "--gvisor-strict", "--gvisor-platform", "systrap"]
    broken = "*platform systrap is not available here: this build of runsc is broken: *"
    first = pytester.runpytest_subprocess(*options)
    first.assert_outcomes(errors=1)
    first.stdout.fnmatch_lines([broken])
    first.stdout.no_fnmatch_line("*goroutine *running]*")
