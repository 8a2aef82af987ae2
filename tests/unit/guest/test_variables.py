"""The record of variables that tests look for in vain."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_gvisor.guest import program


@pytest.fixture
def watch() -> Iterator[program.Watch]:
    """A watch over the names A and B, in this process until the test's end."""
    environ = vars(os.environ)
    data = environ["_data"]
    try:
        yield program.Watch(["NOT_HERE_A", "NOT_HERE_B"])
    finally:
        environ["_data"] = data
        vars(os.environb)["_data"] = data


def test_a_name_that_a_test_looks_for_is_recorded(watch: program.Watch) -> None:
    """Each once, by any way to look, and none that the host has not."""
    assert os.environ.get("NOT_HERE_B") is None
    assert "NOT_HERE_A" not in os.environ
    assert os.getenv("NOT_HERE_B") is None
    assert os.getenv("NOT_HERE_C") is None
    assert watch.missed() == ["NOT_HERE_B", "NOT_HERE_A"]
    watch.clear()
    assert watch.missed() == []


def test_a_name_that_a_plugin_looks_for_while_it_reports_is_not(watch: program.Watch) -> None:
    """The hint in a failure would name a variable that the test never read."""
    watch.pause(over=False)
    assert os.getenv("NOT_HERE_A") is None
    watch.pause(over=True)
    assert os.getenv("NOT_HERE_B") is None
    assert watch.missed() == ["NOT_HERE_B"]
