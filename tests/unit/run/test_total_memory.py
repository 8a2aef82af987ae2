"""The total memory that runsc is shown for a limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_gvisor.errors import LaunchError
from pytest_gvisor.run import total_memory


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A host with 4 GiB, and its file."""
    path = tmp_path / "host"
    path.write_text("MemTotal:        4194304 kB\nMemFree:          123456 kB\n")
    monkeypatch.setattr(total_memory, "_MEMINFO", str(path))
    return path


def test_the_limit_takes_the_place_of_the_total(host: Path, tmp_path: Path) -> None:
    """All other lines are the host's, and nobody can write to the file."""
    made = tmp_path / "meminfo"
    assert total_memory.shown(256 << 20, str(tmp_path)) == [(str(made), str(host))]
    assert made.read_text() == "MemTotal:         262144 kB\nMemFree:          123456 kB\n"
    assert made.stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("limit", [4 << 30, 8 << 30])
@pytest.mark.usefixtures("host")
def test_no_sandbox_is_shown_more_than_the_host_has(tmp_path: Path, limit: int) -> None:
    """A limit of the host's memory or more changes nothing."""
    assert total_memory.shown(limit, str(tmp_path)) == []
    assert os.listdir(tmp_path) == ["host"]


def test_a_file_that_cannot_be_made_is_a_typed_error(host: Path, tmp_path: Path) -> None:
    """A host without the file, and a run without a folder, cannot show a limit."""
    for folder, name in ((tmp_path / "none", "host"), (tmp_path, "gone")):
        (tmp_path / "host").rename(tmp_path / name)
        with pytest.raises(LaunchError) as caught:
            total_memory.shown(1 << 20, str(folder))
        assert caught.value.stage == "memory"
