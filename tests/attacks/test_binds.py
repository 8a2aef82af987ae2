"""A workload that plants a link, and a later run that is shown what the link's name was."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pytest_gvisor import (
    GvisorError,
    InvalidBundle,
    LaunchError,
    UsageError,
    bind,
    directory,
    tmpfs,
)
from pytest_gvisor.inside.view import writable
from pytest_gvisor.programs import leftovers
from pytest_gvisor.run.request import Hooks
from tests.faults.little import eventually

if TYPE_CHECKING:
    from pytest_gvisor.harness.gvisor import Gvisor
    from pytest_gvisor.plugin.fixture_values import BundleFactory

PLANT = "rm -rf /w/out && ln -s {target} /w/out"
STOLEN = "cat /out/secret 2>/dev/null; echo owned > /out/secret; echo owned > /out/new"


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A folder of the host that no sandbox is shown; nothing in it has changed at the end."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    (folder / "secret").write_text("the host's")
    yield folder
    assert os.listdir(folder) == ["secret"]
    assert (folder / "secret").read_text() == "the host's"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder that workloads write, with one for their results."""
    (tmp_path / "work/out").mkdir(parents=True)
    return tmp_path / "work"


def test_a_hook_follows_no_link_that_a_run_has_put_in_the_place_of_a_source(
    gvisor: Gvisor, work: Path, secret: Path
) -> None:
    """The hook adds the path to config.json after the link was made."""
    mounts = [bind(work, "/w", readonly=False)]
    plant = PLANT.format(target=secret)
    assert gvisor.run(["sh", "-c", plant], mounts=mounts).returncode == 0
    more = {"destination": "/out", "type": "bind", "source": f"{work}/out", "options": ["rbind"]}
    gvisor._hooks = Hooks(modify_spec=lambda config: config["mounts"].append(more))
    with pytest.raises(UsageError, match=f"'{work}/out' is a link to '{secret}'"):
        gvisor.run(["sh", "-c", STOLEN])
    (work / "out").unlink()
    (work / "out").mkdir()
    gvisor.run(["sh", "-c", STOLEN])
    assert sorted(os.listdir(work / "out")) == ["new", "secret"]


@pytest.mark.parametrize("readonly", [False, True])
def test_a_link_that_a_run_puts_in_the_place_of_a_source_is_not_followed(
    gvisor: Gvisor, work: Path, secret: Path, readonly: bool
) -> None:
    """The same mounts, used twice: the second run is refused, and names the path."""
    mounts = [
        bind(work, "/w", readonly=False),
        bind(work / "out", "/out", readonly=readonly),
    ]
    plant = PLANT.format(target=secret)
    assert gvisor.run(["sh", "-c", plant], mounts=mounts).returncode == 0
    with pytest.raises(LaunchError, match=r"/out.*has become a link"):
        gvisor.run(["sh", "-c", STOLEN], mounts=mounts)
    with pytest.raises(LaunchError, match="has become a link"):
        gvisor.sandbox(mounts=mounts)


def test_a_link_above_a_source_is_not_followed(gvisor: Gvisor, work: Path, secret: Path) -> None:
    """Each part of the path is looked at, and not its last one alone."""
    (work / "out/secret").touch()
    mounts = [bind(work, "/w", readonly=False), bind(work / "out/secret", "/f", readonly=False)]
    gvisor.run(["sh", "-c", PLANT.format(target=secret)], mounts=mounts, check=True)
    with pytest.raises(LaunchError, match="has become a link"):
        gvisor.run(["sh", "-c", "cat /f; echo owned > /f"], mounts=mounts)


def test_a_later_stage_does_not_take_a_planted_link_for_a_result(
    gvisor: Gvisor, work: Path, secret: Path
) -> None:
    """The error names the link's target; `follow=True` is for who put it there."""
    first = bind(work, "/w", readonly=False)
    gvisor.run(["sh", "-c", PLANT.format(target=secret)], mounts=[first], check=True)
    for make in (lambda path: bind(path, "/data"), directory):
        with pytest.raises(UsageError, match=str(secret)):
            make(work / "out")
    with pytest.raises(UsageError, match=str(secret)):
        bind(work / "out/secret", "/data")


