"""Cgroups: found in every layout of the hierarchies, made with the limits, or refused."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Usage
from pytest_gvisor.base.errors import LaunchError
from pytest_gvisor.programs import proc
from pytest_gvisor.run import cgroup
from pytest_gvisor.run.cgroup import Cgroups, Hierarchy, Limits, measured
from tests.faults.little import eventually

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made")

V1 = """\
25 1 0:22 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory
26 1 0:23 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
27 1 0:24 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
28 1 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
29 1 8:1 / / rw,relatime - ext4 /dev/sda rw
"""
V1_OWN = "4:memory:/user\n3:cpu,cpuacct:/\n2:pids:/user/x\n1:name=systemd:/init\n0::/\n"


class Host:
    """A host of which /proc/self/cgroup and mountinfo say something else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        for module in (cgroup, proc):
            monkeypatch.setattr(module, "open", self._open, raising=False)

    def says(self, mounts: str, own: str) -> None:
        """Write the two files; ``FOLDER`` stands for a folder of the test's."""
        (self.folder / "mountinfo").write_text(mounts.replace("FOLDER", str(self.folder)))
        (self.folder / "cgroup").write_text(own)

    def _open(self, path: str, *arguments: Any, **options: Any) -> Any:
        if path.startswith("/proc/self/"):
            path = str(self.folder / os.path.basename(path))
        return open(path, *arguments, **options)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    """A host with its own story."""
    return Host(monkeypatch, tmp_path)


def test_version_1_has_a_hierarchy_a_controller(host: Host) -> None:
    """Each with a place of this process's own."""
    host.says(V1, V1_OWN)
    found = cgroup.hierarchies()
    assert found["memory"] == Hierarchy(version=1, mount="/sys/fs/cgroup/memory", own="/user")
    assert found["pids"] == Hierarchy(version=1, mount="/sys/fs/cgroup/pids", own="/user/x")
    assert found["cpu"].mount == "/sys/fs/cgroup/cpu,cpuacct"


def test_version_2_has_one_for_all(host: Host) -> None:
    """The file of version 2 lists the controllers of its single hierarchy."""
    (host.folder / "cgroup.controllers").write_text("cpu memory pids\n")
    host.says("30 1 0:26 / FOLDER rw - cgroup2 cgroup2 rw\n", "0::/a/b\n")
    both = Hierarchy(version=2, mount=str(host.folder), own="/a/b")
    assert cgroup.hierarchies() == {"cpu": both, "memory": both, "pids": both}


