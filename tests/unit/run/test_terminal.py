"""A run at a terminal, seen from the screen."""

import os
import threading
import time
from pathlib import Path

import pytest

from pytest_gvisor.base.completed import Outcome
from pytest_gvisor.run import supervisor, terminal
from pytest_gvisor.run.request import Record
from tests.fakes.fake import FINE, FakeRunsc
from tests.fakes.runs import Runs

# A pseudo-terminal holds 14 to 20 kB: this is less than two of them hold.
MORE_THAN_A_SCREEN_TAKES = 22_000


def test_output_comes_whole_to_a_screen_that_is_slow_at_the_end(
    runs: Runs, fake: FakeRunsc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workload has ended while its output waits for the user's terminal, byte for byte."""
    monkeypatch.setattr(supervisor, "LINGER", 0.1)
    about_to_end = tmp_path / "about to end"
    fake.script(
        *FINE, ["write", 1, "x", MORE_THAN_A_SCREEN_TAKES], ["note", str(about_to_end)],
        ["task_exit", 0], ["exit", 0],
    )  # fmt: skip
    ours, theirs = os.openpty()
    seen = bytearray()

    def look() -> None:
        deadline = time.monotonic() + 60
        while not about_to_end.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)
        while not seen.endswith(b"."):
            seen.extend(os.read(ours, 65536))

    user = threading.Thread(target=look)
    user.start()
    with terminal.raw(theirs, theirs) as screen:
        completed = terminal.run(runs.request(), runs.launcher, Record(), screen)
    os.write(theirs, b".")  # behind all that has come
    user.join()
    for fd in (ours, theirs):
        os.close(fd)
    assert completed.outcome is Outcome.EXITED
    assert len(seen) - 1 == completed.stdout_total == MORE_THAN_A_SCREEN_TAKES
