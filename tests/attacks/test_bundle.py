"""A foreign bundle with the real runsc, and the parts of the host that it must not reach."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Bundle, Gvisor, InvalidBundle, LaunchError, Outcome, UsageError
from pytest_gvisor.oci import bundle as bundles
from pytest_gvisor.oci import host_paths, reader
from pytest_gvisor.sessions import places

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can mount")
NEEDS_CGROUPS = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: an unprivileged user may make no cgroups"
)
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


@NEEDS_ROOT
@pytest.mark.parametrize("options", [["bind", "ro"], ["bind", "rw"], ["ro"]])
def test_a_bind_that_is_not_recursive_shows_what_is_mounted_below(
    gvisor: Gvisor, foreign: Foreign, options: list[str]
) -> None:
    """No user namespace may leave that out, and a gofer of another mind ends the sandbox."""
    folder = foreign("busybox cat /there/file /there/below/file", there(*options))
    below = folder / "data/below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below], check=True)
    try:
        (below / "file").write_text("below\n")
        assert gvisor.run_bundle(Bundle.open(folder)).stdout == "as it was\nbelow\n"
    finally:
        subprocess.run(["umount", below], check=True)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder of the host that is no part of the bundle."""
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "file").write_text("as it was\n")
    return folder


@pytest.mark.parametrize("options", [["rbind", "rw"], ["rbind", "ro"], ["rbind", "rro"], []])
@pytest.mark.parametrize("way", ["absolute", "relative", "link", "link above"])
def test_a_bind_of_the_hosts_folders_is_refused(
    foreign: Foreign, secret: Path, way: str, options: list[str]
) -> None:
    """Each way to write a bind of a host folder is refused; the error names `allow_binds`."""
    folder = foreign("true")
    (folder / "out").symlink_to(secret)
    (folder / "above").symlink_to(secret.parent)
    ways = {"absolute": str(secret), "relative": "../secret", "link": "out"}
    foreign("true", there(*options, source=ways.get(way, "above/secret")))
    with pytest.raises(InvalidBundle) as caught:
        Bundle.open(folder)
    access = "ro" if {"ro", "rro"} & set(options) else "rw"
    assert caught.value.problems[0].startswith("mounts[1].source: ")
    assert caught.value.problems[-1].endswith(f"allow_binds={{{str(secret)!r}: {access!r}}}")


@pytest.mark.parametrize("source", ["/etc", "/root", "/home", "/usr", "/boot", "/etc/passwd"])
@pytest.mark.parametrize("option", ["ro", "rw"])
def test_a_bind_of_the_systems_folders_is_refused(
    foreign: Foreign, source: str, option: str
) -> None:
    """A bind of a system folder is refused, for root and other users, read-only and writable."""
    with pytest.raises(InvalidBundle, match=r"mounts\[1\]\.source"):
        Bundle.open(foreign("true", there("rbind", option, source=source)))


def test_a_source_that_is_allowed_is_shown_as_allowed(
    gvisor: Gvisor, foreign: Foreign, secret: Path
) -> None:
    """An allowed source is read-only where `ro` is allowed, and writable where `rw` is allowed."""
    folder = foreign(f"busybox cat /there/file; {WRITE}", there("ro", source=str(secret)))
    done = gvisor.run_bundle(Bundle.open(folder, allow_binds={secret: "ro"}))
    assert (done.stdout, done.returncode) == ("as it was\n", 1)
    foreign(WRITE, there("rw", source=str(secret)))
    with pytest.raises(InvalidBundle, match="would write it"):
        Bundle.open(folder, allow_binds={secret: "ro"})
    with pytest.raises(InvalidBundle, match="outside of the bundle"):
        Bundle.open(folder, allow_binds={secret.parent: "rw", secret / "file": "rw"})
    gvisor.run_bundle(Bundle.open(folder, allow_binds={secret: "rw"}), check=True)
    assert (secret / "file").read_text() == "changed\n"


