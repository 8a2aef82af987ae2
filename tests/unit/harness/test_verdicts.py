"""Verdicts that are kept: for which binary, boot, platform and deadline, and for how long."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from pytest_gvisor.harness import verdicts
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.runsc.platforms import Availability
from pytest_gvisor.sessions import boot_notes, session_folder
from pytest_gvisor.settings import Platform

BOOT = "11111111-2222-3333-4444-555555555555"
BINARY, OTHER = "a" * 64, "b" * 64
HUNG = Availability(
    platform=Platform.KVM, cause=Cause.PROBE_HUNG, detail="it spun", next_step="Go.", deadline=10.0
)


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sessions' folder of this test's own, on a machine that has booted once."""
    folder = tmp_path / "base"
    monkeypatch.setattr(session_folder, "base_folder", lambda: str(folder))
    monkeypatch.setattr(boot_notes, "boot_id", lambda: BOOT)
    return folder


def test_a_verdict_is_of_one_binary_and_one_platform() -> None:
    """Another runsc may run where this one hangs."""
    verdicts.keep(BINARY, HUNG)
    found = verdicts.recall(BINARY, Platform.KVM, 10.0)
    assert found is not None
    assert (found.cause, found.detail, found.deadline) == (Cause.PROBE_HUNG, "it spun", 10.0)
    assert found.next_step == "Go. This was found out earlier; `pytest-gvisor doctor` tries again."
    assert verdicts.recall(OTHER, Platform.KVM, 10.0) is None
    assert verdicts.recall(BINARY, Platform.PTRACE, 10.0) is None


def test_a_number_that_is_too_large_is_no_verdict() -> None:
    """A verdict with a nonsensical value is invalid: the next question probes again."""
    text = verdicts.encode(HUNG)
    assert verdicts.decode(text) == HUNG
    assert verdicts.decode(text.replace("10.0", "9" * 400)) is None


@pytest.mark.parametrize(("deadline", "holds"), [(5.0, True), (10.0, True), (10.5, False)])
def test_a_hang_is_one_for_deadlines_up_to_its_own(deadline: float, holds: bool) -> None:
    """A longer deadline than that of the hang needs a new probe."""
    verdicts.keep(BINARY, HUNG)
    assert (verdicts.recall(BINARY, Platform.KVM, deadline) is not None) is holds


@pytest.mark.parametrize(
    "change",
    [
        {"cause": Cause.PROBE_FAILED},
        {"cause": Cause.NONE},
        {"platform": Platform.SYSTRAP},
        {"platform": Platform.PTRACE},
        {"deadline": math.inf},  # of a look at the device, which is repeated anyway
    ],
)
def test_only_a_run_of_kvm_that_hung_is_kept(change: dict[str, object], base: Path) -> None:
    """All else is found out in no time."""
    verdicts.keep(BINARY, dataclasses.replace(HUNG, **change))  # type: ignore[arg-type]
    assert not base.exists() or list(base.iterdir()) == []


def test_a_verdict_is_of_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that hung may work again; a moment that is still to come is another boot's."""
    monkeypatch.setattr(verdicts, "_now", lambda: 5000)
    verdicts.keep(BINARY, HUNG)
    for now, known in ((5000, True), (8600, True), (8601, False), (4999, False)):
        monkeypatch.setattr(verdicts, "_now", lambda now=now: now)
        assert (verdicts.recall(BINARY, Platform.KVM, 10.0) is not None) is known


def test_a_verdict_is_of_one_state_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other permissions, or another device, need a new probe."""
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(verdicts, "KVM_DEVICE", str(device))
    verdicts.keep(BINARY, HUNG)
    assert verdicts.recall(BINARY, Platform.KVM, 10.0) is not None
    device.chmod(0o600)
    assert verdicts.recall(BINARY, Platform.KVM, 10.0) is None


def test_a_note_of_another_form_is_no_verdict() -> None:
    """An earlier version wrote no moment."""
    for text in ("", "x", verdicts.encode(HUNG), f"x {verdicts.encode(HUNG)}"):
        verdicts._note(BINARY, Platform.KVM).write(text)
        assert verdicts.recall(BINARY, Platform.KVM, 10.0) is None
