"""The script that repeats a run, for runs that no test of tests/plugin makes."""

from pathlib import Path

import pytest

from pytest_gvisor.base.errors import SnapshotError
from pytest_gvisor.base.settings import Network, Platform
from pytest_gvisor.oci.defaults import default_spec
from pytest_gvisor.programs.order import Order
from pytest_gvisor.run import connected
from pytest_gvisor.run.kept import keep
from pytest_gvisor.run.request import Record, Workspace
from pytest_gvisor.runsc.command import run_argv
from pytest_gvisor.runsc.rootless import Way


def test_a_copy_of_a_saved_sandbox_is_repeated_by_a_fresh_start(tmp_path: Path) -> None:
    """The image is gone when somebody reads the script."""
    run = tmp_path / "run"
    workspace = Workspace(id="g1", folder=str(run), shared=str(tmp_path), netns="")
    (tmp_path / "rootfs").mkdir()
    spec = default_spec(["true"], root_path=str(tmp_path / "rootfs"))
    argv = run_argv("g1", str(run), Platform.SYSTRAP, Network.NONE, restores="/gone")
    order = Order(id="g1", argv=argv, term=(), env={}, folder=str(run), root=f"{run}/root")
    keep(str(tmp_path / "kept"), workspace, Record(argv=argv, order=order, spec=spec))
    for name in ("replay.sh", "order.json"):
        script = (tmp_path / "kept" / name).read_text()
        assert "/gone" not in script
        assert "restore" not in script
        assert str(tmp_path) not in script
    assert "run --bundle '$state/bundle' g1" in (tmp_path / "kept/replay.sh").read_text()
    order = order._replace(argv=("/opt/a\ntouch made\n#/runsc", *argv[1:]))
    keep(str(tmp_path / "named"), workspace, Record(argv=order.argv, order=order, spec=spec))
    assert "touch made" not in (tmp_path / "named/replay.sh").read_text().splitlines()


@pytest.mark.parametrize("way", [Way.PRIVILEGED, Way.MAPPED, Way.OWN])
@pytest.mark.parametrize("platform", [Platform.SYSTRAP, Platform.PTRACE])
def test_sandboxes_of_root_and_in_a_user_namespace_can_be_saved(
    platform: Platform, way: Way
) -> None:
    """On the two platforms that need no device."""
    connected.check(platform, way)


def test_the_reasons_against_it_are_named() -> None:
    """A platform, and a way to start runsc."""
    with pytest.raises(SnapshotError, match="platform kvm") as caught:
        connected.check(Platform.KVM, Way.PRIVILEGED)
    assert "systrap" in str(caught.value.next_step)
    with pytest.raises(SnapshotError, match="--rootless"):
        connected.check(Platform.SYSTRAP, Way.FLAG)