@pytest.mark.parametrize(
    ("root", "own", "below"),
    [
        ("/docker/x", "/docker/x", "/"),
        ("/docker/x", "/docker/x/y", "/y"),
        ("/docker/x", "/docker/xy", "/docker/xy"),
        ("/a\\134x2db\\040c", "/a\\x2db c/d", "/d"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_in_a_container_the_mount_may_begin_at_its_own_cgroup(
    host: Host, version: int, root: str, own: str, below: str
) -> None:
    """The files have whole paths in the host's cgroup namespace, which mountinfo escapes."""
    (host.folder / "cgroup.controllers").write_text("memory\n")
    mount = f"25 1 0:22 {root} FOLDER rw - cgroup cgroup rw,memory\n"
    if version == 2:
        mount = f"25 1 0:22 {root} FOLDER rw - cgroup2 cgroup2 rw\n"
    host.says(mount, f"4:memory:{own}\n" if version == 1 else f"0::{own}\n")
    expected = Hierarchy(version=version, mount=str(host.folder), own=below)
    assert cgroup.hierarchies() == {"memory": expected}


@pytest.mark.fault("G7")
def test_in_a_hybrid_a_controller_is_where_it_is_mounted(host: Host) -> None:
    """Version 2 has only the controllers that version 1 does not have."""
    (host.folder / "cgroup.controllers").write_text("hugetlb\n")
    host.says(f"30 1 0:26 / FOLDER rw - cgroup2 cgroup2 rw\n{V1}", V1_OWN)
    versions = {name: hierarchy.version for name, hierarchy in cgroup.hierarchies().items()}
    assert versions["hugetlb"] == 2
    assert versions["memory"] == versions["pids"] == 1


@pytest.mark.fault("G7")
def test_a_host_without_cgroups_has_no_hierarchy(host: Host) -> None:
    """A version 2 without controllers has no hierarchy either."""
    host.says("29 1 8:1 / / rw,relatime - ext4 /dev/sda rw\n", "0::/\n")
    assert cgroup.hierarchies() == {}
    host.says("30 1 0:26 / /nowhere rw - cgroup2 cgroup2 rw\n", "0::/\n")
    assert cgroup.hierarchies() == {}


def ignore(_path: str) -> None:
    """Nobody wants to know."""


@pytest.mark.fault("G7")
@pytest.mark.parametrize(
    ("limits", "controller"),
    [({"memory": 2**28}, "memory"), ({"pids": 100}, "pids"), ({"cpu": 0.5}, "cpu")],
)
def test_a_limit_without_its_controller_is_refused(
    host: Host, limits: Limits, controller: str
) -> None:
    """A limit is never silently left out."""
    host.says("29 1 8:1 / / rw,relatime - ext4 /dev/sda rw\n", "0::/\n")
    with pytest.raises(LaunchError, match=f"the {controller} limit cannot be set") as caught:
        cgroup.create(limits, ignore)
    assert caught.value.stage == "cgroup"


def test_no_limit_needs_no_cgroup(host: Host) -> None:
    """A run without a limit looks at no cgroup."""
    made = cgroup.create({}, ignore)
    with made.descriptors() as fds:
        assert (made.folders, fds) == ([], [])
    assert (made.oom_kills(), made.refused_tasks()) == (0, 0)
    made.remove()


def test_version_2_is_written_beside_this_process(host: Host) -> None:
    """The parent's controllers are switched on, and the files have version 2's names."""
    parent = host.folder / "a"
    (parent / "b").mkdir(parents=True)
    (host.folder / "cgroup.controllers").write_text("cpu memory pids\n")
    (parent / "cgroup.subtree_control").write_text("")
    host.says("30 1 0:26 / FOLDER rw - cgroup2 cgroup2 rw\n", "0::/a/b\n")
    announced: list[str] = []

    def prepare(path: str) -> None:
        announced.append(path)
        assert not os.path.exists(path)

    made = Made(prepare, ("memory.max", "memory.swap.max", "pids.max", "cpu.max"))
    found = made.create({"memory": 2**28, "pids": 7, "cpu": 0.25})
    assert found.folders == announced
    (folder,) = found.folders
    assert os.path.dirname(folder) == str(parent)
    assert os.path.basename(folder).startswith("pytest-gvisor-")
    read = {name: Path(folder, name).read_text() for name in made.files}
    assert read == {
        "memory.max": str(2**28), "memory.swap.max": "0", "pids.max": "7",
        "cpu.max": "25000 100000",
    }  # fmt: skip
    # A real file keeps what is written over; each controller was written in its turn.
    assert (parent / "cgroup.subtree_control").read_text() == "+cpusry"


class Made:
    """A maker of cgroups in a plain folder, with files as the kernel makes them."""

    def __init__(self, announce: Callable[[str], None], files: tuple[str, ...]) -> None:
        self.announce = announce
        self.files = files

    def create(self, limits: Limits) -> Cgroups:
        """`cgroup.create` there."""
        real = os.mkdir

        def mkdir(path: str, mode: int = 0o777) -> None:
            real(path, mode)
            for name in self.files:
                Path(path, name).touch()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "mkdir", mkdir)
            return cgroup.create(limits, self.announce)


def test_version_1_without_swap_accounting_has_a_limit_all_the_same(host: Host) -> None:
    """The file for memory with swap is not on every kernel."""
    host.says("25 1 0:22 / FOLDER rw - cgroup cgroup rw,memory\n", "4:memory:/\n")
    (folder,) = Made(ignore, ("memory.limit_in_bytes",)).create({"memory": 5000}).folders
    assert Path(folder, "memory.limit_in_bytes").read_text() == "5000"
    assert os.listdir(folder) == ["memory.limit_in_bytes"]


def test_a_tiny_share_of_a_processor_is_the_smallest_there_is(host: Host) -> None:
    """The kernel takes no quota below a millisecond."""
    host.says("25 1 0:22 / FOLDER rw - cgroup cgroup rw,cpu\n", "4:cpu:/\n")
    names = ("cpu.cfs_period_us", "cpu.cfs_quota_us")
    (folder,) = Made(ignore, names).create({"cpu": 0.0001}).folders
    assert [Path(folder, name).read_text() for name in names] == ["100000", "1000"]


@pytest.mark.fault("G7")
def test_a_limit_that_the_kernel_refuses_is_typed_and_leaves_nothing(host: Host) -> None:
    """The error has the kernel's errno, and the new folder is removed."""
    host.says("25 1 0:22 / FOLDER rw - cgroup cgroup rw,memory\n", "4:memory:/\n")
    with pytest.raises(LaunchError, match="memory limit cannot be set") as caught:
        Made(ignore, ()).create({"memory": 5000})
    assert caught.value.errno == errno.ENOENT
    assert not [name for name in os.listdir(host.folder) if name.startswith("pytest-gvisor")]


def test_a_journal_that_cannot_be_written_makes_no_cgroup(host: Host) -> None:
    """A cgroup without an entry in the journal would never be removed, so none is made."""
    host.says("25 1 0:22 / FOLDER rw - cgroup cgroup rw,memory\n", "4:memory:/\n")

    def refuse(_path: str) -> None:
        raise LaunchError("session_folder", "no journal")

    with pytest.raises(LaunchError, match="no journal"):
        Made(refuse, ("memory.limit_in_bytes",)).create({"memory": 5000})
    assert not [name for name in os.listdir(host.folder) if name.startswith("pytest-gvisor")]


@pytest.mark.parametrize(
    ("name", "text", "kills"),
    [
        ("memory.events", "low 0\noom 3\noom_kill 2\n", 2),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n", 5),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", 0),
    ],
)
def test_kills_by_the_memory_controller_are_counted(
    tmp_path: Path, name: str, text: str, kills: int
) -> None:
    """Both versions' files have the count; a kernel older than 4.13 has none."""
    (tmp_path / name).write_text(text)
    made = Cgroups()
    made.places = {"memory": str(tmp_path)}
    assert made.oom_kills() == kills


def test_without_a_limit_nothing_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the test's working folder does not count."""
    (tmp_path / "memory.events").write_text("oom_kill 7\n")
    (tmp_path / "pids.events").write_text("max 7\n")
    monkeypatch.chdir(tmp_path)
    assert (Cgroups().oom_kills(), Cgroups().refused_tasks()) == (0, 0)


@pytest.mark.parametrize(
    ("files", "refused"),
    [
        ({"pids.max": "80", "pids.events": "max 7"}, 7),
        ({"pids.max": "80", "pids.events": "max 7", "pids.peak": "80"}, 7),
        ({"pids.max": "80", "pids.events": "max 7", "pids.peak": "79"}, 0),
        ({"pids.max": "80", "pids.events": "max 0", "pids.peak": "80"}, 0),
        ({"pids.max": "80"}, 0),
    ],
)
def test_tasks_that_its_own_limit_refuses_are_counted(
    tmp_path: Path, files: dict[str, str], refused: int
) -> None:
    """A kernel may count what a limit above refuses too: then the peak is below this limit."""
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    made = Cgroups()
    made.places = {"pids": str(tmp_path)}
    assert made.refused_tasks() == refused


def test_descriptors_are_all_or_none(tmp_path: Path) -> None:
    """A descriptor that cannot be opened is a typed error, and the others are closed."""
    (tmp_path / "cgroup.procs").touch()
    before = set(os.listdir("/proc/self/fd"))
    made = Cgroups()
    made.folders = [str(tmp_path), str(tmp_path), str(tmp_path / "nowhere")]
    with pytest.raises(LaunchError) as caught, made.descriptors():
        pass
    assert (caught.value.stage, caught.value.errno) == ("cgroup", errno.ENOENT)
    assert set(os.listdir("/proc/self/fd")) == before


def test_version_1_counts_what_it_does_not_limit(host: Host) -> None:
    """One limit is enough for all figures, and a controller that cannot count is left out."""
    for name in ("memory", "pids", "cpuacct"):
        (host.folder / name).mkdir()
    mounts = "".join(
        f"25 1 0:22 / FOLDER/{name} rw - cgroup cgroup rw,{name}\n"
        for name in ("memory", "pids", "cpuacct")
    )
    host.says(mounts, "4:memory:/\n3:pids:/\n2:cpuacct:/nowhere\n")
    made = Made(ignore, ("pids.max",)).create({"pids": 9})
    assert sorted(made.places) == ["memory", "pids"]
    assert sorted(made.places.values()) == sorted(made.folders)
    assert [Path(folder, "pids.max").read_text() for folder in made.folders] == ["9", ""]


@pytest.fixture
def real() -> Iterator[Cgroups]:
    """Real cgroups with all limits."""
    made = cgroup.create({"memory": 2**28, "pids": 50, "cpu": 1.5}, ignore)
    yield made

    def are_removed() -> bool:
        made.remove()
        return not any(map(os.path.exists, made.folders))

    # The kernel takes its last process out of a cgroup a moment after a parent has seen it end.
    assert eventually(are_removed) is not None


@needs_root
def test_a_child_joins_by_descriptor(real: Cgroups, alone: Callable[..., Any]) -> None:
    """Writing 0 moves the writer itself; the kernel says that it is there."""
    inside = alone(
        """
        for folder in folders:
            fd = os.open(folder + "/cgroup.procs", os.O_WRONLY)
            os.write(fd, b"0")
        result = open("/proc/self/cgroup").read()
        """,
        folders=real.folders,
    )
    for folder in real.folders:
        assert f"/{os.path.basename(folder)}\n" in inside
    with real.descriptors() as fds:
        assert len(fds) == len(real.folders)
    assert (real.oom_kills(), real.refused_tasks()) == (0, 0)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {
                "memory": {"memory.peak": "5000\n"},
                "pids": {"pids.peak": "12\n"},
                "cpu": {"cpu.stat": "usage_usec 2500000\nuser_usec 1\nsystem_usec 2\n"},
            },
            Usage(cpu_time=2.5, peak_memory=5000, peak_tasks=12),
        ),
        (
            {
                "memory": {"memory.max_usage_in_bytes": "7\n"},
                "cpu": {"cpu.stat": "nr_periods 5\nnr_throttled 0\nthrottled_time 0\n"},
                "cpuacct": {"cpuacct.usage": "1500000000\n"},
            },
            Usage(cpu_time=1.5, peak_memory=7),
        ),
        ({"memory": {"memory.peak": "max\n"}, "pids": {"pids.peak": ""}}, Usage()),
        ({"memory": {}}, Usage()),
        ({}, Usage()),
    ],
    ids=["version 2", "version 1", "no numbers", "no files", "no cgroup"],
)  # fmt: skip
def test_each_figure_is_of_the_file_that_is_there_or_none(
    tmp_path: Path, files: dict[str, dict[str, str]], expected: Usage
) -> None:
    """The files differ between the versions; what no file has is None."""
    for controller, content in files.items():
        (tmp_path / controller).mkdir()
        for name, text in content.items():
            (tmp_path / controller / name).write_text(text)
    assert measured({name: str(tmp_path / name) for name in files}) == expected