def test_no_allowed_bind_allows_what_is_dangerous(foreign: Foreign) -> None:
    """A bind of the host's root or of /proc needs `allow_dangerous=True`."""
    for source in ("/", "/proc"):
        folder = foreign("true", there("rbind", "ro", source=source))
        with pytest.raises(InvalidBundle, match="allow_dangerous=True"):
            Bundle.open(folder, allow_binds={source: "rw"})
        assert Bundle.open(folder, allow_dangerous=True).spec.mounts[1].source == source


def test_a_run_that_puts_a_link_in_the_place_of_a_source_gains_nothing(
    gvisor: Gvisor, foreign: Foreign, secret: Path
) -> None:
    """A bundle that was opened before is not run when its source leads out by then."""
    folder = foreign("busybox cat /there/file", there("ro", source="data/below"))
    (folder / "data/below").mkdir()
    reader = Bundle.open(folder)
    plant = f"busybox rmdir /there/below && busybox ln -s {secret} /there/below"
    gvisor.run_bundle(Bundle.open(foreign(plant, there("rw"))), check=True)
    assert (folder / "data/below/file").read_text() == "as it was\n"  # the link leads out
    with pytest.raises(LaunchError, match="has become a link since it was checked"):
        gvisor.run_bundle(reader)


@pytest.mark.parametrize("inner", ["data/below", "rootfs"])
def test_a_source_below_one_that_can_be_written_is_refused(foreign: Foreign, inner: str) -> None:
    """The sandbox could put a link there while the next one starts."""
    folder = foreign("true")
    (folder / "data/below").mkdir()
    outer = "data" if inner == "data/below" else "."
    below = {"destination": "/tmp", "type": "bind", "source": inner, "options": ["ro"]}
    mounts = [there("rw", source=outer), *([below] if inner == "data/below" else [])]
    with pytest.raises(InvalidBundle, match="could put a link in its place"):
        Bundle.open(foreign("true", *mounts))
    assert Bundle.open(folder, allow_dangerous=True).spec.mounts


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"linux": {"devices": [{"path": "/dev/nvidiactl", "type": "c"}]}},
         "linux.devices[0].path"),
        ({"linux": {"devices": [{"path": "//dev/./vfio/0", "type": "c"}]}},
         "linux.devices[0].path"),
        ({"linux": {"namespaces": [{"type": "network", "path": "/proc/1/ns/net"}]}},
         "linux.namespaces[0].path"),
        ({"mounts": [{**there("ro"), "uidMappings": [
            {"containerID": 0, "hostID": 0, "size": 1}]}]}, "mounts[0]"),
    ],
)  # fmt: skip
def test_a_field_that_reaches_the_host_is_refused(
    foreign: Foreign, changes: dict[str, Any], place: str
) -> None:
    """Drivers, namespaces and ids of the host, unless they are allowed."""
    folder = foreign("true", **changes)
    with pytest.raises(InvalidBundle) as caught:
        Bundle.open(folder)
    assert [text.split(": ")[0] for text in caught.value.problems] == [place]
    Bundle.open(folder, allow_dangerous=True)


LONG = "/a" * 2048


@pytest.mark.parametrize(
    "changes",
    [
        {"mounts": [{**there("ro"), "destination": LONG}]},
        {"mounts": [{**there("ro"), "source": LONG}]},
        {"root": {"path": LONG}},
        {"process": {"cwd": LONG}},
    ],
)
def test_no_long_path_takes_the_hosts_memory(foreign: Foreign, changes: dict[str, Any]) -> None:
    """One of 16 KiB took 120 MiB, by the square of its length. The kernel takes no such path."""
    with pytest.raises(InvalidBundle, match=r"has 409\d characters|has a path of 409\d characters"):
        Bundle.open(foreign("true", **changes), allow_dangerous=True)


def test_a_field_that_reaches_nothing_of_the_host_is_accepted(
    gvisor: Gvisor, foreign: Foreign
) -> None:
    """A cgroup's path, limits and settings of the kernel are the sandbox's own, or ignored."""
    name = "pytest-gvisor-foreign-bundle"
    linux = {
        "cgroupsPath": f"/{name}",
        "sysctl": {"kernel.hostname": "foreign"},
        "devices": [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}],
        "intelRdt": {"closID": "foreign"},
    }
    before = Path("/proc/sys/kernel/hostname").read_text()
    folder = foreign("busybox true", linux=linux)
    assert gvisor.run_bundle(Bundle.open(folder)).returncode == 0
    assert Path("/proc/sys/kernel/hostname").read_text() == before
    cgroups = Path("/sys/fs/cgroup")
    assert [*cgroups.glob(name), *cgroups.glob(f"*/{name}")] == []


