"""OSErrors on the way to runsc become typed ones."""

from __future__ import annotations

import errno

import pytest

from pytest_gvisor.errors import LaunchError, stage


def test_an_oserror_becomes_a_launch_error_with_stage_and_errno() -> None:
    """The kernel's own error is its cause."""
    refused = OSError(errno.ENOSPC, "full")
    with (
        pytest.raises(LaunchError, match="cannot do it") as caught,
        stage("somewhere", "cannot do it"),
    ):
        raise refused
    assert (caught.value.stage, caught.value.errno) == ("somewhere", errno.ENOSPC)
    assert caught.value.__cause__ is refused


def test_any_other_error_passes() -> None:
    """Another exception is raised unchanged."""
    with pytest.raises(KeyError), stage("somewhere", "cannot do it"):
        raise KeyError("x")


def test_an_oserror_without_a_number_is_typed_too() -> None:
    """Python raises some, as for a time-out of its own."""
    with pytest.raises(LaunchError) as caught, stage("somewhere", "cannot do it"):
        raise TimeoutError("timed out")
    assert caught.value.errno == 0


def test_a_shortage_of_memory_is_a_launch_error_with_its_errno() -> None:
    """Python's MemoryError has no number; the kernel's is ENOMEM."""
    with pytest.raises(LaunchError) as caught, stage("somewhere", "no memory for it"):
        raise MemoryError
    assert (caught.value.stage, caught.value.errno) == ("somewhere", errno.ENOMEM)
