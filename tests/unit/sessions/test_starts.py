"""Slots for starts: shared by threads and processes, given back at any end, waited for in time."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pytest_gvisor.base.errors import LaunchError
from pytest_gvisor.sessions import starts
from pytest_gvisor.sessions.starts import PER_PROCESSOR, Starts
from tests.forks import a_fork

HOLDER = """
import os, sys, time
from pytest_gvisor.sessions.starts import PER_PROCESSOR, Starts
os.sched_getaffinity = lambda _pid: {0}
held = [Starts().slot(sys.argv[1]) for _ in range(PER_PROCESSOR)]
for slot in held:
    slot.__enter__()
print("holds", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process counts one processor here."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0} if pid == 0 else {})


@pytest.fixture
def full(base: str) -> Iterator[contextlib.ExitStack]:
    """Another process's slots, of which none is free; closed, all of them are."""
    with contextlib.ExitStack() as held:
        for _ in range(PER_PROCESSOR):
            held.enter_context(Starts().slot(base))
        yield held


def waited(base: str, stop: int | None = None) -> float:
    """The seconds that a start of another process waits, by its own figure."""
    with Starts().slot(base, stop) as seconds:
        return seconds


def later(act: Callable[[], object]) -> threading.Timer:
    """Do something in a second, long after this thread has begun to wait."""
    timer = threading.Timer(1.0, act)
    timer.start()
    return timer


def test_a_free_slot_is_taken_at_once(base: str) -> None:
    """This holds for as many as there are slots; no descriptor stays open."""
    before = set(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as held:
        for _ in range(PER_PROCESSOR):
            assert held.enter_context(Starts().slot(base)) < starts.PATIENCE / 2
    assert set(os.listdir("/proc/self/fd")) == before


def test_one_more_waits_until_another_process_gives_its_back(
    base: str, full: contextlib.ExitStack
) -> None:
    """The block gets the seconds of the wait."""
    timer = later(full.close)
    assert 0.2 < waited(base) < starts.PATIENCE / 2
    timer.join()


def test_one_more_thread_waits_too(base: str) -> None:
    """Threads of one process never hold more slots than there are."""
    shared, now, most = Starts(), 0, 0
    guard, full = threading.Lock(), threading.Event()

    def start() -> None:
        nonlocal now, most
        with shared.slot(base):
            with guard:
                now += 1
                most = max(most, now)
                if now == PER_PROCESSOR:
                    full.set()
            full.wait(starts.PATIENCE)
            time.sleep(0.02)
            with guard:
                now -= 1

    threads = [threading.Thread(target=start) for _ in range(4 * PER_PROCESSOR)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == PER_PROCESSOR


def test_a_killed_process_gives_its_slots_back(base: str) -> None:
    """The kernel does it."""
    command = [sys.executable, "-c", HOLDER, base]
    holder = subprocess.Popen(
        command, stdout=subprocess.PIPE, env={"PYTHONPATH": ":".join(sys.path)}
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holds\n"
        timer = later(holder.kill)
        assert 0.2 < waited(base) < starts.PATIENCE / 2
        timer.join()


def test_a_fork_keeps_no_slot(base: str) -> None:
    """Not even one that outlives the start: a test's own worker process."""
    with contextlib.ExitStack() as forks:
        with contextlib.ExitStack() as held:
            for _ in range(PER_PROCESSOR):
                held.enter_context(Starts().slot(base))
            forks.enter_context(a_fork())
        assert waited(base) < starts.PATIENCE / 2


@pytest.mark.usefixtures("full")
def test_a_start_goes_on_when_no_slot_comes_free(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process of the same user holds nobody up for longer; threads wait no longer."""
    monkeypatch.setattr(starts, "PATIENCE", 0.3)
    shared, found = Starts(), []
    together = threading.Barrier(2 * PER_PROCESSOR)

    def start() -> None:
        with shared.slot(base) as seconds:
            found.append(seconds)
            together.wait(60)

    threads = [threading.Thread(target=start) for _ in range(2 * PER_PROCESSOR)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(threads)
    assert all(seconds > 0.2 for seconds in found), found
    assert not together.broken


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("at", ["the files", "the gate"])
def test_a_wait_ends_when_the_run_is_cancelled(base: str, at: str) -> None:
    """At once, and long before the patience is over."""
    shared, stop = Starts(), os.eventfd(0)
    with contextlib.ExitStack() as held:
        if at == "the gate":
            for _ in range(PER_PROCESSOR):
                shared._gate.acquire()
                held.callback(shared._gate.release)
        timer = later(lambda: os.eventfd_write(stop, 1))
        with shared.slot(base, stop) as seconds:
            assert 0.2 < seconds < 10
        timer.join()
    os.close(stop)


def test_a_folder_that_is_gone_is_a_typed_error(base: str) -> None:
    """A second try fails alike: nothing is kept of a failed one."""
    shared = Starts()
    for _ in range(2 * PER_PROCESSOR):
        with pytest.raises(LaunchError, match="slot") as caught, shared.slot(f"{base}/missing"):
            pass
        assert caught.value.stage == "starts"


def test_two_starts_of_each_processor_go_at_once() -> None:
    """The page on parallel runs says so."""
    assert PER_PROCESSOR == 2