def test_a_device_without_a_mode_has_that_of_runc(foreign: Foreign) -> None:
    """Releases of 2024 would end the sandbox; a mode of the bundle's own stays."""
    null = {"path": "/dev/null", "type": "c"}
    devices = [null, {**null, "fileMode": 0}]
    linux = Bundle.open(foreign("true", linux={"devices": devices})).spec.linux
    assert [device.file_mode for device in linux.devices] == [0o666, 0]


@NEEDS_CGROUPS
def test_a_limit_above_all_tasks_of_a_machine_is_none(gvisor: Gvisor, foreign: Foreign) -> None:
    """The kernel refuses such a number, so it gets the highest that it takes."""
    folder = foreign("true", linux={"resources": {"pids": {"limit": 2**63 - 1}}})
    assert gvisor.run_bundle(Bundle.open(folder)).returncode == 0


@pytest.mark.parametrize("score", [-1, 0, 999])
def test_a_bundle_does_not_choose_whom_the_hosts_oom_killer_ends(
    foreign: Foreign, score: int
) -> None:
    """Its score is left out with a note, unless all is allowed."""
    folder = foreign("true", process={"oomScoreAdj": score})
    bundle = Bundle.open(folder)
    assert bundle.spec.process.oom_score_adj is None
    assert [note for note in bundle.notes if "oomScoreAdj" in note]
    assert Bundle.open(folder, allow_dangerous=True).spec.process.oom_score_adj == score


@NEEDS_CGROUPS
@pytest.mark.parametrize("own", [{}, {"memory": {"limit": 1 << 40}, "pids": {"limit": 100_000}}])
def test_a_bundle_has_the_limits_of_its_caller(
    gvisor: Gvisor, foreign: Foreign, own: dict[str, Any]
) -> None:
    """Neither without limits nor by higher ones of its own does it take more memory or tasks."""
    script = "busybox dd if=/dev/zero of=/x bs=1M count=300"
    linux = {"resources": own} if own else {}
    done = gvisor.run_bundle(Bundle.open(foreign(script, linux=linux)), memory="100M", pids=100)
    assert (done.outcome, done.returncode) == (Outcome.OUT_OF_MEMORY, -9)
    with pytest.raises(UsageError, match="pids=10 is too few"):
        gvisor.run_bundle(Bundle.open(foreign("true", linux=linux)), pids=10)


@NEEDS_CGROUPS
def test_a_bundle_keeps_a_limit_that_is_lower_than_its_callers(
    gvisor: Gvisor, foreign: Foreign
) -> None:
    """The lower one of two limits holds."""
    linux = {"resources": {"memory": {"limit": 100 << 20}}}
    folder = foreign("busybox dd if=/dev/zero of=/x bs=1M count=300", linux=linux)
    done = gvisor.run_bundle(Bundle.open(folder), memory="2G")
    assert done.outcome is Outcome.OUT_OF_MEMORY


@pytest.mark.parametrize("name", ["image", "project", "shm"])
def test_a_setting_that_a_bundle_cannot_have_is_refused(
    gvisor: Gvisor, foreign: Foreign, name: str
) -> None:
    """The error names it, for a bundle has its own."""
    given: Any = {name: "1M"}
    with pytest.raises(UsageError, match=f"{name} is not for a bundle"):
        gvisor.run_bundle(Bundle.open(foreign("true")), **given)


