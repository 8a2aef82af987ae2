"""A platform is available only where the probe's workload ended as it should, and said gVisor's."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_gvisor import Platform, Settings
from pytest_gvisor.engine import Engine
from pytest_gvisor.runsc.platforms import Availability
from pytest_gvisor.runsc.words import Cause
from tests.fakes.fake import FINE, FakeRunsc, Step


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine that has found out nothing yet."""
    made = Engine()
    yield made
    made.close()


def verdict(engine: Engine, fake: FakeRunsc, *steps: Step) -> Availability:
    """What is thought of ptrace where the probe's sandbox does this."""
    fake.script(*FINE, *steps)
    return engine.availability(Platform.PTRACE, Settings(runsc=str(fake.path)))


def ending(status: int, code: int) -> tuple[Step, Step]:
    """The steps of a first process that ends with this wait status, and runsc with that code."""
    return ["task_exit", status], ["exit", code]


def test_a_probe_that_prints_gvisors_release_and_exits_with_0_is_a_platform(
    engine: Engine, fake: FakeRunsc
) -> None:
    """Any release of gVisor's: it has had several."""
    assert verdict(engine, fake, ["write", 1, "4.19.0-gvisor\n"], *ending(0, 0)).available


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        pytest.param([*ending(9, 137)], "ended with signal 9 (SIGKILL)", id="killed"),
        pytest.param([*ending(127 << 8, 127)], "ended with exit status 127", id="not found"),
        pytest.param([*ending(0, 0)], "printed ''", id="silent"),
        pytest.param([["write", 1, "what?\n"], *ending(0, 0)], "printed 'what?'", id="nonsense"),
    ],
)
def test_a_workload_that_fails_is_no_platform(
    engine: Engine, fake: FakeRunsc, steps: list[Step], told: str
) -> None:
    """However well the sandbox itself came up and ended; its last words are in the cause."""
    said: Step = ["write", 2, "x" * 3000 + "\nno such\x1b library\n"]
    found = verdict(engine, fake, said, *steps)
    assert found.cause is Cause.PROBE_FAILED
    assert found.detail.startswith(f"`uname -r` in the sandbox {told}")
    assert "no such\\x1b library" in found.detail
    assert len(found.detail) < 1500
    assert "\n" not in found.detail
    assert found.next_step


def test_the_hosts_own_release_is_no_platform(engine: Engine, fake: FakeRunsc) -> None:
    """Whatever ran the workload, it was not gVisor."""
    own = os.uname().release
    found = verdict(engine, fake, ["write", 1, f"{own}\n"], *ending(0, 0))
    assert found.cause is Cause.PROBE_FAILED
    assert f"the host's own kernel {own}" in found.detail
