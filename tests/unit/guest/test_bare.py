"""Setups and teardowns with pytest alone: asked in a pytest here, for each phase of a suite."""

from __future__ import annotations

import re

import pytest

PLUGIN = """
import pytest
from pytest_gvisor.guest.bare import Bare

def around(item, when):
    bare = Bare(item)
    result = yield
    with open("phases", "a") as file:
        print(item.name, when, bare.was(), file=file)
    return result

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    return (yield from around(item, "setup"))

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item):
    return (yield from around(item, "teardown"))
"""

SUITE = """
import unittest
import pytest

@pytest.fixture
def fixture(): pass

@pytest.fixture(scope="module")
def module(): pass

@pytest.fixture
def of_value(value): pass

class Meta(type): pass

def test_first(): pass

def test_plain(): pass

@pytest.mark.parametrize("value", [1])
def test_value(value): pass

def test_fixture(fixture): pass

def test_after_a_fixture(): pass

def test_module(module): pass

def test_after_a_module_s(): pass

@pytest.mark.parametrize("value", [1])
def test_of_value(value, of_value): pass

def test_finalizer(request): request.addfinalizer(print)

def test_asks_late(request): request.getfixturevalue("fixture")

@pytest.mark.skipif("print()", reason="code")
def test_condition(): pass

class TestMethods:
    def test_method(self): pass
    def test_another(self): pass

class TestSetUp:
    def setup_method(self): pass
    def test_set_up(self): pass
    def test_set_up_too(self): pass

class TestMeta(metaclass=Meta):
    def test_meta(self): pass
    def test_meta_too(self): pass

class TestUnit(unittest.TestCase):
    def test_unit(self): pass
    def test_unit_too(self): pass

def test_before_last(): pass

def test_last(): pass
"""

BARE = {
    "test_first teardown", "test_plain setup", "test_plain teardown", "test_value[1] setup",
    "test_value[1] teardown", "test_after_a_fixture setup", "test_after_a_fixture teardown",
    "test_module teardown", "test_after_a_module_s setup",
    "test_after_a_module_s teardown", "test_finalizer setup", "test_asks_late setup",
    "test_method teardown", "test_another setup", "test_before_last setup",
    "test_before_last teardown", "test_last setup",
}  # fmt: skip


def test_a_phase_is_bare_if_nothing_of_the_project_s_runs_in_it(
    pytester: pytest.Pytester,
) -> None:
    """A fixture, a finalizer, a condition and the setup of a class or module are the project's."""
    pytester.makepyfile(plugin=PLUGIN)
    pytester.makepyfile(SUITE)
    environment = ("-p", "no:gvisor", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "plugin")
    pytester.runpytest_subprocess(*environment).assert_outcomes(passed=21)
    phases = (pytester.path / "phases").read_text().splitlines()
    assert len(phases) == 42
    found = {re.sub(r" True$", "", phase) for phase in phases if phase.endswith("True")}
    assert found == BARE
