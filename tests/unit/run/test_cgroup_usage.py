"""The figures of a sandbox, from the files of either version of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_gvisor import Usage
from pytest_gvisor.run.cgroup import measured


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {
                "memory": {"memory.peak": "5000\n"},
                "pids": {"pids.peak": "12\n"},
                "cpu": {"cpu.stat": "usage_usec 2500000\nuser_usec 1\nsystem_usec 2\n"},
            },
            Usage(
                cpu_time=2.5, cpu_time_source="cpu.stat", peak_memory=5000,
                peak_memory_source="memory.peak", peak_tasks=12, peak_tasks_source="pids.peak",
            ),
        ),
        (
            {
                "memory": {"memory.max_usage_in_bytes": "7\n"},
                "cpu": {"cpu.stat": "nr_periods 5\nnr_throttled 0\nthrottled_time 0\n"},
                "cpuacct": {"cpuacct.usage": "1500000000\n"},
            },
            Usage(
                cpu_time=1.5, cpu_time_source="cpuacct.usage", peak_memory=7,
                peak_memory_source="memory.max_usage_in_bytes",
            ),
        ),
        ({"memory": {"memory.peak": "max\n"}, "pids": {"pids.peak": ""}}, Usage()),
        ({"memory": {}}, Usage()),
        ({}, Usage()),
    ],
    ids=["version 2", "version 1", "no numbers", "no files", "no cgroup"],
)  # fmt: skip
def test_each_figure_has_its_source_or_is_none(
    tmp_path: Path, files: dict[str, dict[str, str]], expected: Usage
) -> None:
    """A figure is of the file that its source names; what no file has is None."""
    for controller, content in files.items():
        (tmp_path / controller).mkdir()
        for name, text in content.items():
            (tmp_path / controller / name).write_text(text)
    assert measured({name: str(tmp_path / name) for name in files}) == expected
