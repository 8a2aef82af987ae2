"""The platforms that work here, found by a bounded real run, each with its cause."""

import time

import pytest

from pytest_gvisor import (
    Completed,
    Gvisor,
    Platform,
    PlatformUnavailable,
    Runsc,
    Settings,
    is_gvisor_kernel,
)
from pytest_gvisor.harness.engine import Engine
from pytest_gvisor.plugin.precedence import run_settings
from pytest_gvisor.programs import leftovers
from pytest_gvisor.programs.proc import words_of
from pytest_gvisor.run.request import Hooks
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.runsc.platforms import deadline_for, probe
from pytest_gvisor.sessions.launcher import Launcher
from tests.fakes.engines import engine

__all__ = ["engine"]


@pytest.mark.parametrize("platform", [Platform.SYSTRAP, Platform.PTRACE])
def test_systrap_and_ptrace_work_here(engine: Engine, platform: Platform) -> None:
    """Both platforms run here as the user of the tests; a second question costs nothing."""
    found = engine.availability(platform, Settings())
    assert (found.cause, found.detail) == (Cause.NONE, "")
    assert found.available
    found.check()
    assert engine.availability(platform, Settings()) is found


def test_systrap_is_the_automatic_platform(engine: Engine) -> None:
    """A release that has systrap uses it where nothing else is asked for."""
    assert engine.platforms_of(Settings()) == (Platform.SYSTRAP,)


def test_the_verdict_on_kvm_comes_in_time(engine: Engine, request: pytest.FixtureRequest) -> None:
    """kvm works, or the reason why not is known in bounded time and nothing of the try is left.

    /dev/kvm may open, and answer, and the sandbox spin for ever all the same.
    """
    started = time.monotonic()
    settings = run_settings(request.config)
    found = engine.availability(Platform.KVM, settings)
    # On an emulated processor, the end of a try that hangs and the digest of runsc take their time.
    assert time.monotonic() - started < 40 + deadline_for(settings.timeout)
    session = engine.launcher.session().path
    keeper = engine.launcher.keeper().pid
    left = [pid for pid in leftovers.processes(session, everywhere=True) if pid != keeper]
    assert [words_of(pid) for pid in left] == []
    if found.available:
        runsc = engine.runsc(None)
        gvisor = Gvisor(runsc=runsc, platform=Platform.KVM, launcher=engine.launcher)
        assert is_gvisor_kernel(gvisor.run(["uname", "-r"]).stdout.removesuffix("\n"))
        return
    with pytest.raises(PlatformUnavailable) as caught:
        found.check()
    assert caught.value.platform == "kvm"
    told = str(caught.value)
    assert told.startswith(f"platform kvm is not available here: {found.cause}: ")
    assert found.cause in {
        Cause.NO_DEVICE, Cause.NO_PERMISSION, Cause.PROBE_FAILED, Cause.PROBE_HUNG,
    }  # fmt: skip
    assert "nested virtualisation" in told or "usermod" in told


def _never(_deadline: float) -> Completed:
    pytest.fail("the probe went on to a run")


def test_a_platform_that_is_not_compiled_in_is_named(runsc: Runsc) -> None:
    """A platform that is not compiled in starts nothing; the error lists the binary's platforms."""
    found = probe(Platform.KVM, {Platform.PTRACE}, _never)
    assert found.cause is Cause.NOT_COMPILED_IN
    assert found.detail == "this runsc has ptrace"
    assert "another platform" in found.next_step


def test_a_run_that_fails_says_what_runsc_said(runsc: Runsc) -> None:
    """Runsc's own error with another device in the place of kvm's is the cause."""
    launcher = Launcher()
    hooks = Hooks(runsc_args=lambda: ["--platform_device_path=/dev/null"])
    gvisor = Gvisor(runsc=runsc, platform=Platform.KVM, launcher=launcher, hooks=hooks)

    def run(deadline: float) -> Completed:
        return gvisor.run(["uname", "-r"], timeout=deadline)

    try:
        found = probe(Platform.KVM, runsc.platforms, run, kvm_device="/dev/null")
    finally:
        launcher.close()
    assert found.cause is Cause.PROBE_FAILED
    assert found.detail
    assert "nested virtualisation" in found.next_step


def test_a_run_that_hangs_is_dead_at_the_deadline(gvisor: Gvisor) -> None:
    """The probe's own sandbox, of a real runsc, that does not come to an end."""
    seen: list[int] = []
    session = gvisor._launcher.session().path
    keeper = gvisor._launcher.keeper().pid

    def run(deadline: float) -> Completed:
        return gvisor.run(["sleep", "1000"], timeout=deadline)

    started = time.monotonic()
    found = probe(gvisor.platform, {gvisor.platform}, run, deadline=2.0, kvm_device="/dev/kvm")
    seen = [pid for pid in leftovers.processes(session, everywhere=True) if pid != keeper]
    assert time.monotonic() - started < 40
    assert seen == []
    assert found.cause is Cause.PROBE_HUNG
    assert "did not end within 2 s" in found.detail
