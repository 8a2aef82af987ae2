"""A test's settings, as its markers have them."""

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.plugin import precedence
from pytest_gvisor.plugin.cells import strip_platform


def test_each_parameter_has_settings_of_its_own(pytester: pytest.Pytester) -> None:
    """The marker of a parameter is closer than that of its function."""
    first, second = pytester.getitems("""
        import pytest

        @pytest.mark.gvisor(pids=5)
        @pytest.mark.parametrize(
            "n", [1, pytest.param(2, marks=pytest.mark.gvisor(timeout=3))]
        )
        def test_it(n):
            pass
    """)
    found = [precedence.settings_of(item) for item in (first, second)]
    assert [(one.timeout, one.pids) for one in found] == [(60, 5), (3, 5)]


def test_a_marker_that_comes_later_is_read(pytester: pytest.Pytester) -> None:
    """A hook or a fixture of the project's adds it; the closest still decides."""
    item = pytester.getitem("""
        import pytest

        @pytest.mark.gvisor(timeout=2, pids=5)
        def test_func():
            pass
    """)
    before = precedence.settings_of(item)
    item.add_marker(pytest.mark.gvisor(timeout=4), append=False)
    after = precedence.settings_of(item)
    assert (before.timeout, after.timeout, after.pids) == (2, 4, 5)


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
