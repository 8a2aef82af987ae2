"""The platforms and ways in which a sandbox can be saved."""

from __future__ import annotations

import pytest

from pytest_gvisor.errors import SnapshotError
from pytest_gvisor.run import saved
from pytest_gvisor.runsc.rootless import Way
from pytest_gvisor.settings import Platform


@pytest.mark.parametrize("way", [Way.PRIVILEGED, Way.MAPPED, Way.OWN])
@pytest.mark.parametrize("platform", [Platform.SYSTRAP, Platform.PTRACE])
def test_sandboxes_of_root_and_in_a_user_namespace_can_be_saved(
    platform: Platform, way: Way
) -> None:
    """On the two platforms that need no device."""
    saved.check(platform, way)


def test_the_reasons_against_it_are_named() -> None:
    """A platform, and a way to start runsc."""
    with pytest.raises(SnapshotError, match="platform kvm") as caught:
        saved.check(Platform.KVM, Way.PRIVILEGED)
    assert "systrap" in str(caught.value.next_step)
    with pytest.raises(SnapshotError, match="--rootless"):
        saved.check(Platform.SYSTRAP, Way.FLAG)
