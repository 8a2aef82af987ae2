"""The gate of the pytest inside: both ends of it, each with descriptors of its own."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor.guest import gate
from pytest_gvisor.guest.gate import Gate

COMMAND = {"op": "collect", "sys_path": ["/a"], "basetemp": "/base", "returns": {"files": 3}}


@pytest.fixture
def ends() -> Iterator[tuple[Gate, Gate]]:
    """The gate as the first process has it after the fork, and as the pytest has it."""
    first = Gate()
    inner = copy.copy(first)
    inner._first, inner._pytest = first._first.dup(), first._pytest.dup()
    yield first, inner
    for end in (first, inner):
        end._first.close()
        end._pytest.close()


def hold(inner: Gate, command: dict[str, Any], path: list[str]) -> tuple[Any, Iterator[Any]]:
    """A configuration that has this gate before it, and a wait that has not begun."""
    config = SimpleNamespace(
        option=SimpleNamespace(basetemp=None),
        pluginmanager=SimpleNamespace(register=lambda *_: None),
    )
    inner.register(config, cast("Any", SimpleNamespace(receive=lambda: command)), path)
    return config, inner.pytest_load_initial_conftests()


@pytest.mark.parametrize("returns", [{"files": 3}, None])
def test_the_pytest_passes_when_the_first_process_is_prepared(
    ends: tuple[Gate, Gate], returns: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process has what comes back by then, and the pytest its path and its base."""
    first, inner = ends
    monkeypatch.setattr(sys, "path", ["/early"])
    order: list[object] = []

    def prepare() -> None:
        order.append(first.agreed())
        first.open()

    config, wait = hold(inner, {**COMMAND, "returns": returns}, ["/early"])
    thread = threading.Thread(target=prepare)
    thread.start()
    next(wait)
    thread.join()
    assert order == [returns]
    assert (sys.path, config.option.basetemp) == (["/a"], "/base")
    assert inner.command["op"] == "collect"


def test_a_path_that_is_still_the_host_s_is_left_alone(
    ends: tuple[Gate, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that a plugin has added inside alone stays there."""
    first, inner = ends
    first._first.sendall(b"\n")
    monkeypatch.setattr(sys, "path", ["/a", "/of a plugin"])
    _config, wait = hold(inner, COMMAND, ["/a"])
    next(wait)
    assert sys.path == ["/a", "/of a plugin"]


def test_a_pytest_that_ends_before_its_gate_agrees_to_nothing(ends: tuple[Gate, Gate]) -> None:
    """The first process goes on to attend its end, and opens for nobody."""
    first, inner = ends
    inner._first.close()
    inner._pytest.close()
    assert first.agreed() is None
    first.open()


def test_a_host_that_wants_no_tests_ends_the_pytest(
    ends: tuple[Gate, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the project is loaded when the host has gone."""

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(gate, "_exit", leave)
    _config, wait = hold(ends[1], {"op": "finish"}, [])
    with pytest.raises(SystemExit, match="0"):
        next(wait)
