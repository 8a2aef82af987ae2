"""A platform is available only if the probe's workload succeeds and names gVisor's kernel."""

import itertools
import os

import pytest

from pytest_gvisor import LaunchError, Platform, Settings
from pytest_gvisor.harness.engine import Engine
from pytest_gvisor.runsc import platforms
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.runsc.platforms import WHAT, Availability
from tests.fakes.engines import engine
from tests.fakes.fake import FINE, FakeRunsc, Step

__all__ = ["engine"]


def verdict(engine: Engine, fake: FakeRunsc, *steps: Step) -> Availability:
    """The availability of ptrace if the probe's sandbox takes these steps."""
    fake.script(*FINE, *steps)
    return engine.availability(Platform.PTRACE, Settings(runsc=str(fake.path)))


def ending(status: int, code: int) -> tuple[Step, Step]:
    """The steps of a first process that ends with this wait status, and runsc with that code."""
    return ["task_exit", status], ["exit", code]


def test_a_probe_that_prints_gvisors_release_and_exits_with_0_is_a_platform(
    engine: Engine, fake: FakeRunsc
) -> None:
    """A probe that succeeds with any release of gVisor's kernel makes the platform available."""
    assert verdict(engine, fake, ["write", 1, "4.19.0-gvisor\n"], *ending(0, 0)).available


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        pytest.param([*ending(9, 137)], f"{WHAT} ended with signal 9 (SIGKILL)", id="killed"),
        pytest.param(
            [*ending(127 << 8, 127)], f"{WHAT} ended with exit status 127", id="not found"
        ),
        pytest.param([*ending(0, 0)], "the kernel in the sandbox calls itself ''", id="silent"),
        pytest.param(
            [["write", 1, "what?\n"], *ending(0, 0)],
            "the kernel in the sandbox calls itself 'what?'",
            id="nonsense",
        ),
    ],
)
def test_a_workload_that_fails_is_no_platform(
    engine: Engine, fake: FakeRunsc, steps: list[Step], told: str
) -> None:
    """A failed workload is no platform, even in a fine sandbox; the cause has its last output."""
    said: Step = ["write", 2, "x" * 3000 + "\nno such\x1b library\n"]
    found = verdict(engine, fake, said, *steps)
    assert found.cause is Cause.PROBE_FAILED
    assert found.detail.startswith(told)
    assert "no such\\x1b library" in found.detail
    assert len(found.detail) < 1500
    assert "\n" not in found.detail
    assert found.next_step


def test_the_hosts_own_release_is_no_platform(engine: Engine, fake: FakeRunsc) -> None:
    """A workload that reports the host's kernel did not run in gVisor."""
    own = os.uname().release
    found = verdict(engine, fake, ["write", 1, f"{own}\n"], *ending(0, 0))
    assert found.cause is Cause.PROBE_FAILED
    assert f"the kernel in the sandbox is the host's own {own}" in found.detail


PANICS = {
    "systrap": "panic: running on goroutine 56163682479392 (task goroutine for kernel.Task "
    "0x3314a0a7f508 is 0)\n\ngoroutine 31 gp=0x3314a0652780 m=10 mp=0x3314a0c2b808 [running]:\n",
    "ptrace": "panic: ptrace set regs failed: no such process\n\ngoroutine 33 [running]:\n",
    "registers": "panic: ptrace set regs"
    f" ({{PtraceRegs:{{R15:0 {'R14:140433858349096 ' * 40}}}}})"
    " failed: no such process\n\ngoroutine 33 [running]:\n",
}


@pytest.mark.parametrize("panic", PANICS.values(), ids=PANICS)
def test_a_sentry_that_misreads_its_goroutines_is_a_broken_build(
    engine: Engine, fake: FakeRunsc, panic: str
) -> None:
    """The panic of Debian's 20240729, built with Go 1.26, becomes one line with its remedy."""
    found = verdict(engine, fake, ["panic", panic], ["exit", 2])
    assert found.cause is Cause.BROKEN_BUILD
    first = panic.splitlines()[0].removeprefix("panic: ")
    if "Regs:" in first:  # as on a processor with all of its registers
        first = "ptrace set regs failed: no such process"
    assert found.detail == f"its sentry panics when a program runs ({first})"
    assert "`pytest-gvisor install`" in found.next_step


def test_another_panic_is_not_the_builds(engine: Engine, fake: FakeRunsc) -> None:
    """A host that forbids ptrace makes a sentry panic too."""
    panic = "panic: unable to attach: operation not permitted\n\ngoroutine 1 [running]:\n"
    found = verdict(engine, fake, ["panic", panic], ["exit", 2])
    assert found.cause is Cause.PROBE_FAILED
    assert "unable to attach: operation not permitted" in found.detail


@pytest.mark.fault("G6")
@pytest.mark.parametrize(
    "panic",
    [
        "panic: creating a stub: resource temporarily unavailable\n\ngoroutine 1 [running]:\n",
        "failed to create new OS thread (have 9 already; errno=11)\nfatal error: newosproc",
    ],
    ids=["sentry", "go"],
)
def test_a_limit_of_the_machine_is_no_verdict_on_a_platform(
    engine: Engine, fake: FakeRunsc, panic: str
) -> None:
    """The test is an error and no skip, and the next one tries the platform again.

    Other programs may have taken all processes of a user, or of a container, for a moment.
    """
    with pytest.raises(LaunchError, match="the launch failed at probe: ") as caught:
        verdict(engine, fake, ["panic", panic], ["exit", 2])
    assert "is reached: see `ulimit -u`" in caught.value.next_step
    assert verdict(engine, fake, ["write", 1, "4.19.0-gvisor\n"], *ending(0, 0)).available


@pytest.mark.parametrize(
    "steps", [ending(9, 137), [["exit", 128]]], ids=["its program", "its sandbox"]
)
def test_a_kill_for_want_of_memory_is_no_verdict_on_a_platform(
    engine: Engine, fake: FakeRunsc, monkeypatch: pytest.MonkeyPatch, steps: list[Step]
) -> None:
    """The kernel takes a sandbox before all other processes, whichever has used the memory up."""
    kills = itertools.count()
    with monkeypatch.context() as patched:
        patched.setattr(platforms, "_kills", lambda: next(kills))
        with pytest.raises(LaunchError, match="the launch failed at probe: ") as caught:
            verdict(engine, fake, *steps)
    assert caught.value.next_step.startswith("There is no memory left")
    assert verdict(engine, fake, ["write", 1, "4.19.0-gvisor\n"], *ending(0, 0)).available
