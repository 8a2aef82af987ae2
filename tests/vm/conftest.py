"""The VM that tests make: scripts/vm-parts got its parts, and left the options that name them."""

import os
from pathlib import Path

import pytest

from pytest_gvisor.cli.vm import parser
from pytest_gvisor.vm import parts

_WRITTEN = Path(__file__).parents[2] / ".build/vm/options"
OPTIONS = _WRITTEN.read_text().splitlines() if _WRITTEN.exists() else []


@pytest.fixture(scope="session")
def vm_options() -> list[str]:
    """The options of ``pytest-gvisor vm`` on this machine; skips where no VM can be made."""
    if os.geteuid() != 0:
        pytest.skip("needs root: this is about root's VM, and the checkout is root's")
    given = parser().parse_args(OPTIONS)
    if lacking := parts.missing(qemu=given.qemu, kernel=given.kernel):
        pytest.skip(f"no VM can be made here: {'; '.join(lacking)}")
    return OPTIONS
