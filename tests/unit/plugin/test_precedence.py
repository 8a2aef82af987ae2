"""A test's settings are read from its markers once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_gvisor.errors import UsageError
from pytest_gvisor.plugin import precedence
from pytest_gvisor.plugin.cells import strip_platform
from pytest_gvisor.settings import Settings

Reads = list[pytest.Item]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """The test of each time that markers are read."""
    found: Reads = []
    read = precedence._read_settings

    def counting(item: pytest.Item, marks: Sequence[pytest.Mark]) -> Settings:
        found.append(item)
        return read(item, marks)

    monkeypatch.setattr(precedence, "_read_settings", counting)
    return found


def test_settings_are_read_once_for_each_test(pytester: pytest.Pytester, reads: Reads) -> None:
    """Whoever asks later gets the same object, and each parameter has its own."""
    first, second = pytester.getitems("""
        import pytest

        @pytest.mark.gvisor(pids=5)
        @pytest.mark.parametrize(
            "n", [1, pytest.param(2, marks=pytest.mark.gvisor(timeout=3))]
        )
        def test_it(n):
            pass
    """)
    reads.clear()  # collection has read them for the variants
    assert precedence.settings_of(first) is precedence.settings_of(first)
    assert precedence.settings_of(first).timeout == 60
    assert precedence.settings_of(second) is precedence.settings_of(second)
    assert precedence.settings_of(second).timeout == 3
    assert reads == [first, second]


def test_a_marker_that_comes_later_is_read(pytester: pytest.Pytester, reads: Reads) -> None:
    """A hook or a fixture of the project's adds it; the closest still decides."""
    item = pytester.getitem("""
        import pytest

        @pytest.mark.gvisor(timeout=2, pids=5)
        def test_func():
            pass
    """)
    reads.clear()  # collection has read them for the variants
    before = precedence.settings_of(item)
    item.add_marker(pytest.mark.gvisor(timeout=4), append=False)
    after = precedence.settings_of(item)
    assert (before.timeout, after.timeout, after.pids) == (2, 4, 5)
    assert precedence.settings_of(item) is after
    assert len(reads) == 2


def test_a_marker_that_cannot_be_meant_is_an_error_each_time(pytester: pytest.Pytester) -> None:
    """Nothing of it is kept."""
    item = pytester.getitem("def test_func(): pass")
    item.add_marker(pytest.mark.gvisor(timeout=0))
    for _ in range(2):
        with pytest.raises(UsageError, match=r"test_func .*: @pytest.mark.gvisor: timeout=0 is"):
            precedence.settings_of(item)


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
