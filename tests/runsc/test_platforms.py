"""Which platforms work here is found out by a bounded real run, and said in words."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, Launcher, Platform, PlatformUnavailable, Runsc, Settings
from pytest_gvisor.engine import Engine
from pytest_gvisor.harness import Hooks
from pytest_gvisor.launch import remains
from pytest_gvisor.runsc.platforms import Cause, probe
from tests.runsc.conftest import words_of


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine that has found out nothing yet."""
    made = Engine()
    yield made
    made.close()


@pytest.mark.parametrize("platform", [Platform.SYSTRAP, Platform.PTRACE])
def test_systrap_and_ptrace_work_here(engine: Engine, platform: Platform) -> None:
    """Both run on this host, as who the tests run as; a second question costs nothing."""
    found = engine.availability(platform, Settings())
    assert (found.cause, found.detail) == (Cause.NONE, "")
    assert found.available
    found.check()
    assert engine.availability(platform, Settings()) is found


def test_systrap_is_the_automatic_platform(engine: Engine) -> None:
    """A release that has systrap uses it where nothing else is asked for."""
    assert engine.platforms_of(Settings()) == (Platform.SYSTRAP,)


def test_the_verdict_on_kvm_comes_in_time(engine: Engine) -> None:
    """kvm works, or the reason why not is known in bounded time and nothing of the try is left.

    /dev/kvm may open, and answer, and the sandbox spin for ever all the same.
    """
    started = time.monotonic()
    found = engine.availability(Platform.KVM, Settings())
    assert time.monotonic() - started < 20
    session = engine.launcher.session().path
    keeper = engine.launcher.keeper().pid
    left = [pid for pid in remains.processes(session, everywhere=True) if pid != keeper]
    assert [words_of(pid, "cmdline") for pid in left] == []
    if found.available:
        runsc = engine.runsc(None)
        gvisor = Gvisor(runsc=runsc, platform=Platform.KVM, launcher=engine.launcher)
        assert gvisor.run(["uname", "-r"]).stdout == "4.4.0\n"
        return
    with pytest.raises(PlatformUnavailable) as caught:
        found.check()
    assert caught.value.platform == "kvm"
    told = str(caught.value)
    assert told.startswith(f"platform kvm is not available here: {found.cause}: ")
    assert found.cause in {
        Cause.NO_DEVICE, Cause.NO_PERMISSION, Cause.PROBE_FAILED, Cause.PROBE_HUNG,
    }  # fmt: skip
    assert "kvm_intel or kvm_amd" in told


def _never(_deadline: float) -> tuple[str, str]:
    pytest.fail("the probe went on to a run")


def test_a_missing_device_is_seen_without_a_run(tmp_path: Path, runsc: Runsc) -> None:
    """Without /dev/kvm nothing is started, and the cause is that there is no device."""
    device = str(tmp_path / "kvm")
    found = probe(Platform.KVM, runsc.platforms, _never, kvm_device=device)
    assert found.cause is Cause.NO_DEVICE
    with pytest.raises(PlatformUnavailable, match=f"no device: there is no {device}"):
        found.check()


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
    assert "group kvm" in caught.value.next_step


def test_what_is_no_device_is_seen_without_a_run(tmp_path: Path, runsc: Runsc) -> None:
    """A folder in its place, which nobody can open for writing, is no device."""
    found = probe(Platform.KVM, runsc.platforms, _never, kvm_device=str(tmp_path))
    assert found.cause is Cause.NO_DEVICE
    assert "Is a directory" in found.detail


def test_a_device_that_is_not_kvm_ends_in_a_verdict(runsc: Runsc) -> None:
    """With another device at its place runsc fails by itself, and the probe says what it said."""
    launcher = Launcher()
    hooks = Hooks(runsc_args=lambda: ["--platform_device_path=/dev/null"])
    gvisor = Gvisor(runsc=runsc, platform=Platform.KVM, launcher=launcher, hooks=hooks)

    def run(deadline: float) -> tuple[str, str]:
        done = gvisor.run(["uname", "-r"], timeout=deadline)
        return done.stdout.strip(), ""

    try:
        found = probe(Platform.KVM, runsc.platforms, run, kvm_device="/dev/null")
    finally:
        launcher.close()
    assert found.cause is Cause.PROBE_FAILED
    assert found.detail
