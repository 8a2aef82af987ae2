import os
import socket
import stat
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.oci.mounts import (
    bind,
    covers,
    danger,
    mounts_of,
    parse_mount,
    parse_size,
    shows_devices,
    tmpfs,
)
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.oci.vocabulary import MountType
from pytest_gvisor.programs.proc import IdRange
from pytest_gvisor.sessions import places, session_folder

DANGEROUS = [
    "/", "//", "/proc", "/proc/self", "/sys", "/sys/fs", "/dev", "/dev/null", "/run", "/var/run",
    "/var", "/tmp/..",
]  # fmt: skip


@pytest.mark.fault("B6")
@pytest.mark.parametrize("source", DANGEROUS)
def test_what_would_hand_over_the_host_is_refused(source: str) -> None:
    """The host's root, kernel folders and runtime folder are refused unless named as dangerous."""
    with pytest.raises(UsageError, match="refusing to mount"):
        bind(source, "/data")
    assert bind(source, "/data", dangerous=True).source == os.path.realpath(source)


ENGINES = [
    "/run/docker.sock", "/run/containerd", "/run/containerd/containerd.sock",
    "/run/podman/podman.sock", "/run/crio/crio.sock", "/var/lib/docker/overlay2",
    "/run/user/1000/docker.sock", "/run/user/1000/podman/podman.sock", "/run/user/1000",
    "/run/user", "/var/lib", "/run/pytest-gvisor", "/run/pytest-gvisor/s1/state",
]  # fmt: skip


@pytest.mark.fault("B6")
@pytest.mark.parametrize("source", ENGINES)
def test_sockets_of_engines_and_session_folders_are_dangerous(source: str) -> None:
    """A path of a container engine, or of this package's sessions, is dangerous."""
    assert danger(source)


@pytest.mark.fault("B6")
def test_what_may_hold_session_folders_is_not_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workload could rewrite the bundles there, also of a session with another environment, which
    takes a later candidate."""
    kept = (str(tmp_path / "first/pytest-gvisor"), str(tmp_path / "later/pytest-gvisor-1"))
    monkeypatch.setattr(places, "session_bases", lambda: iter(kept))
    for name in ("first", "later", "."):
        source = tmp_path / name
        source.mkdir(exist_ok=True)
        with pytest.raises(UsageError, match="holds session folders of pytest-gvisor"):
            bind(source, "/data", readonly=False)
        assert "rw" in bind(source, "/data", readonly=False, dangerous=True).options
        assert "ro" in bind(source, "/data").options


@pytest.mark.fault("B6")
@pytest.mark.parametrize(
    "source", ["/usr", "/usr/local", "/usr/local/bin", "/usr/bin", "/opt/gvisor/gvisor-bin", "/opt"]
)
def test_where_runsc_is_looked_for_is_not_to_be_written(source: str) -> None:
    """A workload that runs as root could put a runsc there, or a sentry beside one."""
    assert "holds runsc" in danger(source, writable=True)
    assert not danger(source)


@pytest.mark.fault("B6")
def test_a_runsc_that_was_found_is_not_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The binary, the folder beside it, its files and its parents cannot be bound writable."""
    monkeypatch.setattr(places, "_found", set())
    binary = tmp_path / "tools" / "runsc"
    sentry = tmp_path / "tools" / "gvisor-bin" / "gvisor_sentry"
    sentry.parent.mkdir(parents=True)
    for path in (binary, sentry):
        path.touch()
    assert "rw" in bind(tmp_path, "/data", readonly=False).options
    places.note_runsc(str(binary))
    for source in (binary, sentry, sentry.parent, binary.parent, tmp_path):
        with pytest.raises(UsageError, match="holds runsc"):
            bind(source, "/data", readonly=False)
        assert "rw" in bind(source, "/data", readonly=False, dangerous=True).options
        assert "ro" in bind(source, "/data").options
    (tmp_path / "tools" / "other").mkdir()
    assert "rw" in bind(tmp_path / "tools" / "other", "/data", readonly=False).options


