"""The builds for which a platform is tried twice, and the program of the trial on any kernel."""

from __future__ import annotations

import datetime as dt
import os
import subprocess

import pytest

from pytest_gvisor.runsc import platforms

JULY = dt.date(2024, 7, 29)


@pytest.mark.parametrize(
    ("go", "doubtful"),
    [("1.24.4", False), ("1.19.8", False), ("1.25", True), ("1.26.2", True), ("", False)],
)
def test_an_old_release_of_a_young_go_is_doubtful(go: str, doubtful: bool) -> None:
    """Go 1.24 is the last that it was made for; a version that is not known says nothing."""
    assert platforms.is_doubtful(JULY, lambda: go) is doubtful


@pytest.mark.parametrize("date", [None, dt.date(2026, 9, 5)])
def test_a_young_release_is_not_looked_into(date: dt.date | None) -> None:
    """A release without a date is not read either."""

    def go() -> str:
        pytest.fail("the binary was read")

    assert not platforms.is_doubtful(date, go)


def test_the_program_prints_the_kernels_release() -> None:
    """On the host the release is the host's, with nothing on standard error."""
    done = subprocess.run(platforms.PYTHON, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (f"{os.uname().release}\n", "")
