"""Many sandboxes at once: nothing is lost or mixed up, and no deadline lies."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_gvisor import Completed, Gvisor, WorkloadTimeout
from pytest_gvisor.sessions.starts import Starts


def at_once(number: int, act: Callable[[str], str]) -> list[str]:
    """The results of calls in threads that begin together, each with a text of its own."""
    together = threading.Barrier(number)

    def one(text: str) -> str:
        together.wait()
        return act(text)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, map(str, range(number))))


@contextlib.contextmanager
def nothing_left(gvisor: Gvisor) -> Iterator[None]:
    """Check that the block leaves no folder of a run and no descriptor."""
    gvisor.run(["true"])
    session = Path(gvisor._launcher.session().path)

    def count() -> tuple[int, int]:
        return len(list(session.glob("g*"))), len(os.listdir("/proc/self/fd"))

    before = count()
    yield
    assert count() == before


@pytest.mark.parametrize("number", [16, 64])
def test_many_runs_at_once(gvisor: Gvisor, number: int) -> None:
    """Each has its own output and status, and nothing of them is left."""

    def run(text: str) -> str:
        done = gvisor.run(["sh", "-c", f"echo {text}; exit {text}"])
        assert done.returncode == int(text)
        assert done.leaks == ()
        return done.stdout

    with nothing_left(gvisor):
        assert at_once(number, run) == [f"{text}\n" for text in range(number)]


@pytest.mark.parametrize("number", [8, 32])
def test_many_warm_sandboxes_at_once(gvisor: Gvisor, number: int) -> None:
    """The same of warm ones: all are open before the first one is closed."""
    open_all = threading.Barrier(number, timeout=300)

    def use(text: str) -> str:
        with gvisor.sandbox() as sandbox:
            open_all.wait()
            return sandbox.exec(["echo", text]).stdout

    with nothing_left(gvisor):
        assert at_once(number, use) == [f"{text}\n" for text in range(number)]


def test_a_deadline_begins_when_there_is_a_slot_to_start(gvisor: Gvisor) -> None:
    """While as many start as the machine can, one more waits, and `waited` has the seconds."""
    base = os.path.dirname(gvisor._launcher.session().path)
    gvisor.run(["true"])

    def run_beside(timeout: float) -> Completed:
        with contextlib.ExitStack() as full:
            others = Starts()
            for _ in range(others._count):
                full.enter_context(others.slot(base))
            # Until the run asks for a slot, a busy machine may take seconds.
            timer = threading.Timer(timeout + 5, full.close)
            timer.start()
            try:
                return gvisor.run(["true"], timeout=timeout)
            finally:
                timer.join()

    timeout = 3.5
    try:
        done = run_beside(timeout)
    except WorkloadTimeout:  # a busy machine may take longer for the run itself
        timeout = 35.0
        done = run_beside(timeout)
    assert done.returncode == 0
    assert timeout < done.waited < done.duration
