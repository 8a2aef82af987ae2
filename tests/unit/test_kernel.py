"""The function that alone knows the names of gVisor's kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pytest_gvisor
from pytest_gvisor import is_gvisor_kernel


@pytest.mark.parametrize("release", ["4.4.0", "4.19.0-gvisor", "5.10.0-gvisor", "10.0.123-gvisor"])
def test_each_name_of_gvisors_kernel_is_known(release: str) -> None:
    """Old and current names match, as do other digits with the same suffix."""
    assert is_gvisor_kernel(release)


@pytest.mark.parametrize(
    "release",
    [
        "4.4.0-generic", "4.4.0-210-generic", "4.4.0-gvisor-generic", "4.4.01", "14.4.0", "4x4x0",
        "6.18.44-fc", "6.1.0-49-amd64", "4.19.0", "4.19.0-27-amd64", "4.19-gvisor", "-gvisor",
        "4.19.0-gvisor+", "x4.19.0-gvisor", "4.19.0.gvisor", "٤.19.0-gvisor", "",
        "4.4.0\n", "4.19.0-gvisor\n", " 4.4.0",
    ],
)  # fmt: skip
def test_the_kernel_of_a_host_is_not_taken_for_gvisors(release: str) -> None:
    """A distribution's suffix, other digits, other characters, and a line that was not stripped."""
    assert not is_gvisor_kernel(release)


def test_it_is_imported_without_the_rest_of_the_package() -> None:
    """A program that only asks for the kernel's name loads its module alone."""
    code = (
        "import sys; from pytest_gvisor import is_gvisor_kernel; "
        "print(*sorted(name for name in sys.modules if 'pytest' in name))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == (["pytest_gvisor", "pytest_gvisor.kernel"], "")
    assert "is_gvisor_kernel" in pytest_gvisor.__all__
