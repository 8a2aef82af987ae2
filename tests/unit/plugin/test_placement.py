"""The time at which a session began."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.plugin.placement import BEGAN, began


def config_of(**worker: object) -> Any:
    """The configuration of a process, of a worker if it is given something."""
    more = {"workerinput": worker} if worker else {}
    return SimpleNamespace(stash=pytest.Stash(), **more)


def test_a_session_begins_once() -> None:
    """Hooks ask for the time before the first conftest.py, and again when tests run."""
    config, before = config_of(), time.time()
    first = began(config)
    assert before <= first <= time.time()
    assert began(config) == first


def test_a_worker_of_this_machine_begins_with_its_controller() -> None:
    """Files that the controller has written are of this session. Clocks of machines differ."""
    assert began(config_of(**{BEGAN: 7.0, "gvisor_elsewhere": False})) == 7.0
    assert began(config_of(**{BEGAN: 7.0, "gvisor_elsewhere": True})) > 7.0
    assert began(config_of(other=1)) > 7.0
