"""The end of a driven run, and its removal, which may go on while others run."""

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor.base.errors import LaunchError, ProtocolError
from pytest_gvisor.run.connected import Driven
from pytest_gvisor.run.request import Record
from pytest_gvisor.run.runner import Runner


class Supervisor:
    """Takes the place of a supervisor, and notes what is asked of it."""

    def __init__(self, did: list[str], *, killed: bool = True) -> None:
        self.did, self._killed = did, killed

    def end(self, _patience: float) -> bool:
        """Note the end."""
        self.did.append("ended")
        return self._killed

    def ask(self, wish: str) -> None:
        """Note that the removal begins."""
        assert wish == "release"
        self.did.append("released")

    def clean(self) -> tuple[str, ...]:
        """Note that the removal is waited for."""
        self.did.append("cleaned")
        return ("a file",)


def driven(did: list[str], *, killed: bool = True, error: Exception | None = None) -> Driven:
    """A run that ends by being killed, or whose verdict is ``error``."""
    undo = contextlib.ExitStack()
    undo.callback(did.append, "undone")
    runner = Runner.__new__(Runner)
    given = cast("Any", runner)
    given.supervisor, given.launcher = Supervisor(did, killed=killed), SimpleNamespace(left=0)
    given.request, given.workspace = None, SimpleNamespace(path=str)
    given.record, given._leaks = Record(), None

    def finish(remove: Callable[[], None]) -> tuple[None, Exception | None]:
        if isinstance(error, ProtocolError | MemoryError):
            raise error
        remove()
        did.append(f"left {len(runner._leaks or ())}")
        return None, error

    given.finish = finish
    undo.callback(runner.clean)
    return Driven(runner, undo)


def test_the_end_waits_for_the_removal() -> None:
    """The result counts what is left."""
    did: list[str] = []
    run = driven(did)
    run.end()
    run.settle()
    assert did == ["ended", "cleaned", "left 1", "undone"]
    assert run.runner.launcher.left == 1


def test_a_run_that_leaves_is_removed_while_others_run() -> None:
    """The keeper removes it from then on; what is left is counted when somebody waits for that."""
    did: list[str] = []
    run = driven(did)
    assert run.leave().error is None
    assert did == ["ended", "released", "left 0"]
    run.settle()
    run.settle()
    assert did[3:] == ["cleaned", "undone"]
    assert run.runner.launcher.left == 1


@pytest.mark.parametrize("error", [ProtocolError("no"), LaunchError("fork", "no")])
def test_an_error_of_a_run_that_leaves_is_in_its_end(error: Exception) -> None:
    """The run is removed all the same."""
    did: list[str] = []
    run = driven(did, killed=False, error=error)
    assert run.leave().error is error
    assert run.record.error is error
    run.settle()
    assert did[0] == "ended"
    assert did[-2:] == ["cleaned", "undone"]


@pytest.mark.fault("G6")
def test_an_end_that_there_is_no_memory_for_is_an_error_of_the_run() -> None:
    """Whoever waits for the sandbox hears of it at once, and nothing is left."""
    did: list[str] = []
    run = driven(did, killed=False, error=MemoryError())
    ended = run.end()
    assert isinstance(ended.error, LaunchError)
    assert "there is no memory for it" in str(ended.error)
    assert did == ["ended", "cleaned", "undone"]


def test_an_interrupted_end_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in it removes the run, and closes all that it has open."""
    did: list[str] = []
    run = driven(did)

    def interrupted(_patience: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(run.runner.supervisor, "end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.leave()
    assert did == ["cleaned", "undone"]
