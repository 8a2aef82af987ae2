"""The script that repeats a run, for runs that no test of tests/plugin makes."""

import dataclasses
import os
from pathlib import Path
from typing import Any

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


class _Turned:
    """Logs of a run. While they are kept, another user puts a link in the folder's place."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self.target = folder, target

    def keep(self, _folder: str) -> None:
        """Move the folder away."""
        self.folder.rename(f"{self.folder}-moved")
        self.folder.symlink_to(self.target)


def _run(tmp_path: Path) -> tuple[Workspace, Record]:
    """A run without files of its own."""
    workspace = Workspace(id="g1", folder=str(tmp_path / "run"), shared="/none", netns="")
    spec = default_spec(["true"], root_path="/")
    argv = run_argv("g1", workspace.folder, Platform.SYSTRAP, Network.NONE)
    order = Order(id="g1", argv=argv, term=(), env={}, folder=workspace.folder, root="/r")
    return workspace, Record(argv=argv, order=order, spec=spec)


def test_a_folder_that_another_user_turns_into_a_link_is_written_no_further(tmp_path: Path) -> None:
    """In a folder that others can write, all files go to the folder that was made."""
    (private := tmp_path / "private").mkdir()
    workspace, record = _run(tmp_path)
    turned: Any = _Turned(tmp_path / "kept", private)
    keep(str(tmp_path / "kept"), dataclasses.replace(workspace, logs=turned), record)
    assert not os.listdir(private)
    assert {"bundle", "order.json", "replay.sh", "stdin"} <= {*os.listdir(tmp_path / "kept-moved")}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes a folder of another user")
def test_no_run_is_kept_in_another_user_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else has put it in the place of the new one, and would read what is in it."""
    (tmp_path / "kept").mkdir()
    with pytest.raises(FileExistsError):
        keep(str(tmp_path / "kept"), *_run(tmp_path))
    monkeypatch.setattr(os, "makedirs", lambda *_: None)
    os.chown(tmp_path / "kept", 65534, 65534)
    with pytest.raises(PermissionError, match="another user has put a folder there"):
        keep(str(tmp_path / "kept"), *_run(tmp_path))
    assert not os.listdir(tmp_path / "kept")


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
