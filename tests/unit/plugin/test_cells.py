"""The name of a test's row in the report."""

from __future__ import annotations

import pytest

from pytest_gvisor.plugin.cells import strip_platform


@pytest.mark.parametrize(
    ("nodeid", "row"),
    [
        ("t.py::test_x[kvm]", "t.py::test_x"),
        ("t.py::test_x[kvm-1]", "t.py::test_x[1]"),
        ("t.py::T::test_x[1-kvm]", "t.py::T::test_x[1]"),
        ("t.py::test_x[1-kvm-2]", "t.py::test_x[1-2]"),
        ("t.py::test_x[kvm-a[0]::b]", "t.py::test_x[a[0]::b]"),
        ("a[1]/t[kvm].py::test_x[kvm]", "a[1]/t[kvm].py::test_x"),
        ("a[1]/t.py::T::test_x[kvm-1]", "a[1]/t.py::T::test_x[1]"),
        ("a[kvm]/t.py::test_x", "a[kvm]/t.py::test_x"),
        ("t.py::test_x[akvm]", "t.py::test_x[akvm]"),
    ],
)
def test_a_row_is_named_without_the_platform(nodeid: str, row: str) -> None:
    """The row's name keeps all other brackets of the folder, the file and the parameters."""
    assert strip_platform(nodeid, "kvm") == row
