"""Limits of sandboxes that follow the host's."""

from __future__ import annotations

import os
import resource
from types import SimpleNamespace

import pytest

from pytest_gvisor.errors import UsageError
from pytest_gvisor.run import following
from pytest_gvisor.settings import Settings

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
    assert following.shm(settings) == size


@pytest.mark.parametrize(
    "settings",
    [Settings(shm="2G", memory="1G"), Settings(shm="lots"), Settings(shm=0), Settings(shm=-1),
     Settings(shm="-1M"), Settings(shm=2**63)],
)  # fmt: skip
@pytest.mark.usefixtures("host")
def test_a_size_that_cannot_be_is_a_usage_error(settings: Settings) -> None:
    """The limit on memory holds all of /dev/shm."""
    with pytest.raises(UsageError, match=r"shm=|is not a size"):
        following.shm(settings)


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
    assert following.shm(Settings()) == 64 << 20
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=9**9, f_frsize=4096))
    monkeypatch.setattr(os.path, "ismount", lambda _: False)
    assert following.shm(Settings()) == 64 << 20


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ((1024, 4096), (1024, 4096)),
        ((10, 20), (64, 64)),
        ((1024, resource.RLIM_INFINITY), (1024, 2**20)),
        ((2**31, 2**31), (2**30, 2**30)),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (2**20, 2**20)),
    ],
)
def test_open_files_are_limited_as_on_the_host(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], found: tuple[int, int]
) -> None:
    """A process can always open what a Python with pytest needs."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    assert following.nofile(Settings()) == found
    assert following.nofile(Settings(nofile=100)) == (100, 100)
