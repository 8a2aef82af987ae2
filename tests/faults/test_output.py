"""Floods of output, scripted and of the real runsc: this process stays as small as it was."""

import gc
import os
import re
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor
from pytest_gvisor.base.completed import Outcome
from pytest_gvisor.base.setting_table import DEFAULT_MAX_OUTPUT
from tests.fakes.fake import FINE, FakeRunsc
from tests.fakes.runs import Runs

MIB = 1024 * 1024
FLOOD = int(os.environ.get("TESTS_FLOOD_MIB", "64"))
"""How much comes out of the real runsc, in MiB."""
KEPT = 1 * MIB


def peak() -> int:
    """The peak memory of this process since `reset`, in bytes."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def reset() -> None:
    """Reset the kernel's peak to the present size of this process."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


POUR = """
import os, sys
streams, block = [int(fd) for fd in sys.argv[2:]], memoryview(b"." * 65536)
for fd in streams:
    os.write(fd, b"ab"[fd - 1 : fd])
for _ in range(int(sys.argv[1]) * 16):
    for fd in streams:
        rest = block
        while rest:
            rest = rest[os.write(fd, rest):]
"""


@pytest.mark.fault("E5")
@pytest.mark.parametrize("streams", [[1], [2], [1, 2]], ids=["stdout", "stderr", "both"])
def test_a_workload_s_flood_is_counted_and_not_held(gvisor: Gvisor, streams: list[int]) -> None:
    """The flood is counted and not kept, although the real sentry writes to the pipes itself."""
    gvisor.run(["true"])
    argv = ["python3", "-S", "-c", POUR, str(FLOOD), *map(str, streams)]
    reset()
    before = peak()
    done = gvisor.run(argv, timeout=300, max_output=KEPT)
    assert peak() - before <= 16 * MIB
    assert (done.returncode, done.truncated) == (0, True)
    totals = (done.stdout_total, done.stderr_total)
    kept = (done.stdout_bytes, done.stderr_bytes)
    for fd, first in ((1, b"a"), (2, b"b")):
        if fd in streams:
            assert totals[fd - 1] == FLOOD * MIB + 1
            assert kept[fd - 1] == first + b"." * (KEPT - 1)
        else:
            assert (totals[fd - 1], kept[fd - 1]) == (0, b"")


@pytest.mark.fault("E5")
@pytest.mark.parametrize("streams", [[1], [1, 2]], ids=["one", "both"])
def test_what_is_kept_by_default_is_in_memory_twice_at_most(
    runs: Runs, fake: FakeRunsc, streams: list[int]
) -> None:
    """Each long stream takes twice its limit at most: as it arrives, and in the `Completed`."""
    fake.script(*FINE, ["pour", streams, 96], ["task_exit", 0], ["exit", 0])
    runs.launcher.keeper()
    reset()
    before = peak()
    completed = runs(timeout=300.0).completed
    assert completed is not None
    assert (len(completed.stdout_bytes), completed.stdout_total) == (DEFAULT_MAX_OUTPUT, 96 * MIB)
    assert peak() - before <= 2 * DEFAULT_MAX_OUTPUT * len(streams) + 8 * MIB


@pytest.mark.fault("E4", "E5")
def test_a_runsc_that_dies_in_a_flood_is_no_verdict(runs: Runs, fake: FakeRunsc) -> None:
    """The error has the output up to the death, counted."""
    fake.script(*FINE, ["pour", [1, 2], 8], ["signal", 9])
    ended = runs(max_output=KEPT)
    assert ended.completed is None
    assert ended.outcome is Outcome.RUNSC_FAILED
    told = ended.record.completed
    assert told is not None
    assert (told.stdout_total, told.stderr_total) == (8 * MIB, 8 * MIB)
    assert runs.left() == []
