"""What ``doctor`` says of the machine, from a /proc that is made here."""

from __future__ import annotations

import subprocess

import pytest

from pytest_gvisor.cli import machine
from pytest_gvisor.cli.machine import Finding


def named(name: str, found: list[Finding]) -> Finding:
    """The one finding with this name."""
    (finding,) = [finding for finding in found if finding.name == name]
    return finding


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (subprocess.TimeoutExpired("python", 10), "the try did not end within 10 s"),
        (OSError(11, "Resource temporarily unavailable"), "Resource temporarily unavailable"),
    ],
)
def test_a_try_that_fails_itself_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    """The doctor's own child hangs, or cannot be had."""

    def run(*_args: object, **_options: object) -> object:
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    found = named("user namespaces", machine.findings())
    assert told in found.detail
    assert found.state is not machine.State.GOOD
