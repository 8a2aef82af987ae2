"""The processor time of a sandbox is divided by the processes of a tree like runsc's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

import pytest

from benchmarks import processor, table
from benchmarks.processor import Sampler, Spent, Times
from pytest_gvisor.programs import proc
from tests.faults.little import eventually

WORDS = ("run", "boot", "stub")
# Each is the child of the one before it, and has its word in its command line. Asked by a line, the
# last one computes for so many seconds.
TREE = """
import os, sys, time
words = sys.argv[2].split(",")
if len(words) > 1 and os.fork() == 0:
    words = words[1:]
    code = sys.argv[1]
    os.execv(sys.executable, [sys.executable, "-c", code, code, ",".join(words), words[0]])
if len(words) > 1:
    os.wait()
else:
    print("up", flush=True)
    for line in sys.stdin:
        while time.process_time() < float(line):
            pass
        print("done", flush=True)
"""


@pytest.fixture
def tree() -> Iterator[tuple[IO[str], IO[str]]]:
    """The standard input and output of the last process of the tree."""
    command = [sys.executable, "-c", TREE, TREE, ",".join(WORDS), WORDS[0]]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process.stdin, process.stdout
        process.stdin.close()


def compute(tree: tuple[IO[str], IO[str]], seconds: float) -> None:
    """Let the last process use so many seconds of processor time since its start."""
    stdin, stdout = tree
    print(seconds, file=stdin, flush=True)
    assert stdout.readline() == "done\n"


def test_the_time_below_a_sentry_is_the_workloads(tree: tuple[IO[str], IO[str]]) -> None:
    """Neither the sentry nor runsc has done anything, and what came before does not count."""
    compute(tree, 0.3)
    with Sampler() as sampler:
        compute(tree, 0.6)
    assert sum(sampler.spent("sentry")) + sum(sampler.spent("rest")) < 0.1
    assert 0.1 < sum(sampler.spent("stub")) < 0.45


def test_a_sentry_that_has_ended_is_a_sentry_still() -> None:
    """A zombie has no command line, and until its parent waits it is one."""
    program = "sh -c 'kill -STOP $$' boot & echo $!; read x"
    with (
        Sampler() as sampler,
        subprocess.Popen(
            ["sh", "-c", program, "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as runsc,
    ):
        assert runsc.stdout is not None
        sentry = int(runsc.stdout.readline())
        assert eventually(lambda: sampler._parts.get(sentry) == "sentry") is not None
        os.kill(sentry, signal.SIGKILL)
        assert eventually(lambda: proc.words_of(sentry) == []) is not None
        sampler._look()
        assert sampler._parts[sentry] == "sentry"
        runsc.communicate("\n")


def test_a_row_has_all_parts_and_their_sum() -> None:
    """Work on the host has no sentry."""
    host = Spent(row="processor", work="w", where="host", wall=2, workload=Times(1, 0.5))
    inside = Spent(
        row="processor", work="w", where="inside", wall=4, workload=Times(1, 0.5),
        sentry=Times(1, 0.25), rest=Times(0.25, 0),
    )  # fmt: skip
    first, second = table.of_processor([host, inside]).rows
    assert first[3:] == ("2.00 s", "1.50 s", "1.00 s", "500.0 ms", "-", "-", "-")
    assert second[3:] == (
        "4.00 s", "3.00 s", "1.00 s", "500.0 ms", "1.00 s", "250.0 ms", "250.0 ms",
    )  # fmt: skip


def test_the_times_of_this_process_are_read() -> None:
    """The kernel's count of this process is that of times(2)."""
    before = os.times()
    read = processor._times(os.getpid())
    assert before.user - 0.05 <= read.code <= os.times().user + 0.05
