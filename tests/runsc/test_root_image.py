"""Root filesystems as EROFS images, which runsc serves without a gofer."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Gvisor, Launcher, Rootfs, Runsc, bind, empty
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.store import Images
from pytest_gvisor.oci import erofs
from pytest_gvisor.oci.accounts import Account
from pytest_gvisor.oci.rootfs import Prepared
from pytest_gvisor.oci.spec import Mount
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

# Folders have a size of their file system's; `/` and what runsc adds to it are new in each sandbox.
WALK = """
b=/tree/bin/busybox
walk() { $b find /tree -print0 | $b sort -z | $b xargs -0 "$@" 2>&1; }
walk $b stat -c '%f %u %g %h %y %N'
walk $b sh -c 'for f; do if [ -h "$f" ]; then /tree/bin/busybox readlink "$f"
    elif [ -f "$f" ]; then /tree/bin/busybox stat -c %s "$f"; /tree/bin/busybox sha256sum <"$f"
    fi; done' sh
"""
SIZES = (0, 1, 4095, 4096, 4097, 1_000_000)


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree(Rootfs):
    """A tree with all kinds of files, as a folder or as its image."""

    path: Path
    image: str = ""

    def prepare(
        self,
        folder: str,
        *,
        mounts: Sequence[Mount] = (),
        shared: str | None = None,
        account: Account | None = None,
    ) -> Prepared:
        """See `Rootfs.prepare`."""
        del folder, shared, account
        return Prepared(root_path=str(self.path), mounts=tuple(mounts), packed=lambda: self.image)


def make_odd_files(top: bytes) -> None:
    """Make files, links and folders whose names, modes, times or contents are rare."""
    for number, name in enumerate(
        [b"\xff\xfe", b"new\nline", b" ", b"-n", b"n" * 255, b"\xc3\xa4"]
    ):
        with open(top + b"/" + name, "wb") as file:
            file.write(bytes(range(256)) * number)
    for size in SIZES:
        with open(top + b"/size%d" % size, "wb") as file:
            file.write(random.Random(size).randbytes(size))
    with open(top + b"/sparse", "wb") as file:
        file.truncate(3_000_000)
        file.seek(2_000_000)
        file.write(b"data")
    for number, mode in enumerate([0o000, 0o4755, 0o2755, 0o1777, 0o7777, 0o444]):
        for kind in (b"file", b"folder"):
            path = top + b"/%s%d" % (kind, number)
            (os.mkdir if kind == b"folder" else os.mknod)(path)
            if os.geteuid() == 0 and number % 2:
                os.chown(path, 1000 + number, 2**32 - 2)
            # After chown(2), which clears bits of it.
            os.chmod(path, mode if os.geteuid() == 0 else mode | 0o700)
    os.link(top + b"/size4096", top + b"/folder5/again")
    for name, target in [(b"loop", b"loop"), (b"gone", b"\xfe/nowhere"), (b"long", b"x/" * 2000)]:
        os.symlink(target, top + b"/" + name)
    os.symlink(b"..", top + b"/folder5/up")
    os.mkdir(top + b"/many")
    for number in range(700):
        os.mkdir(top + b"/many/%d%s" % (number, b"y" * (number % 90)))
    os.utime(top + b"/size1", ns=(0, 999_999_999))
    # gVisor shows no fraction of a second before 1970 as it is.
    os.utime(top + b"/size0", ns=(0, -315_521_755_000_000_000))
    os.utime(top + b"/many", ns=(0, (2**33) * 10**9 + 7))


def make_random_files(top: bytes, seed: int) -> None:
    """Make a small tree by chance."""
    chance = random.Random(seed)
    folders = [top]
    for _ in range(60):
        name = bytes(chance.choice(range(1, 256)) for _ in range(chance.randint(1, 20)))
        path = chance.choice(folders) + b"/" + name.replace(b"/", b"|")
        match chance.randrange(4):
            case _ if os.path.lexists(path) or name.strip(b".") == b"":
                continue
            case 0:
                os.mkdir(path)
                folders.append(path)
            case 1:
                os.symlink(name, path)
            case _:
                with open(path, "wb") as file:
                    file.write(chance.randbytes(chance.choice(SIZES[:5])))
                os.chmod(path, chance.randrange(0o10000) | 0o400)
    for path in reversed(folders[1:]):
        os.chmod(path, chance.randrange(0o10000) | 0o500)


def test_an_image_and_its_folder_look_the_same_from_inside(
    on_each: Gvisor, tmp_path: Path, seen: Seen
) -> None:
    """Modes, owners, links, times, sizes, targets and contents are those of the folder."""
    tree = tmp_path / "root"
    for name in ("tree/bin", "tree/odd", "tree/chance", "dev", "proc", "sys", "tmp"):
        (tree / name).mkdir(parents=True)
    (tree / "tree/bin/busybox").write_bytes(BUSYBOX)
    (tree / "tree/bin/busybox").chmod(0o755)
    make_odd_files(bytes(tree / "tree/odd"))
    make_random_files(bytes(tree / "tree/chance"), seed=1)
    erofs.pack(str(tree), str(tmp_path / "image"))
    told: list[tuple[list[bytes], bytes, int]] = []
    for image in ("", str(tmp_path / "image")):
        done = on_each.run(
            ["/tree/bin/busybox", "sh", "-c", WALK], rootfs=Tree(path=tree, image=image)
        )
        told.append((done.stdout_bytes.splitlines(), done.stderr_bytes, done.returncode))
    assert seen.images == [False, takes_images(on_each.runsc.date)]
    assert len(told[0][0]) > 900
    assert [line for line in told[0][0] if line not in told[1][0]] == []
    assert told[0] == told[1]


def test_a_run_sees_what_its_hook_has_written_to_the_root(
    on_each: Gvisor, root: Rootfs, seen: Seen
) -> None:
    """Each run has the folder of its own hook, from the third run on too."""
    numbers = iter(range(9))

    def write(spec: dict[str, Any]) -> None:
        (Path(spec["root"]["path"]) / "etc/name").write_text(f"{next(numbers)}")

    on_each._hooks = Hooks(modify_spec=write, keep=seen.keep)
    assert [shell(on_each, "/bin/busybox cat /etc/name", rootfs=root) for _ in range(4)] == [
        "00", "10", "20", "30",
    ]  # fmt: skip
    on_each._hooks = Hooks(keep=seen.keep)
    shown = [shell(on_each, "/bin/busybox cat /etc/name", rootfs=root) for _ in range(2)]
    assert shown == ["gvisor\n0"] * 2
    assert seen.images[:5] == [False] * 5


def test_no_other_run_sees_what_a_hook_has_written_to_the_root(gvisor: Gvisor) -> None:
    """The folder of `host()` is one for all runs of a session, but for those with a hook."""
    other = gvisor._hooks
    path = Path("/written-by-a-hook")

    def write(spec: dict[str, Any]) -> None:
        Path(spec["root"]["path"], path.name).write_text("x")

    gvisor._hooks = Hooks(modify_spec=write)
    assert gvisor.run(["cat", str(path)]).stdout == "x"
    gvisor._hooks = other
    assert gvisor.run(["test", "-e", str(path)]).returncode == 1