def test_a_bundle_sees_no_session_in_what_it_may_see(
    gvisor: Gvisor, foreign: Foreign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that holds the folder of the sessions shows that one empty."""
    held = tmp_path / "held/pytest-gvisor"
    held.mkdir(parents=True)
    (held / "secret").write_text("of another run\n")
    monkeypatch.setattr(places, "session_bases", lambda: iter([str(held)]))
    mount = {**there("rbind", "ro", source=str(tmp_path / "held")), "destination": "//there/"}
    folder = foreign("busybox ls -A /there /there/pytest-gvisor", mount)
    bundle = Bundle.open(folder, allow_binds={str(tmp_path / "held"): "ro"})
    done = gvisor.run_bundle(bundle)
    assert (done.stdout, done.stderr) == ("/there:\npytest-gvisor\n\n/there/pytest-gvisor:\n", "")


def test_no_bundle_takes_away_what_hides_a_session(
    gvisor: Gvisor, foreign: Foreign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CAP_SYS_ADMIN it could unmount that, or mount the folder above elsewhere."""
    held = tmp_path / "held/pytest-gvisor"
    held.mkdir(parents=True)
    (held / "secret").write_text("of another run\n")
    monkeypatch.setattr(places, "session_bases", lambda: iter([str(held)]))
    mount = there("rbind", "ro", source=str(tmp_path / "held"))
    sets = ("bounding", "effective", "permitted")
    folder = foreign(
        """busybox mount -o bind /there /tmp; busybox cat /tmp/pytest-gvisor/secret
        busybox umount /there/pytest-gvisor; busybox cat /there/pytest-gvisor/secret""",
        mount, process={"capabilities": {name: ["CAP_SYS_ADMIN"] for name in sets}},
    )  # fmt: skip
    with pytest.raises(InvalidBundle, match="CAP_SYS_ADMIN can uncover them"):
        Bundle.open(folder, allow_binds={str(tmp_path / "held"): "ro"})
    done = gvisor.run_bundle(Bundle.open(folder, allow_dangerous=True))
    assert done.stdout == 2 * "of another run\n"


@pytest.mark.parametrize("kind", ["mqueue", "devtmpfs"])
def test_no_mount_of_a_bundle_is_in_the_place_of_what_hides_a_session(
    gvisor: Gvisor, foreign: Foreign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """runsc passes over mounts of some kinds, and a file system in memory would be there."""
    held = tmp_path / "held/pytest-gvisor"
    held.mkdir(parents=True)
    (held / "secret").write_text("of another run\n")
    monkeypatch.setattr(places, "session_bases", lambda: iter([str(held)]))
    over = {"destination": "/there/pytest-gvisor", "type": kind, "source": kind}
    mount = there("rbind", "ro", source=str(tmp_path / "held"))
    folder = foreign("busybox cat /there/pytest-gvisor/secret", mount, over)
    bundle = Bundle.open(folder, allow_binds={str(tmp_path / "held"): "ro"})
    with pytest.raises(InvalidBundle, match='"/there/pytest-gvisor" is there twice'):
        gvisor.run_bundle(bundle)


STEERS = {
    "dev.gvisor.flag.network": "host",
    "dev.gvisor.flag.host-uds": "all",
    "dev.gvisor.spec.rootfs.source": "SECRET",
    "dev.gvisor.spec.mount.there.source": "SECRET",
    "dev.gvisor.spec.mount.there.type": "bind",
    "dev.gvisor.tar.rootfs.upper": "SECRET/file",
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri-o.SandboxID": "x",
}


def test_no_annotation_shows_a_file_or_steers_runsc(
    gvisor: Gvisor, foreign: Foreign, secret: Path
) -> None:
    """Hints for roots, mounts and flags are dropped, and a note counts them."""
    hints = {name: value.replace("SECRET", str(secret)) for name, value in STEERS.items()}
    script = "busybox ls /there /proc/net/dev; busybox grep -c : /proc/net/dev"
    bundle = Bundle.open(foreign(script, there(kind="tmpfs", source="x"), annotations=hints))
    done = gvisor.run_bundle(bundle)
    assert done.stdout == "/proc/net/dev\n\n/there:\n1\n"
    assert "and 3 more: they steer runsc itself" in str(bundle.notes)  # of eight


@pytest.mark.parametrize("kind", ["BIND", "erofs", "overlay", "9p", "fuse", "gofer", "ext4"])
def test_no_other_kind_of_mount_reads_a_file_of_the_host(
    foreign: Foreign, secret: Path, kind: str
) -> None:
    """Only bind mounts have a source on the host; `erofs` and others are no kinds of a bundle."""
    with pytest.raises(InvalidBundle, match=f"unknown mount type {kind}"):
        Bundle.open(foreign("true", there("ro", kind=kind, source=str(secret / "file"))))


@NEEDS_ROOT
@pytest.mark.parametrize("path", ["/NAME", "NAME", "../NAME", "/NAME/../NAME", "/NAME/below"])
def test_a_cgroup_of_the_host_is_neither_joined_nor_removed(
    gvisor: Gvisor, foreign: Foreign, path: str
) -> None:
    """A bundle names a cgroup, and limits: the limits are of a cgroup of its own."""
    name = f"attacked-{os.getpid()}"
    root = next(folder for folder in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))
                if (folder / "cgroup.procs").exists())  # fmt: skip
    (root / name).mkdir()
    try:
        before = (root / name / "pids.max").read_text() if root.name == "pids" else ""
        limits = {"pids": {"limit": 120}}
        linux = {"cgroupsPath": path.replace("NAME", name), "resources": limits}
        assert gvisor.run_bundle(Bundle.open(foreign("exit 7", linux=linux))).returncode == 7
        assert (root / name).is_dir()
        assert [child.name for child in (root / name).iterdir() if child.is_dir()] == []
        if before:
            assert (root / name / "pids.max").read_text() == before
    finally:
        (root / name).rmdir()


