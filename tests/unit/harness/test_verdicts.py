"""Verdicts that are kept: for which binary, boot, platform and deadline, and for how long."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
from pathlib import Path

import pytest

from pytest_gvisor.cli import sweep
from pytest_gvisor.harness import verdicts
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.runsc.platforms import Availability
from pytest_gvisor.sessions import session_folder
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
    monkeypatch.setattr(verdicts, "boot_id", lambda: BOOT)
    return folder


def test_a_verdict_is_of_one_binary_and_one_platform() -> None:
    """Another runsc may run where this one hangs."""
    verdicts.keep(BINARY, HUNG)
    found = verdicts.recall(BINARY, Platform.KVM, 10.0)
    assert found is not None
    assert (found.cause, found.detail, found.deadline) == (Cause.PROBE_HUNG, "it spun", 10.0)
    assert found.next_step == "Go. This was found out earlier; --gvisor-reprobe tries again."
    assert verdicts.recall(OTHER, Platform.KVM, 10.0) is None
    assert verdicts.recall(BINARY, Platform.PTRACE, 10.0) is None


def test_a_verdict_is_of_one_boot(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    """A verdict is invalid after the next boot, and the first reader removes it."""
    verdicts.keep(BINARY, HUNG)
    (kept,) = base.iterdir()
    unfinished = Path(f"{kept}.0123abcd")
    for other in (unfinished, base / "v-mine", base / "s-0123456789ab.json"):
        other.touch()
    monkeypatch.setattr(verdicts, "boot_id", lambda: BOOT.replace("1", "6"))
    assert verdicts.recall(BINARY, Platform.KVM, 10.0) is None
    assert sorted(path.name for path in base.iterdir()) == ["s-0123456789ab.json", "v-mine"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a file of another owner")
def test_a_verdict_of_another_owner_s_is_none(base: Path) -> None:
    """A verdict of another user does not decide which tests are skipped."""
    verdicts.keep(BINARY, HUNG)
    (kept,) = base.iterdir()
    os.chown(kept, 12345, 12345)
    assert verdicts.recall(BINARY, Platform.KVM, 10.0) is None
    os.chown(kept, 0, 0)
    assert verdicts.recall(BINARY, Platform.KVM, 10.0) is not None


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_verdict_that_is_no_file_is_none(base: Path, tmp_path: Path, kind: str) -> None:
    """A symlink is not followed, and a FIFO does not block."""
    verdicts.keep(BINARY, HUNG)
    (kept,) = base.iterdir()
    kept.rename(tmp_path / "kept")
    if kind == "link":
        kept.symlink_to(tmp_path / "kept")
    else:
        os.mkfifo(kept)
    assert verdicts.recall(BINARY, Platform.KVM, 10.0) is None


def test_what_another_process_keeps_just_now_stays(base: Path) -> None:
    """Files of this boot are not swept."""
    verdicts.keep(BINARY, HUNG)
    verdicts.sweep()
    assert len(os.listdir(base)) == 1


def test_a_verdict_that_cannot_be_written_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    """A full disk leaves no file: the next question probes again."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    verdicts.keep(BINARY, HUNG)
    assert os.listdir(base) == []


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


def test_nothing_is_kept_where_the_boot_has_no_name(
    monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    """Without the name of the boot a verdict would be valid for ever."""
    monkeypatch.setattr(verdicts, "boot_id", str)
    verdicts.keep(BINARY, HUNG)
    verdicts.sweep()
    assert verdicts.recall(BINARY, Platform.KVM, 1.0) is None
    assert not base.exists()


def test_the_sweep_at_a_shell_removes_those_of_earlier_boots_too(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep removes verdicts of earlier boots if no session asks for the platform again."""
    verdicts.keep(BINARY, HUNG)
    monkeypatch.setattr(verdicts, "boot_id", lambda: BOOT.replace("1", "6"))
    assert sweep.main([]) == 0
    assert [path.name for path in base.iterdir()] == [".lock"]
