"""The releases of runsc that can save a sandbox which runs on, by their own answers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_gvisor.errors import SnapshotError
from pytest_gvisor.runsc import features, saving
from pytest_gvisor.runsc.rootless import Way
from pytest_gvisor.settings import Platform

BOTH = frozenset({"run", "checkpoint", "restore"})


@dataclasses.dataclass
class Binary:
    """The part of a `Runsc` that is looked at."""

    sha256: str = "0"
    version: str = "20240729.0"
    subcommands: frozenset[str] = BOTH


def check(platform: Platform = Platform.SYSTRAP, way: Way = Way.PRIVILEGED, **fields: Any) -> None:
    """Ask whether such a runsc can save there."""
    saving.check(Binary(**fields), platform, way)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", [Way.PRIVILEGED, Way.MAPPED, Way.OWN])
@pytest.mark.parametrize("platform", [Platform.SYSTRAP, Platform.PTRACE])
def test_sandboxes_of_root_and_in_a_user_namespace_can_be_saved(
    platform: Platform, way: Way
) -> None:
    """On the two platforms that need no device."""
    check(platform, way)


def test_the_reasons_against_it_are_named() -> None:
    """A platform, a way to start runsc, a release."""
    with pytest.raises(SnapshotError, match="platform kvm") as caught:
        check(Platform.KVM)
    assert "systrap" in str(caught.value.next_step)
    with pytest.raises(SnapshotError, match="cannot save a sandbox"):
        check(subcommands=BOTH - {"checkpoint", "run"})
    with pytest.raises(SnapshotError, match="--rootless"):
        check(way=Way.FLAG)
    with pytest.raises(SnapshotError, match="cannot save a sandbox"):
        check(subcommands=BOTH - {"restore"})


@pytest.mark.parametrize(
    ("answer", "can"),
    [
        ("checkpoint [flags] <id>\n  -compression value\n    \tcompress\n  -direct\n", True),
        ("checkpoint [flags] <id>\n  -leave-running\n    \trestart the container\n", False),
    ],
)
def test_a_binary_is_asked_once_for_the_flags_of_its_checkpoint(
    monkeypatch: pytest.MonkeyPatch, answer: str, can: bool
) -> None:
    """A release without compression ends the sandbox that it saves."""
    asked = []

    def ask(_judged: object, *, questions: list[tuple[str, ...]]) -> tuple[str, ...]:
        asked.extend(questions)
        return (answer,)

    monkeypatch.setattr(saving, "_known", {})
    monkeypatch.setattr(features, "ask", ask)
    assert saving.is_possible(Binary()) is can  # type: ignore[arg-type]
    for _ in range(2):
        if can:
            assert saving.save_flags(Binary()) == ("--compression=none",)  # type: ignore[arg-type]
        else:
            with pytest.raises(SnapshotError, match="runs on"):
                saving.save_flags(Binary())  # type: ignore[arg-type]
    assert asked == [("help", "checkpoint")]