def test_no_bundle_is_another_folder_when_its_configuration_has_been_read(
    foreign: Foreign, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may rename its folder could put a link to ``/`` there, and all would be its own."""
    moved = secret.with_name("moved")
    root = {"path": f"{moved}/rootfs"[1:]}
    folder = foreign(WRITE, there("rw", source=str(secret)[1:]), root=root)

    def exchanged(data: bytes, where: str) -> object:
        folder.rename(moved)
        folder.symlink_to("/")
        return reader.load(data, where=where)

    monkeypatch.setattr(bundles, "load", exchanged)
    with pytest.raises(InvalidBundle, match=r"root\.path: .* is not inside the bundle"):
        Bundle.open(folder)


def test_no_other_folder_is_written_than_the_one_that_allow_binds_has(
    foreign: Foreign, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may rename the source could put a link to the allowed one there for a moment."""
    source, moved = (secret.with_name(name) for name in ("turned", "moved"))
    source.mkdir()
    folder = foreign(WRITE, there("rw", source=str(source)))
    canonical = host_paths.canonical

    def turned(path: str, **options: bool) -> str:
        if path != str(source):
            return canonical(path, **options)
        source.rename(moved)
        source.symlink_to(secret)
        try:
            return canonical(path, **options)
        finally:
            source.unlink()
            moved.rename(source)

    monkeypatch.setattr(host_paths, "canonical", turned)
    with pytest.raises(InvalidBundle, match=r"allow_binds=\{'.*/turned': 'rw'\}"):
        Bundle.open(folder, allow_binds={secret: "rw"})


def test_a_bundle_that_changes_while_it_is_read_is_refused(foreign: Foreign) -> None:
    """Its source is now a folder and now a link: each open ends, or is an `InvalidBundle`."""
    folder = foreign("true", there("bind", "ro"))
    (folder / "turned").symlink_to("rootfs")
    turn = (  # 2 is RENAME_EXCHANGE, -100 AT_FDCWD
        "import ctypes, os, sys\nold, new = map(os.fsencode, sys.argv[1:])\n"
        "while True:\n    ctypes.CDLL(None).renameat2(-100, old, -100, new, 2)"
    )
    names = [folder / "data", folder / "turned"]
    with subprocess.Popen([sys.executable, "-c", turn, *names]) as turning:
        try:
            end = time.monotonic() + 4
            while time.monotonic() < end:
                with contextlib.suppress(InvalidBundle):
                    Bundle.open(folder)
        finally:
            turning.kill()