@pytest.mark.fault("B6")
@pytest.mark.parametrize("temporary", ["/var/tmp", "/var/tmp/" + "y" * 40])
def test_the_session_folders_of_a_user_namespace_are_dangerous(
    temporary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folders have the outer id, and are in /tmp if the temporary folder is too long."""
    ids = IdRange(inside=os.geteuid(), outside=4242, size=1)
    monkeypatch.setattr(places, "id_map", lambda: (ids,))
    monkeypatch.setattr(places, "SYSTEM_BASE", "/nowhere/pytest-gvisor")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: temporary)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    base = session_folder.base_folder()
    try:
        assert base == f"{'/tmp' if 'y' in temporary else temporary}/pytest-gvisor-4242"
        assert danger(base)
        assert danger(f"{base}/s-0123456789ab/journal")
    finally:
        os.rmdir(base)


def test_a_link_in_the_place_of_the_session_folders_stands_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user can make one in /tmp, and no folder that it leads to is refused for it."""
    link, home = tmp_path / "link", tmp_path / "home"
    home.mkdir()
    link.symlink_to(home)
    monkeypatch.setattr(places, "session_bases", lambda: iter([str(link)]))
    assert "rw" in bind(home, "/data", readonly=False).options
    assert danger(str(link))
    found = covers("/none", [bind(tmp_path, "/p")])
    assert "/p/link" not in [mount.destination for mount in found]


@pytest.mark.parametrize("source", ["/usr", "/srv/run", "/runner", "/devices", "/opt/proc", "/etc"])
def test_other_folders_are_not(source: str) -> None:
    """A path that only looks alike is not refused."""
    assert danger(source) == ""


def test_session_folders_in_what_is_mounted_are_covered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is, by whichever mount or root it is seen, unless another mount hides it already."""
    base = tmp_path / f"a/b/pytest-gvisor-{places.outer_uid()}"
    base.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(base.parent))

    def covered(root: str, *mounts: Mount) -> list[str]:
        found = covers(root, mounts)
        assert all(mount.type is MountType.TMPFS and "ro" in mount.options for mount in found)
        return sorted(mount.destination for mount in found if str(base.name) in mount.destination)

    name = base.name
    project, part = bind(tmp_path, "/p"), bind(tmp_path / "a", "/p/c")
    assert covered("/none", project, part) == [f"/p/a/b/{name}", f"/p/c/b/{name}"]
    assert covered(str(tmp_path)) == [f"/a/b/{name}"]
    assert covered("/none", project, tmpfs("/p/a")) == []
    assert covered("/none", project, bind(tmp_path / "a/b", "/p/a/b")) == [f"/p/a/b/{name}"]
    assert covered("/none", bind(base, "/s", dangerous=True)) == []
    base.rmdir()
    assert covered("/none", project) == []


def test_links_are_resolved_before_judging(tmp_path: Path) -> None:
    """A link to a refused folder is refused, and the message says where it leads."""
    link = tmp_path / "harmless"
    link.symlink_to("/proc")
    with pytest.raises(UsageError, match="really"):
        bind(link, "/data", follow=True)


def test_a_link_is_mounted_as_what_it_leads_to(tmp_path: Path) -> None:
    """The mount's source is the checked real path, not the link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert bind(tmp_path / "link", tmp_path, follow=True).destination == str(tmp_path)
    made = bind(tmp_path / "link", "/data//x/", follow=True)
    assert made.source == str(tmp_path / "real")
    assert made.destination == "/data/x"
    assert made.type is MountType.BIND
    assert "ro" in made.options
    assert "rw" in bind(tmp_path, "/data", readonly=False).options


@pytest.mark.fault("B6")
def test_a_source_that_cannot_be_used_is_a_usage_error(tmp_path: Path) -> None:
    """A missing source, a loop of links, a NUL byte: typed, with the reason."""
    (tmp_path / "loop").symlink_to("loop")
    for source in (tmp_path / "missing", tmp_path / "loop", "a\0b"):
        with pytest.raises(UsageError, match="cannot mount"):
            bind(source, "/data", dangerous=True, follow=True)


@pytest.mark.fault("B6")
def test_sockets_and_fifos_are_refused(tmp_path: Path) -> None:
    """A socket or FIFO is a way to a process of the host: only as dangerous."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name in ("fifo", "socket"):
            with pytest.raises(UsageError, match=f"(?i)it is a {name}"):
                bind(tmp_path / name, "/data")
            assert bind(tmp_path / name, "/data", dangerous=True).source


@pytest.mark.parametrize(
    ("kind", "has"),
    [(stat.S_IFCHR, True), (stat.S_IFBLK, True), (stat.S_IFREG, False), (stat.S_IFDIR, False)],
)
def test_a_device_is_known_by_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int, *, has: bool
) -> None:
    """A mount with nodev shows no device, because the kernel opens none there."""
    source = str(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda *_, **__: SimpleNamespace(st_mode=kind))
        found = shows_devices(source)
    assert found is has


def test_the_host_s_devices_are_at_its_root_and_in_dev(tmp_path: Path) -> None:
    """A missing path shows no device."""
    assert [shows_devices(path) for path in ("/", "/dev", "/dev/pts/0")] == [True] * 3
    assert [shows_devices(path) for path in (str(tmp_path / "x"), "a\0b", "/devices")] == [
        False
    ] * 3


@pytest.mark.fault("B5")
@pytest.mark.parametrize(
    "target", ["", "data", "/", "//", "/../x", "/a/..", "/proc", "/proc/1", "/\0"]
)
def test_a_destination_that_cannot_be_meant_is_refused(target: str) -> None:
    """A destination is absolute, has no '..', is not the root and not the sandbox's own proc."""
    with pytest.raises(UsageError, match="destination"):
        bind("/usr", target)
    with pytest.raises(UsageError, match="destination"):
        tmpfs(target)


def test_a_tmpfs_has_mode_and_size() -> None:
    """The mode is octal and the size is in bytes."""
    assert tmpfs("/x").options == ("nosuid", "nodev", "mode=1777")
    assert tmpfs("/x", size="64M", mode=0o700).options[2:] == ("mode=0700", "size=67108864")
    assert [tmpfs("/x", mode=mode).options[2] for mode in (0, 0o7777)] == ["mode=0000", "mode=7777"]
    for mode in (-1, 0o10000):
        with pytest.raises(UsageError):
            tmpfs("/x", mode=mode)


@pytest.mark.parametrize(
    ("written", "readonly", "target"),
    [("/usr:/x", True, "/x"), ("/usr:/x:ro", True, "/x"), ("{0}:/x/y:rw", False, "/x/y")],
)
def test_a_text_is_a_bind(tmp_path: Path, written: str, target: str, *, readonly: bool) -> None:
    """docker's users write such texts. Without a mode, the mount is for reading."""
    written = written.format(tmp_path)
    source, _, rest = written.partition(":")
    made = bind(source, target, readonly=readonly)
    assert mounts_of([written]) == mounts_of({source: rest}) == (made,)
    assert mounts_of({Path(source): Path(rest)}) == (parse_mount(written),) == (made,)


def test_a_text_names_a_dangerous_source_as_such() -> None:
    """The mount is for reading and writing, as with `bind` and both settings."""
    (made,) = mounts_of(["/proc:/x:dangerous"])
    assert made == bind("/proc", "/x", readonly=False, dangerous=True)
    for mode in ("", ":ro", ":rw"):
        with pytest.raises(UsageError, match="refusing to mount"):
            mounts_of([f"/proc:/x{mode}"])


def test_only_a_mount_of_devices_opens_any() -> None:
    """Such a source has to be named as dangerous."""
    assert bind("/usr", "/x").options == ("rbind", "ro", "nosuid", "nodev")
    devices = bind("/dev/null", "/x", readonly=False, dangerous=True)
    assert devices.options == ("rbind", "rw", "nosuid")


def test_mounts_of_all_kinds_are_in_one_list() -> None:
    """Also in an iterator."""
    memory = tmpfs("/m")
    assert mounts_of(iter([memory, "/usr:/x"])) == (memory, bind("/usr", "/x"))
    assert mounts_of([]) == mounts_of({}) == ()


@pytest.mark.parametrize(
    "given",
    ["/usr:/x", b"/usr:/x", 7, None, ["/usr"], [":/x"], ["/usr:"], ["/usr:/x:"], ["/usr:/x:wo"],
     ["/usr:/x:y:ro"], ["/usr::ro"], [7], {"/usr": 7}, {7: "/x"}, {"": "/x"}, {"/usr": ""}],
)  # fmt: skip
def test_what_is_no_list_of_mounts_is_refused(given: object) -> None:
    """The error has an example."""
    with pytest.raises(UsageError, match=r"(?s)mounts.* is not .*\nWrite mounts="):
        mounts_of(given)


def test_sizes() -> None:
    """A size is a number of bytes, or text with a multiple of 1024 such as `M`."""
    assert [parse_size(size) for size in (1, "1", "2", "3k", "4KiB", "5 MB", "1G")] == [
        1, 1, 2, 3072, 4096, 5 << 20, 1 << 30,
    ]  # fmt: skip
    assert [parse_size(size) for size in ("2T", "8388607T", 2**63 - 1)] == [
        2 << 40, 8388607 << 40, 2**63 - 1,
    ]  # fmt: skip
    wrong_ones = (
        0, -1, 2**63, "8388608T", True, "", "M", "1.5M", "1X", "-1", "9999999999999T", "1\n",
    )  # fmt: skip
    for wrong in wrong_ones:
        with pytest.raises(UsageError):
            parse_size(wrong)
