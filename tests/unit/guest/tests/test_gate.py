"""The gate of the pytest inside: both ends of it, each with descriptors of its own."""

import copy
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor.guest.tests import gate
from pytest_gvisor.guest.tests.byte_code import Supply
from pytest_gvisor.guest.tests.gate import Gate

COMMAND: dict[str, Any] = {
    "op": "collect", "sys_path": ["/a"], "basetemp": "/base", "returns": {"files": 3},
    "named": ["a", "b"], "copy": False,
}  # fmt: skip


@pytest.fixture
def ends() -> Iterator[tuple[Gate, Gate]]:
    """The gate as the first process has it after the fork, and as the pytest has it."""
    first = Gate(Supply(-1))
    inner = copy.copy(first)
    inner._first, inner._pytest = first._first.dup(), first._pytest.dup()
    yield first, inner
    for end in (first, inner):
        end._first.close()
        end._pytest.close()


class Host:
    """The host's end of a link, with the commands that it will send."""

    def __init__(self, *commands: dict[str, Any]) -> None:
        self.commands = [*commands]
        self.sent: list[dict[str, Any]] = []

    def receive(self) -> dict[str, Any]:
        """The next command."""
        return self.commands.pop(0)

    def send(self, kind: str, **fields: object) -> None:
        """Keep a message."""
        self.sent.append({"type": kind, "cwd": os.getcwd(), **fields})


def hold(
    inner: Gate, host: dict[str, Any] | Host, path: list[str], args: Sequence[str] = ("a", "b")
) -> tuple[Any, Iterator[Any]]:
    """A configuration that has this gate before it, and a wait that has not begun."""
    given = pytest.Config.InvocationParams(args=args, plugins=None, dir=Path("/"))
    config = SimpleNamespace(
        invocation_params=given,
        option=SimpleNamespace(basetemp=None),
        pluginmanager=SimpleNamespace(register=lambda *_: None),
        known_args_namespace=SimpleNamespace(file_or_dir=[*args]),
        args=["-p", "no:cacheprovider", *args],
    )
    link = host if isinstance(host, Host) else Host(host)
    inner.register(config, cast("Any", link), path, has_ini=True)
    return config, inner.pytest_load_initial_conftests(config, config.args)


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


def test_a_pytest_that_is_saved_uses_no_folder_of_the_project(
    ends: tuple[Gate, Gate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names folders that it uses all the same; the pytest goes on in its own."""
    first, inner = ends
    first._first.sendall(b"\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    host = Host({"op": "save"}, COMMAND)
    _config, wait = hold(inner, host, ["/a"])
    with (tmp_path / "a" / "b").open("w"):
        next(wait)
    (message,) = host.sent
    assert (message["type"], message["cwd"]) == ("rests", "/")
    assert str(tmp_path / "a") in message["held"]
    assert str(tmp_path) not in message["held"]
    assert os.getcwd() == str(tmp_path)
