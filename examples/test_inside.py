"""Tests that run inside gVisor, beside one that stays on the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_gvisor import is_gvisor_kernel


@pytest.mark.in_gvisor
def test_this_very_function_runs_in_the_sandbox() -> None:
    kernel = os.uname().release
    print(f"\n    this test saw kernel {kernel}, pid {os.getpid()}")
    assert is_gvisor_kernel(kernel)


@pytest.mark.in_gvisor
def test_what_it_writes_stays_there(tmp_path: Path) -> None:
    Path("/tmp/mine").write_text("in a /tmp of its own")
    (tmp_path / "file").write_text("x")


@pytest.mark.in_gvisor(fresh=True)
def test_a_sandbox_of_its_own() -> None:
    assert not Path("/tmp/mine").exists()


def test_this_one_runs_on_the_host() -> None:
    assert not Path("/tmp/mine").exists()
    assert not is_gvisor_kernel(os.uname().release)
