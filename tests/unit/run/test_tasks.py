"""The number of tasks that an error of too few asks for."""

from __future__ import annotations

import pytest

from pytest_gvisor.run import tasks
from pytest_gvisor.settings import Platform


@pytest.mark.parametrize(
    ("limit", "platform", "needed"),
    [
        (15, Platform.SYSTRAP, 40),
        (15, Platform.PTRACE, 50),
        (15, Platform("slimvm"), 50),
        (None, Platform.KVM, 40),
        (40, Platform.SYSTRAP, 80),
        (100, Platform.PTRACE, 200),
    ],
)
def test_a_limit_that_was_too_few_is_not_asked_for(
    limit: int | None, platform: Platform, needed: int
) -> None:
    """An error names the measured number, or twice the limit where that number was too few."""
    error = tasks.too_few(limit, platform)
    assert f"pids={limit} is too few" in str(error)
    assert f"needs pids={needed} here" in str(error)