def test_a_root_that_a_run_has_replaced_is_not_used(
    gvisor: Gvisor, work: Path, secret: Path
) -> None:
    """A link or another folder in its place is refused."""
    for name in ("bin", "dev", "proc", "sys", "tmp"):
        (work / "root" / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", work / "root/bin/true")
    root = directory(work / "root")
    assert gvisor.run(["/bin/true"], rootfs=root).returncode == 0
    first = [bind(work, "/w", readonly=False)]
    swap = "mv /w/root /w/old && {} /w/root"
    gvisor.run(["sh", "-c", swap.format(f"ln -s {secret}")], mounts=first, check=True)
    with pytest.raises((LaunchError, InvalidBundle)):
        gvisor.run(["/bin/true"], rootfs=root)
    gvisor.run(["sh", "-c", "rm /w/root && cp -a /w/old /w/root"], mounts=first, check=True)
    with pytest.raises(LaunchError, match="another one than was checked"):
        gvisor.run(["/bin/true"], rootfs=root)


def test_a_source_of_a_bundle_is_not_followed_either(
    gvisor: Gvisor, oci_bundle: BundleFactory, work: Path, secret: Path
) -> None:
    """A bundle that was written before the link was planted."""
    mounts = [bind(work, "/w", readonly=False), bind(work / "out", "/out", readonly=False)]
    bundle = oci_bundle(["sh", "-c", STOLEN], mounts=mounts)
    gvisor.run(["sh", "-c", PLANT.format(target=secret)], mounts=mounts, check=True)
    with pytest.raises((LaunchError, InvalidBundle), match=r"link|no longer"):
        gvisor.run_bundle(bundle)


def test_a_name_that_changes_all_the_time_never_shows_what_a_link_names(
    gvisor: Gvisor, work: Path, secret: Path
) -> None:
    """Another process swaps the folder and a link to the secret: a run sees the folder, or none."""
    (work / "out/mine").touch()
    swap = (
        "import os\nos.symlink(%r, 'link')\nwhile True:\n os.rename('out', 'away')\n"
        " os.rename('link', 'out')\n os.rename('out', 'link')\n os.rename('away', 'out')\n"
    )
    mounts = [bind(work / "out", "/out", readonly=False)]
    with subprocess.Popen([sys.executable, "-c", swap % str(secret)], cwd=work) as swapper:
        assert eventually(lambda: os.path.lexists(work / "link")) is not None
        seen = set()
        try:
            for _ in range(12):
                # The gofer dies where a place was a folder and its point in the root a file.
                with contextlib.suppress(GvisorError):
                    seen.add(gvisor.run(["sh", "-c", f"ls /out; {STOLEN}"], mounts=mounts).stdout)
        finally:
            swapper.kill()
    assert not any("the host's" in output for output in seen), seen


def test_no_hard_link_to_a_module_of_the_host_is_written(
    gvisor: Gvisor, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is refused as writable, and so is the file; it can be read."""
    (tmp_path / "packages").mkdir()
    module = tmp_path / "packages/a_linked_module.py"
    module.touch()
    os.link(module, work / "out/0")
    assert bind(work, "/w", readonly=False).options
    monkeypatch.syspath_prepend(module.parent)
    monkeypatch.delitem(sys.modules, module.stem, raising=False)
    importlib.import_module(module.stem)
    for source in (work, work / "out/0"):
        with pytest.raises(UsageError, match=f"another name of '{module}', which the host has"):
            bind(source, "/w", readonly=False)
    assert gvisor.run(["ls", "/w/out"], mounts=[bind(work, "/w")]).stdout == "0\n"


def test_no_depth_of_folders_stops_a_later_run(
    gvisor: Gvisor, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run leaves 1,200 folders in each other where the host looks for its modules."""
    module = tmp_path / "a_linked_module.py"
    module.touch()
    os.link(module, tmp_path / "its_other_name.py")
    monkeypatch.setitem(sys.modules, module.stem, SimpleNamespace(__file__=str(module)))
    dig = "import os\nos.chdir('/w')\nfor _ in range(1200): os.mkdir('d'); os.chdir('d')"
    try:
        gvisor.run(["python3", "-c", dig], mounts=[bind(work, "/w", readonly=False)], check=True)
        again = gvisor.run(["ls", "/w"], mounts=[bind(work, "/w", readonly=False)])
        assert again.stdout == "d\nout\n"
        assert writable._search(str(work), ".git") == ""
    finally:
        assert leftovers.remove(str(work), ()) == []


def test_a_folder_that_is_made_anew_is_shown(gvisor: Gvisor, work: Path) -> None:
    """A build makes its folder anew, and the next step reads it; so does an atomic replacement."""
    mounts = [bind(work, "/w", readonly=False), bind(work / "out", "/out")]
    build = "rm -rf /w/out && mkdir /w/new && echo built > /w/new/a && mv /w/new /w/out"
    gvisor.run(["sh", "-c", build], mounts=mounts, check=True)
    assert gvisor.run(["cat", "/out/a"], mounts=mounts).stdout == "built\n"


def test_no_link_in_a_mount_takes_away_what_hides_a_part_of_another_one(
    gvisor: Gvisor, work: Path
) -> None:
    """An earlier workload has put it there. Its target is longer than the path of what hides."""
    (work / "link").symlink_to("/opt/a/longer/path/than/that/of/what/hides/the/part")
    (work / "out/.git").mkdir()
    (work / "out/.git/config").write_text("SECRET\n")
    mounts = [bind(work, "/w"), bind(work / "out", "/w/link"), tmpfs("/w/link/.git")]
    assert gvisor.run(["cat", "/w/link/.git/config"], mounts=mounts).stdout == ""


def test_a_bundle_for_other_tools_names_the_places_that_links_lead_to(
    oci_bundle: BundleFactory, work: Path
) -> None:
    """By the paths as they are written, runsc would make the mount over what hides a part of it."""
    (work / "top/var/roothome/p").mkdir(parents=True)
    (work / "top/root").symlink_to("var/roothome")
    mounts = [bind(work / "out", "/root/p"), tmpfs("/root/p/.git")]
    bundle = oci_bundle(["true"], rootfs=directory(work / "top"), mounts=mounts)
    places = [mount.destination for mount in bundle.spec.mounts]
    assert places.index("/var/roothome/p") < places.index("/var/roothome/p/.git")


def test_no_mount_point_lies_in_a_folder_that_another_run_writes(
    gvisor: Gvisor, work: Path
) -> None:
    """The other run could put a link in its place, or has. After that run, the point is fine."""
    shared = bind(work, "/w", readonly=False)
    mounts = [bind(work, "/w"), bind("/usr/share", "/w/out")]
    with gvisor.sandbox(mounts=[shared]) as sandbox:
        with pytest.raises(UsageError, match=r"mount point .*/w/out.* a run that is going on"):
            gvisor.run(["true"], mounts=mounts)
        sandbox.exec(["ln", "-s", "/usr/bin", "/w/link"])
        with pytest.raises(UsageError, match=r"mount point .*/w/link.* a run that is going on"):
            gvisor.run(["true"], mounts=[mounts[0], bind("/usr/share", "/w/link")])
        assert gvisor.run(["true"], mounts=[shared]).returncode == 0
    assert gvisor.run(["ls", "/w/out"], mounts=mounts).stdout


def test_no_link_of_the_root_leads_a_mount_point_into_a_folder_that_another_run_writes(
    gvisor: Gvisor, work: Path, tmp_path: Path
) -> None:
    """By the path, the point is in the root; by its place, it is where the other run writes."""
    root = tmp_path / "root"
    (root / "var/home/d").mkdir(parents=True)
    (root / "home").symlink_to("var/home")
    (work / "d").mkdir()
    mounts = [bind(work, "/var/home"), bind("/usr/share", "/home/d")]
    with (
        gvisor.sandbox(mounts=[bind(work, "/w", readonly=False)]),
        pytest.raises(UsageError, match=r"mount point .*/d.* a run that is going on"),
    ):
        gvisor.run(["true"], rootfs=directory(root), mounts=mounts)
