"""A runsc that waits, its log, and the count of runs that are alike."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.errors import LaunchError
from pytest_gvisor.programs.order import Order
from pytest_gvisor.run import waiting
from pytest_gvisor.run.waiting import Lobby, Waiting

ORDER = Order(
    id="g1", argv=("runsc", "/s/g1/root"), term=(), env={}, folder="/s/g1",
    root="/s/g1/root",
)  # fmt: skip


def named(name: str, **changes: Any) -> Order:
    """The same order of another run."""
    argv = ("runsc", f"/s/{name}/root")
    folder = f"/s/{name}"
    same = ORDER._replace(id=name, argv=argv, folder=folder, root=f"{folder}/root")
    return same._replace(**changes)


@pytest.fixture
def lobby(monkeypatch: pytest.MonkeyPatch) -> Lobby:
    """One in which a runsc waits after three runs alike."""
    monkeypatch.setattr(waiting, "ALIKE", 3)
    return Lobby()


def test_a_runsc_is_wanted_after_enough_runs_alike_in_a_row(lobby: Lobby) -> None:
    wanted = [lobby.wants(named(f"g{number}")) for number in range(4)]
    assert wanted == [False, False, True, True]
    assert not lobby.wants(named("h1", env={"A": "1"}))
    assert not lobby.wants(named("g99"))


def test_the_count_begins_anew_when_the_keeper_is_closed(lobby: Lobby) -> None:
    for number in range(2):
        lobby.wants(named(f"g{number}"))
    lobby.close()
    assert not lobby.wants(named("g99"))


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A pipe with a name."""
    os.mkfifo(tmp_path / "log")
    return tmp_path / "log"


class Logged(Waiting):
    """A runsc that has got as far as its log."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.control = self.listener = self.pipes = None
        self._log = -1
        self._said = b""


def test_a_log_that_nobody_has_opened_does_not_prove_that_runsc_waits(fifo: Path) -> None:
    one = Logged(fifo.parent)
    assert not one.go_on()
    one.end_log()


@pytest.mark.parametrize("data", [b"", b'{"msg":"cannot"}'])
def test_a_log_with_a_writer_proves_it_and_is_a_file_when_the_run_is_over(
    fifo: Path, data: bytes
) -> None:
    # A pipe that is open for both counts as having a writer, and nothing waits here.
    writer = os.open(fifo, os.O_RDWR)
    os.write(writer, data)
    one = Logged(fifo.parent)
    assert one.go_on()
    os.close(writer)
    one.end_log()
    one.end_log()
    assert (fifo.read_bytes() if fifo.exists() else b"") == data


REQUEST: Any = SimpleNamespace(
    runsc=object(), settings=SimpleNamespace(max_output=10, sha256=False)
)


def refuse(*_: object, **_options: object) -> None:
    """There is no room, or no descriptor left."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("part", ["mkfifo", "pipes", "listener"])
def test_nothing_is_left_where_one_cannot_be_made(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without room must not leave a folder, as often as it is tried."""
    owners = {
        "mkfifo": (os, "mkfifo"),
        "pipes": (waiting, "Pipes"),
        "listener": (waiting, "Listener"),
    }
    monkeypatch.setattr(*owners[part], refuse)
    order = named("g1", folder=f"{tmp_path}/g1", root=f"{tmp_path}/g1/root")
    keeper: Any = None
    with pytest.raises(OSError, match="No space left"):
        Waiting(keeper, order, REQUEST)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_keeper_ends_the_one_that_waits(lobby: Lobby) -> None:
    """The keeper has died, and no other comes up: nobody else would close its descriptors."""
    closed = []

    class One:
        keeper, runsc, output = None, REQUEST.runsc, (10, False)

        def hand_over(self) -> None:
            """Nothing waits here."""

        def close(self) -> None:
            closed.append(self)

    def no_keeper() -> None:
        raise LaunchError("keeper", "it does not come up")

    one: Any = One()
    assert lobby.put(one)
    launcher: Any = SimpleNamespace(keeper=no_keeper)
    with pytest.raises(LaunchError):
        lobby.take(REQUEST, launcher)
    assert closed == [one]
