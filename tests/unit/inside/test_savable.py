"""The plans of which no sandbox can be saved, and why."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor.inside import savable, start
from pytest_gvisor.inside.visible import Shown
from pytest_gvisor.runsc.rootless import Way
from pytest_gvisor.settings import Network, Platform, Settings

RUNSC = SimpleNamespace(subcommands={"run", "checkpoint", "restore"}, version="20260905.0")


@pytest.fixture
def plan() -> start.Plan:
    """A plan whose sandbox can be saved."""
    return start.Plan(
        runsc=cast("Any", RUNSC), platform=Platform.SYSTRAP, settings=Settings(),
        way=Way.PRIVILEGED, shown=Shown(paths=(), start="/"), inside=start.Inside(),
        inhabitant=None, command={},
    )  # fmt: skip


@pytest.mark.parametrize("way", Way)
def test_a_sandbox_can_be_saved_for_each_user(way: Way, plan: start.Plan) -> None:
    """Tests inside never start with `--rootless`: the child makes the user namespace."""
    assert savable.obstacle(dataclasses.replace(plan, way=way)) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"settings": Settings(network=Network.SANDBOX)}, "with network=sandbox none is saved"),
        ({"settings": Settings(network=Network.HOST)}, "with network=host none is saved"),
        ({"platform": Platform.KVM}, "there are no snapshots on platform kvm"),
        (
            {"runsc": SimpleNamespace(subcommands={"run", "restore"}, version="1")},
            "runsc 1 cannot save a sandbox that runs on",
        ),
    ],
)
def test_each_obstacle_is_named(change: dict[str, Any], reason: str, plan: start.Plan) -> None:
    """Connections cannot go on, and neither do devices; an old runsc has no such command."""
    assert savable.obstacle(dataclasses.replace(plan, **change)).startswith(reason)
