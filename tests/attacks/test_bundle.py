"""A bundle that somebody else made, run with the real runsc: what it must not reach."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Bundle, Gvisor, InvalidBundle

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can mount")
Foreign = Callable[..., Path]


@pytest.fixture
def foreign(tmp_path: Path) -> Foreign:
    """Writes a bundle with a busybox, a folder ``data`` and these mounts, and runs a script."""
    folder = tmp_path / "foreign"
    for name in ("bin", "dev", "proc", "sys", "tmp", "there"):
        (folder / "rootfs" / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", folder / "rootfs/bin/busybox")
    (folder / "rootfs/bin/sh").symlink_to("busybox")
    (folder / "data").mkdir()
    (folder / "data/file").write_text("as it was\n")

    def make(script: str, *mounts: dict[str, object], **changes: Any) -> Path:
        process = {"args": ["/bin/sh", "-c", script], "cwd": "/", "user": {"uid": 0, "gid": 0}}
        kinds = ("pid", "ipc", "uts", "mount", "network")
        config: dict[str, Any] = {
            "ociVersion": "1.0.2",
            "process": {**process, "env": ["PATH=/bin"], **changes.pop("process", {})},
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, *mounts],
            "linux": {"namespaces": [{"type": kind} for kind in kinds], **changes.pop("linux", {})},
            **changes,
        }
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def there(*options: str, kind: str = "bind", source: str = "data") -> dict[str, object]:
    """A mount onto /there."""
    return {"destination": "/there", "type": kind, "source": source, "options": list(options)}


WRITE = "echo changed > /there/file"
RUN = "busybox cp /bin/busybox /there/true; /there/true"
STAMP = "busybox touch -a -d 2001-02-03 /there/x; busybox cat /there/x; busybox stat -c %x /there/x"
OWNER = "busybox stat -c %a:%u:%g /there"
FILL = "busybox dd if=/dev/zero of=/there/big bs=1k count=100 2>&1"


@pytest.mark.parametrize(
    ("script", "mount", "expected"),
    [
        (WRITE, "bind ro", (1, "Read-only file system")),
        (WRITE, "bind rbind rro", (1, "Read-only file system")),
        (WRITE, "bind rw", (0, "")),
        (WRITE, "none bind ro", (1, "Read-only file system")),
        (RUN, "bind noexec", (126, "Permission denied")),
        (RUN, "bind rnoexec", (126, "Permission denied")),
        (RUN, "bind exec nosuid nodev rprivate", (0, "")),
        (RUN, "tmpfs noexec", (126, "Permission denied")),
        (WRITE, "tmpfs rro", (1, "Read-only file system")),
        (f": > /there/x; {STAMP}", "tmpfs strictatime mode=1777", (0, "")),
        (f": > /there/x; {STAMP}", "tmpfs noatime", (0, "2001-02-03")),
        (OWNER, "tmpfs mode=0711 uid=5 gid=6", (0, "711:5:6")),
        (FILL, "tmpfs size=64k", (1, "No space left")),
        ("busybox stat -c %a /there/ptmx", "devpts newinstance ptmxmode=0666", (0, "666")),
    ],
)
def test_an_option_that_is_accepted_holds(
    gvisor: Gvisor, foreign: Foreign, script: str, mount: str, expected: tuple[int, str]
) -> None:
    """Read-only is read-only in a run, and so on for each option that has an effect."""
    kind, *options = mount.split()
    status, says = expected
    folder = foreign(script, there(*options, kind=kind))
    done = gvisor.run_bundle(Bundle.open(folder))
    assert (done.returncode, says in done.stdout + done.stderr) == (status, True), done
    assert ("2001-02-03" in done.stdout) == (says == "2001-02-03")
    changed = (folder / "data/file").read_text() == "changed\n"
    assert changed == (script == WRITE and options == ["rw"])


@NEEDS_ROOT
@pytest.mark.parametrize("option", ["rro", "ro", "rnoexec"])
def test_an_option_holds_for_what_is_mounted_below(
    gvisor: Gvisor, foreign: Foreign, option: str
) -> None:
    """A file system below the source is as read-only, or as noexec, as the source."""
    script = f"{WRITE}; busybox touch /there/below/new; /there/below/true"
    folder = foreign(script, there("rbind", option))
    below = folder / "data/below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below], check=True)
    try:
        shutil.copy("/bin/busybox", below / "true")
        done = gvisor.run_bundle(Bundle.open(folder))
        assert (below / "new").exists() == (option == "rnoexec")
        assert done.returncode == (126 if option == "rnoexec" else 0)
    finally:
        subprocess.run(["umount", below], check=True)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("bind", ["rshared"]),
        ("bind", ["nosymfollow"]),
        ("bind", ["sync"]),
        ("bind", ["size=64k"]),
        ("bind", ["ro", "rw"]),
        ("tmpfs", ["nr_inodes=5"]),
        ("tmpfs", ["tmpcopyup"]),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(
    foreign: Foreign, kind: str, options: Sequence[str]
) -> None:
    """runsc would run it, and say nothing."""
    with pytest.raises(InvalidBundle, match=r"mounts\[1\]\.options"):
        Bundle.open(foreign("true", there(*options, kind=kind)))
