"""The locations of tests, against those that pytest finds by itself."""

from __future__ import annotations

import os

import pytest

from pytest_gvisor.guest.locations import Locations

SUITE = """
import functools, unittest
import pytest

def decorated(function):
    @functools.wraps(function)
    def call():
        function()
    return call

def test_plain(): pass

@decorated
@decorated
def test_decorated():
    pass

@pytest.mark.parametrize("n", [1, 2])
def test_parametrized(n): pass

class TestClass:
    class TestInner:
        def test_method(self): pass

class TestUnit(unittest.TestCase):
    def test_unit(self): pass

test_partial = functools.partial(lambda x: None, x=1)

exec(compile("def test_elsewhere(): pass", "/not/there.py", "exec"))
exec(compile("def test_nowhere(): pass", "<string>", "exec"))

def test_placed(): pass
test_placed.place_as = test_plain
"""

COUNTED = 8
"""Of its tests, those whose location is found here: not in a text, nor placed elsewhere."""


def test_locations_are_those_of_pytest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of functions that are decorated, or whose file does not exist; no file is looked for."""
    path = pytester.makepyfile(SUITE)
    items = pytester.inline_genitems(path)[0]
    assert len(items) >= COUNTED
    usual = []
    for item in items:
        usual.append(item.location)
        del vars(item)["location"]
    settled, locations = 0, Locations()
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda *_given, **_more: pytest.fail("looked for a file"))
        for item in items:
            locations.settle(item)
            settled += "location" in vars(item)
    assert [item.location for item in items] == usual
    assert settled == COUNTED


def test_a_test_with_a_place_of_its_own_keeps_it(pytester: pytest.Pytester) -> None:
    """Doctests, and the classes of plugins, tell where they are themselves."""
    pytester.makeconftest(
        """
        import pytest

        class Mine(pytest.Function):
            def reportinfo(self):
                return "mine.txt", 5, "mine"

        def pytest_pycollect_makeitem(collector, name, obj):
            if name == "test_it":
                return Mine.from_parent(collector, name=name)
        """
    )
    path = pytester.makepyfile("def test_it(): pass\n")
    (item,) = pytester.inline_genitems(path)[0]
    vars(item).pop("location", None)
    Locations().settle(item)
    assert item.location[1:] == (5, "mine")
