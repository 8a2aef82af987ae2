"""Root filesystems as EROFS images, which runsc serves without a gofer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Gvisor, Launcher, Rootfs, Runsc, bind, empty
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.store import Images
from pytest_gvisor.run import gofer
from pytest_gvisor.run.request import Hooks, Record, Workspace
from pytest_gvisor.runsc import platforms
from pytest_gvisor.runsc.command import ROOT_HINT
from pytest_gvisor.runsc.features import takes_images
from tests.releases import each_runsc
from tests.unit.images.conftest import configuration, folder, item, link, saved, tar

__all__ = ["each_runsc"]

BUSYBOX = Path("/bin/busybox").read_bytes()
SHELL = "/bin/busybox"
LIST = """
for each in $(/bin/busybox find / -xdev | /bin/busybox sort); do
    test -d $each || /bin/busybox stat -c '%n %F %a %u:%g %s %Y' $each
    test -d $each && /bin/busybox stat -c '%n %F %a %u:%g' $each
    test -f $each && test ! -h $each && /bin/busybox md5sum $each
    test -h $each && /bin/busybox readlink $each
done
"""


class Seen:
    """Whether each run's config.json has taken the root from an image."""

    def __init__(self) -> None:
        self.images: list[bool] = []

    def keep(self, workspace: Workspace, record: Record) -> None:
        """Look at the bundle that was run."""
        config = json.loads(Path(workspace.path("bundle"), "config.json").read_text())
        self.images.append(
            any(name.startswith(ROOT_HINT) for name in config.get("annotations", {}))
        )


@pytest.fixture
def seen() -> Seen:
    """Looks at the bundles of this test's runs."""
    return Seen()


@pytest.fixture
def on_each(each_runsc: Runsc, seen: Seen) -> Iterator[Gvisor]:
    """Runs workloads on one release after the other."""
    launcher = Launcher()
    yield Gvisor(
        runsc=each_runsc,
        platform=platforms.automatic(each_runsc.platforms),
        launcher=launcher,
        hooks=Hooks(keep=seen.keep),
    )
    launcher.close()


@pytest.fixture
def root() -> Rootfs:
    """A root with a shell and a file."""
    return empty({"bin/busybox": BUSYBOX, "etc/name": "gvisor\n"})


def shell(gvisor: Gvisor, script: str, **options: Any) -> str:
    """The output, the errors and the status of a shell script."""
    done = gvisor.run([SHELL, "sh", "-c", script], **options)
    return f"{done.stdout}{done.stderr}{done.returncode}"


def test_given_files_are_an_image_from_the_second_run_on(
    on_each: Gvisor, root: Rootfs, seen: Seen
) -> None:
    """A workload sees the same files; a release that has no such roots keeps to the folder."""
    script = "/bin/busybox cat /etc/name; echo new >/etc/name && /bin/busybox cat /etc/name; exit 7"
    told = [shell(on_each, script, rootfs=root) for _ in range(3)]
    assert told == ["gvisor\nnew\n7"] * 3
    has = takes_images(on_each.runsc.date)
    assert seen.images == [False, has, has]


def test_an_image_is_packed_and_looks_as_its_folder(
    on_each: Gvisor, tmp_path: Path, seen: Seen
) -> None:
    """Both show the same names, kinds, modes, owners, sizes, times and contents of files."""
    files = [
        folder("bin"), item("bin/busybox", BUSYBOX, mode=0o755), link("bin/sh", "busybox"),
        folder("home", uid=1000), item("home/file", b"x" * 5000, mode=0o640, uid=1000),
        *(item(f"home/{'n' * 60}{number}", b"") for number in range(100)),
    ]  # fmt: skip
    layers = [tar(files)]
    archive = tmp_path / "image.tar"
    archive.write_bytes(saved(layers, configuration(layers, {})))
    cache = Cache(str(tmp_path / "images"))
    told = []
    for runs in (2, 1):
        images = Images(cache)
        on_each._images = lambda images=images: images
        told += [shell(on_each, LIST, image=str(archive)) for _ in range(runs)]
        images.close()
    has = takes_images(on_each.runsc.date)
    assert seen.images == [False, has, has]
    assert "/home/file regular file 640" in told[0]
    assert told[1].splitlines() == told[0].splitlines()
    assert told[2] == told[1]


def test_a_mount_needs_the_folder(gvisor: Gvisor, root: Rootfs, tmp_path: Path, seen: Seen) -> None:
    """Bind mounts are the gofer's; a file system in memory is not."""
    gvisor._hooks = Hooks(keep=seen.keep)
    for _ in range(2):
        shown = shell(gvisor, "exit 3", rootfs=root, mounts=[bind(tmp_path, "/data")])
        assert shown == "3"
    assert seen.images == [False, False]


def test_a_root_that_a_hook_has_changed_is_the_folder_of_the_hook(
    gvisor: Gvisor, root: Rootfs, busybox_root: Path, seen: Seen
) -> None:
    """The image is of the root that was made, and not of another."""
    change = Hooks(
        modify_spec=lambda spec: spec["root"].update(path=str(busybox_root)), keep=seen.keep
    )
    gvisor._hooks = change
    for _ in range(2):
        assert "No such file" in shell(gvisor, "/bin/busybox cat /etc/name", rootfs=root)
    assert seen.images == [False, False]


def test_no_gofer_is_started_for_an_image(
    on_each: Gvisor, root: Rootfs, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sandbox has its files from one descriptor."""
    real, found = gofer.find, set[bool]()

    def find(pid: int) -> int | None:
        descriptor = real(pid)
        found.add(descriptor is not None)
        return descriptor

    monkeypatch.setattr(gofer, "find", find)
    for _ in range(2):
        found.clear()
        assert shell(on_each, "/bin/busybox sleep 0.3", rootfs=root) == "0"
    assert seen.images[-1] is (True not in found)
    assert found
