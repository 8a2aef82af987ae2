"""A run that is saved while it goes on, and others that begin where it was saved."""

import contextlib
import dataclasses
import os
import select
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Gvisor, Outcome, RunscFailed, SandboxCrashed, SnapshotError
from pytest_gvisor.base.completed import Completed
from pytest_gvisor.run import connected
from pytest_gvisor.run.budget import Budget
from pytest_gvisor.run.connected import Driven, Ended
from pytest_gvisor.run.pipes import Streams
from pytest_gvisor.run.request import Hooks, Record, Request, workspace_of
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.run.specification import make_spec
from pytest_gvisor.runsc.rootless import Way

PATIENCE = 30.0
MUCH = 300_000_000

ECHO = """
import os, socket
count, host = 0, socket.socket(fileno=0)
while (word := host.recv(100)) != b"end":
    count += 1
    host.sendall(b"%s %d" % (word, count))
os._exit(3)
"""


class Run:
    """A driven run whose workload answers each line with the number of lines so far."""

    def __init__(self, gvisor: Gvisor, script: str = ECHO, **changes: Any) -> None:
        request = gvisor.request(["python3", "-S", "-c", script])
        way = Way.OWN if request.way is Way.FLAG else request.way
        request = dataclasses.replace(request, way=way, streams=Streams)
        request = dataclasses.replace(request, **changes)
        self.request: Request = request
        launcher, record = gvisor._launcher, Record()
        with contextlib.ExitStack() as undo:
            workspace = undo.enter_context(workspace_of(request, launcher, record))
            spec = make_spec(request, workspace, Hooks())
            self.driven = Driven(Runner(request, spec, workspace, launcher, record), undo)
            self.supervisor = self.driven.start()
        self.socket = self.supervisor.pipes.socket

    def ask(self, word: str) -> str:
        """Send a line and return the answer."""
        os.write(self.socket, word.encode())
        deadline = time.monotonic() + PATIENCE
        while not select.select([self.socket], [], [], 0)[0]:
            assert not self.supervisor.over
            assert time.monotonic() < deadline
            self.supervisor.turn(0.01)
        self.supervisor.heard()
        return os.read(self.socket, 100).decode()

    def save(self, place: Path) -> str:
        """Save the run, and move the image."""
        image = str(place)
        os.rename(self.driven.save(Budget(PATIENCE)), image)
        return image

    def end(self) -> Ended:
        """Let the workload end, and remove everything."""
        os.write(self.socket, b"end")
        return self.driven.end(PATIENCE)


@pytest.fixture
def start(gvisor: Gvisor) -> Iterator[Callable[..., Run]]:
    """Starts runs, and ends those that have not ended."""
    runs: list[Run] = []

    def started(**changes: Any) -> Run:
        runs.append(Run(gvisor, **changes))
        return runs[-1]

    yield started
    for run in runs:
        if run.driven.record.completed is None:
            run.driven.end()


@pytest.fixture
def place(gvisor: Gvisor) -> Iterator[Path]:
    """A place for an image, in the session folder."""
    path = Path(gvisor._launcher.session().path, "saved")
    yield path
    shutil.rmtree(path, ignore_errors=True)


def completed(ended: Ended) -> Completed:
    """The value of a run that ended by itself."""
    assert ended.error is None, ended.error
    assert ended.completed is not None
    return ended.completed


def test_a_run_goes_on_after_it_was_saved_and_each_copy_goes_on_from_there(
    start: Callable[..., Run], place: Path
) -> None:
    """With streams of its own, and with the verdict of any other run."""
    first = start()
    assert first.ask("one") == "one 1"
    image = first.save(place)
    assert first.ask("two") == "two 2"
    copies = [start(restores=image) for _ in range(2)]
    assert [copy.ask("three") for copy in copies] == ["three 2", "three 2"]
    assert [copy.supervisor.start is not None for copy in copies] == [True, True]
    assert [copy.supervisor.listener.started for copy in copies] == [True, True]
    for run in (first, *copies):
        result = completed(run.end())
        assert (result.returncode, result.outcome, result.exact) == (3, Outcome.EXITED, True)
        assert result.leaks == ()


def test_a_copy_that_is_killed_leaves_nothing_and_is_no_workload_s_end(
    start: Callable[..., Run], place: Path
) -> None:
    """The sentry's status is not the workload's."""
    first = start()
    first.ask("one")
    image = first.save(place)
    copy = start(restores=image)
    copy.ask("two")
    os.kill(copy.supervisor.pid, 9)
    ended = copy.driven.end(PATIENCE)
    assert isinstance(ended.error, RunscFailed | SandboxCrashed)
    assert ended.completed is not None
    assert ended.completed.leaks == ()
    assert completed(first.end()).returncode == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign"])
def test_an_image_that_is_broken_is_runsc_s_failure(
    start: Callable[..., Run], place: Path, damage: str
) -> None:
    """The failure never looks like a workload's end, and nothing hangs."""
    first = start()
    first.ask("one")
    image = Path(first.save(place))
    for file in image.iterdir():
        content = file.read_bytes()
        broken = {"cut": content[: len(content) // 2], "empty": b"", "foreign": b"x" * 4096}
        file.write_bytes(broken[damage])
    copy = start(restores=str(image))
    deadline = time.monotonic() + PATIENCE
    while not copy.supervisor.over and time.monotonic() < deadline:
        copy.supervisor.turn(1.0)
    assert copy.supervisor.over
    ended = copy.driven.end()
    assert isinstance(ended.error, RunscFailed | SandboxCrashed), ended
    assert ended.completed is not None
    assert ended.completed.leaks == ()


def test_an_image_takes_no_more_room_while_it_is_written(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are emptied again and again. The run goes on."""
    monkeypatch.setattr(connected, "LARGEST", 10_000_000)
    run = start(script=f"held = b'x' * {MUCH}\n{ECHO}")
    run.ask("one")
    image = Path(run.driven.workspace.path("image"))
    real, early, left = Driven.is_saved, 0, []

    def look(driven: Driven) -> bool:
        nonlocal early
        found = real(driven)
        early += driven._too_large and not found
        left.append(sum(512 * file.stat().st_blocks for file in image.iterdir()))
        return found

    monkeypatch.setattr(Driven, "is_saved", look)
    with pytest.raises(SnapshotError, match="more than 10000000 bytes"):
        run.driven.save(Budget(PATIENCE))
    assert early
    assert left[-1] < 10_000_000
    assert not image.exists()
    assert run.ask("two") == "two 2"
