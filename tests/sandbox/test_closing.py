"""Sandboxes whose start or end goes wrong: none is left running."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from pytest_gvisor import Gvisor
from pytest_gvisor.base.settings import Settings
from pytest_gvisor.oci.project import Project
from pytest_gvisor.plugin.markers import Running
from pytest_gvisor.plugin.shared_sandboxes import SharedSandboxes
from pytest_gvisor.run.request import Hooks, Record
from pytest_gvisor.sandbox.channel import Channel
from tests.sandbox.conftest import sentries


def complain(_record: Record) -> None:
    """A hook of a plugin's that has an error."""
    raise ZeroDivisionError


@pytest.fixture
def complaining(gvisor: Gvisor) -> Iterator[Gvisor]:
    """One whose hook raises whenever a run has ended."""
    made = Gvisor(
        runsc=gvisor.runsc,
        platform=gvisor.platform,
        launcher=gvisor._launcher,
        settings=gvisor.settings,
        hooks=Hooks(run_finished=complain),
    )
    yield made
    for sandbox in made.sandboxes:
        sandbox.close()


def test_a_hook_that_raises_leaves_no_sandbox_open(complaining: Gvisor) -> None:
    """The error is raised when all of them are closed."""
    made = [complaining.sandbox() for _ in range(2)]
    with pytest.raises(ZeroDivisionError):
        complaining.close()
    assert not any(sandbox.alive for sandbox in made)
    assert sentries(complaining) == []


def test_one_that_cannot_be_closed_leaves_no_shared_sandbox_open() -> None:
    """A shared sandbox that cannot be closed leaves no other shared sandbox open."""
    closed = []

    def closing(name: str) -> Callable[[], None]:
        def close() -> None:
            closed.append(name)
            raise ZeroDivisionError

        return close

    shared = SharedSandboxes(SimpleNamespace(), Settings(), Project(root="/"), Running())  # type: ignore[arg-type]
    for name in ("one", "two"):
        shared._made.append((name, SimpleNamespace(close=closing(name))))  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        shared.close()
    assert sorted(closed) == ["one", "two"]


def test_a_start_that_is_interrupted_leaves_no_sandbox(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C or pytest-timeout's signal, during the start or right after it, leaves no sandbox."""
    start = Channel.start

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def late(channel: Channel, timeout: float) -> None:
        start(channel, timeout)
        raise KeyboardInterrupt

    for name, act in (("_listen", interrupted), ("start", late), ("check", interrupted)):
        with monkeypatch.context() as patch:
            patch.setattr(Channel, name, act)
            with pytest.raises(KeyboardInterrupt):
                gvisor.sandbox()
        assert sentries(gvisor) == [], name
    assert gvisor.sandboxes == []
