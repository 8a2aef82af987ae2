"""Limits of sandboxes: those that follow the host's, the memory that is shown, and tasks."""

import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_gvisor.base.errors import LaunchError, UsageError
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.programs.sources import Source
from pytest_gvisor.run import limits

GIB = 1 << 30


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose /dev/shm has 1 GiB."""
    found = SimpleNamespace(f_blocks=GIB // 4096, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    monkeypatch.setattr(os.path, "ismount", lambda _: True)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        (Settings(), GIB),
        (Settings(memory="256M"), GIB // 4),
        (Settings(memory="8G"), GIB),
        (Settings(shm="2G"), 2 * GIB),
        (Settings(shm=4096, memory="1G"), 4096),
        (Settings(shm="1G", memory="1G"), GIB),
    ],
)
@pytest.mark.usefixtures("host")
def test_shared_memory_is_the_hosts_unless_it_is_set(settings: Settings, size: int) -> None:
    """The default fits into a limit on memory."""
    assert limits.shm(settings) == size


@pytest.mark.parametrize(
    "settings",
    [Settings(shm="2G", memory="1G"), Settings(shm="lots"), Settings(shm=0), Settings(shm=-1),
     Settings(shm="-1M"), Settings(shm=2**63)],
)  # fmt: skip
@pytest.mark.usefixtures("host")
def test_a_size_that_cannot_be_is_a_usage_error(settings: Settings) -> None:
    """The limit on memory holds all of /dev/shm."""
    with pytest.raises(UsageError, match=r"shm=|is not a size"):
        limits.shm(settings)


@pytest.mark.parametrize("blocks", [0, None])
def test_a_host_without_a_size_gives_dockers(
    monkeypatch: pytest.MonkeyPatch, blocks: int | None
) -> None:
    """The host may have no /dev/shm, one without a bound, or one that is a plain folder."""

    def found(_path: str) -> SimpleNamespace:
        if blocks is None:
            raise FileNotFoundError
        return SimpleNamespace(f_blocks=blocks, f_frsize=4096)

    monkeypatch.setattr(os, "statvfs", found)
    assert limits.shm(Settings()) == 64 << 20
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=9**9, f_frsize=4096))
    monkeypatch.setattr(os.path, "ismount", lambda _: False)
    assert limits.shm(Settings()) == 64 << 20


@pytest.mark.parametrize(
    ("hosts", "found"),
    [
        ((1024, 4096), (1024, 4096)),
        ((10, 20), (64, 64)),
        ((1024, resource.RLIM_INFINITY), (1024, 2**20)),
        ((2**31, 2**31), (2**30, 2**30)),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (2**20, 2**20)),
    ],
)
def test_open_files_are_limited_as_on_the_host(
    monkeypatch: pytest.MonkeyPatch, hosts: tuple[int, int], found: tuple[int, int]
) -> None:
    """A process can always open what a Python with pytest needs."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: hosts)
    assert limits.nofile() == found


@pytest.fixture
def meminfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A host with 4 GiB, and its file."""
    path = tmp_path / "host"
    path.write_text("MemTotal:        4194304 kB\nMemFree:          123456 kB\n")
    monkeypatch.setattr(limits, "_MEMINFO", str(path))
    return path


def test_the_limit_takes_the_place_of_the_total(meminfo: Path, tmp_path: Path) -> None:
    """All other lines are the host's, and nobody can write to the file."""
    made = tmp_path / "meminfo"
    assert limits.total_memory(256 << 20, str(tmp_path)) == [Source(str(made), str(meminfo))]
    assert made.read_text() == "MemTotal:         262144 kB\nMemFree:          123456 kB\n"
    assert made.stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("limit", [4 << 30, 8 << 30])
@pytest.mark.usefixtures("meminfo")
def test_no_sandbox_is_shown_more_than_the_host_has(tmp_path: Path, limit: int) -> None:
    """A limit of the host's memory or more changes nothing."""
    assert limits.total_memory(limit, str(tmp_path)) == []
    assert os.listdir(tmp_path) == ["host"]


def test_a_file_that_cannot_be_made_is_a_typed_error(meminfo: Path, tmp_path: Path) -> None:
    """A host without the file, and a run without a folder, cannot show a limit."""
    for folder, name in ((tmp_path / "none", "host"), (tmp_path, "gone")):
        (tmp_path / "host").rename(tmp_path / name)
        with pytest.raises(LaunchError) as caught:
            limits.total_memory(1 << 20, str(folder))
        assert caught.value.stage == "memory"


@pytest.mark.parametrize(
    ("limit", "platform", "needed"),
    [
        (15, Platform.SYSTRAP, 40),
        (15, Platform.PTRACE, 50),
        (15, Platform("slimvm"), 50),
        (None, Platform.KVM, 40),
        (40, Platform.SYSTRAP, 80),
        (100, Platform.PTRACE, 200),
    ],
)
def test_a_limit_that_was_too_few_is_not_asked_for(
    limit: int | None, platform: Platform, needed: int
) -> None:
    """An error names the measured number, or twice the limit where that number was too few."""
    error = limits.too_few_tasks(limit, platform)
    assert f"pids={limit} is too few" in str(error)
    assert f"needs pids={needed} here" in str(error)
