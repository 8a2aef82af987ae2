"""The platforms that work here, found by a bounded real run, each with its cause."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

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
from pytest_gvisor.harness import verdicts
from pytest_gvisor.harness.engine import Engine
from pytest_gvisor.plugin.precedence import run_settings
from pytest_gvisor.programs import leftovers
from pytest_gvisor.programs.proc import words_of
from pytest_gvisor.run.request import Hooks
from pytest_gvisor.runsc import kvm, platforms
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.runsc.platforms import deadline_for, probe
from pytest_gvisor.sessions.launcher import Launcher
from tests.fakes.notes import keep_verdicts_in


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine that has found out nothing yet."""
    made = Engine()
    yield made
    made.close()


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
    verdicts.forget(engine.runsc(None).fingerprint, Platform.KVM)
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
        Cause.NO_DEVICE, Cause.NO_PERMISSION, Cause.REFUSED, Cause.PROBE_FAILED, Cause.PROBE_HUNG,
    }  # fmt: skip
    assert "nested virtualisation" in told or "usermod" in told


def _never(_deadline: float) -> tuple[Completed, str]:
    pytest.fail("the probe went on to a run")


@pytest.mark.fault("G7")
def test_a_missing_device_is_seen_without_a_run(tmp_path: Path, runsc: Runsc) -> None:
    """Without /dev/kvm nothing starts, and the cause is the missing device."""
    device = str(tmp_path / "kvm")
    found = probe(Platform.KVM, runsc.platforms, _never, kvm_device=device)
    assert found.cause is Cause.NO_DEVICE
    with pytest.raises(PlatformUnavailable, match=f"no device: there is no {device}"):
        found.check()


@pytest.mark.fault("G7")
@pytest.mark.skipif(
    os.geteuid() == 0, reason="needs an unprivileged user: root may open every device"
)
def test_a_forbidden_device_is_seen_without_a_run(tmp_path: Path, runsc: Runsc) -> None:
    """A /dev/kvm that this user may not open is its own cause, and the remedy is named."""
    device = tmp_path / "kvm"
    device.touch(0o000)
    found = probe(Platform.KVM, runsc.platforms, _never, kvm_device=str(device))
    assert found.cause is Cause.NO_PERMISSION
    with pytest.raises(PlatformUnavailable, match="may not be opened by uid") as caught:
        found.check()
    assert "usermod -aG kvm" in caught.value.next_step
    assert "udev" in caught.value.next_step


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

    def run(deadline: float) -> tuple[Completed, str]:
        return gvisor.run(["uname", "-r"], timeout=deadline), ""

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kvm, "look", lambda device, **_: None)
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

    def run(deadline: float) -> tuple[Completed, str]:
        return gvisor.run(["sleep", "1000"], timeout=deadline), ""

    started = time.monotonic()
    found = probe(gvisor.platform, {gvisor.platform}, run, deadline=2.0, kvm_device="/dev/kvm")
    seen = [pid for pid in leftovers.processes(session, everywhere=True) if pid != keeper]
    assert time.monotonic() - started < 40
    assert seen == []
    assert found.cause is Cause.PROBE_HUNG
    assert "did not end within 2 s" in found.detail


def test_what_is_known_of_a_run_does_not_hide_what_is_seen(runsc: Runsc) -> None:
    """A missing device is the cause, whatever an earlier run has shown."""
    known = platforms.Availability(platform=Platform.KVM, cause=Cause.PROBE_HUNG)
    found = probe(Platform.KVM, runsc.platforms, _never, kvm_device="/dev/no-kvm", known=known)
    assert found.cause is Cause.NO_DEVICE
    ptrace = platforms.Availability(platform=Platform.PTRACE, cause=Cause.PROBE_FAILED)
    assert probe(Platform.PTRACE, runsc.platforms, _never, known=ptrace) is ptrace


def test_a_bad_verdict_of_a_run_is_kept_until_it_is_forgotten(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another session of this boot does not pay for it again; the doctor forgets it."""
    # Not where the sessions are that other tests start meanwhile.
    keep_verdicts_in(tmp_path, monkeypatch)
    probes: list[Cause] = []

    def probed(
        platform: Platform,
        *_args: object,
        known: platforms.Availability | None,
        deadline: float,
        **_options: object,
    ) -> platforms.Availability:
        if known is not None:
            return known
        probes.append(causes[0])
        return platforms.Availability(
            platform=platform, cause=causes[0], detail="it spun", deadline=deadline
        )

    causes = [Cause.PROBE_HUNG]
    monkeypatch.setattr(platforms, "probe", probed)

    def ask() -> platforms.Availability:
        other = Engine()
        try:
            return other.availability(Platform.KVM, Settings())
        finally:
            other.close()

    assert ask().detail == "it spun"
    again = ask()
    assert (again.cause, len(probes)) == (Cause.PROBE_HUNG, 1)
    assert "`pytest-gvisor doctor` tries again" in again.next_step
    causes[0] = Cause.NONE
    verdicts.forget(engine.runsc(None).fingerprint, Platform.KVM)
    assert ask().available
    assert ask().available
    assert len(probes) == 3
    causes[0] = Cause.NO_DEVICE
    assert ask().cause is Cause.NO_DEVICE
    causes[0] = Cause.PROBE_FAILED  # found out again in no time, and not for ever
    assert ask().cause is Cause.PROBE_FAILED
    causes[0] = Cause.NONE
    assert ask().available


@pytest.mark.parametrize("with_workers", [False, True])
def test_a_run_asks_again_where_a_test_gives_longer_than_a_hang_had(
    with_workers: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The probe runs once more, and a test with a shorter deadline takes its verdict."""
    keep_verdicts_in(tmp_path, monkeypatch)
    deadlines: list[float] = []

    def probed(
        platform: Platform, *_args: object, known: object, deadline: float, **_options: object
    ) -> platforms.Availability:
        assert known is None
        deadlines.append(deadline)
        cause = Cause.PROBE_HUNG if deadline < 20 else Cause.NONE
        return platforms.Availability(
            platform=platform, cause=cause, deadline=deadline if deadline < 20 else math.inf
        )

    monkeypatch.setattr(platforms, "probe", probed)
    shared = str(tmp_path) if with_workers else None
    first, second = Engine(shared), Engine(shared)
    try:
        for engine, timeout, works in (
            (first, 60.0, False), (first, 120.0, True), (first, 600.0, True), (first, 60.0, True),
            (second, 60.0, True),
        ):  # fmt: skip
            if engine is second and not with_workers:
                break
            found = engine.availability(Platform.PTRACE, Settings(timeout=timeout))
            assert found.available is works
    finally:
        first.close()
        second.close()
    assert deadlines == [10.0, 20.0]
